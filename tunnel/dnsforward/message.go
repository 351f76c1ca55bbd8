package dnsforward

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/net/dns/dnsmessage"
)

// A message's header (RFC 1035, section 4.1.1).
const (
	headerLength = 12
	flagsAt      = 2

	flagResponse  = 1 << 15
	flagTruncated = 1 << 9
	flagRecursion = 1 << 8 // desired
	flagAvailable = 1 << 7 // recursion available
	maskOpcode    = 0xf << 11
	maskCode      = 0xf
)

// plainDatagram is the longest answer in a datagram to who does not say what else is fine, in bytes; longestDatagram that to anybody.
const plainDatagram, longestDatagram = 512, 4096

// question is what is looked at of a client's message.
type question struct {
	raw []byte // the message
	end int    // of its only question
	// longest is the answer, in bytes, that the client takes in a datagram.
	longest int
}

var (
	errNoQuestion = errors.New("no question")
	errMalformed  = errors.New("malformed")
)

// parse reads a message. The error is errNoQuestion if nothing must be answered, errMalformed if that is the answer.
func parse(b []byte) (q question, err error) {
	if len(b) < headerLength || binary.BigEndian.Uint16(b[flagsAt:])&flagResponse != 0 {
		return q, errNoQuestion
	}
	q = question{raw: b, longest: plainDatagram}
	if q.end, err = endOfQuestion(b); err != nil {
		return q, errMalformed
	}
	if len(b) > maxQuestion {
		return q, errMalformed
	}
	var p dnsmessage.Parser
	if _, err = p.Start(b); err == nil {
		err = errors.Join(p.SkipAllQuestions(), p.SkipAllAnswers(), p.SkipAllAuthorities())
	}
	for err == nil {
		var h dnsmessage.ResourceHeader
		if h, err = p.AdditionalHeader(); err != nil {
			break
		}
		if h.Type == dnsmessage.TypeOPT {
			q.longest = min(max(q.longest, int(h.Class)), longestDatagram)
		}
		err = p.SkipAdditional()
	}
	if !errors.Is(err, dnsmessage.ErrSectionDone) {
		return q, errMalformed
	}
	return q, nil
}

// endOfQuestion is where the only question of a message ends. Its name is never compressed: there is nothing before it.
func endOfQuestion(b []byte) (int, error) {
	if len(b) < headerLength || binary.BigEndian.Uint16(b[4:]) != 1 {
		return 0, errMalformed
	}
	for at := headerLength; at < len(b) && at < headerLength+255; {
		label := int(b[at])
		switch {
		case label == 0:
			if at += 1 + 4; at <= len(b) {
				return at, nil
			}
			return 0, errMalformed
		case label > 63:
			return 0, errMalformed
		}
		at += 1 + label
	}
	return 0, errMalformed
}

func (q question) id() uint16 { return binary.BigEndian.Uint16(q.raw) }

func (q question) kind() dnsmessage.Type {
	return dnsmessage.Type(binary.BigEndian.Uint16(q.raw[q.end-4:]))
}

func (q question) opcode() uint16 { return binary.BigEndian.Uint16(q.raw[flagsAt:]) & maskOpcode }

// Types of zone transfers, which have answers of many messages.
const typeIXFR, typeAXFR dnsmessage.Type = 251, 252

// forwardable says what to answer instead of asking a resolver, or success.
func (q question) forwardable() dnsmessage.RCode {
	switch {
	case q.opcode() != 0: // no standard query, such as an update
		return dnsmessage.RCodeNotImplemented
	case q.kind() == typeIXFR || q.kind() == typeAXFR:
		return dnsmessage.RCodeRefused
	}
	return dnsmessage.RCodeSuccess
}

// with is the question under another identifier.
func (q question) with(id uint16) []byte {
	b := bytes.Clone(q.raw)
	binary.BigEndian.PutUint16(b, id)
	return b
}

// answeredBy reports whether b is an answer to the question as it was asked under id.
func (q question) answeredBy(b []byte, id uint16) bool {
	if len(b) < headerLength || binary.BigEndian.Uint16(b) != id || binary.BigEndian.Uint16(b[flagsAt:])&flagResponse == 0 {
		return false
	}
	if binary.BigEndian.Uint16(b[4:]) == 0 { // some leave it out of errors
		return code(b) != dnsmessage.RCodeSuccess
	}
	end, err := endOfQuestion(b)
	return err == nil && bytes.EqualFold(b[headerLength:end], q.raw[headerLength:q.end])
}

func code(answer []byte) dnsmessage.RCode {
	return dnsmessage.RCode(binary.BigEndian.Uint16(answer[flagsAt:]) & maskCode)
}

// reply is an answer of our own: an error, or that the true one has to be asked for over TCP.
func (q question) reply(c dnsmessage.RCode, truncated bool) []byte {
	b := bytes.Clone(q.raw[:max(q.end, headerLength)])
	flags := binary.BigEndian.Uint16(b[flagsAt:])&(maskOpcode|flagRecursion) | flagResponse | flagAvailable | uint16(c)
	if truncated {
		flags |= flagTruncated
	}
	binary.BigEndian.PutUint16(b[flagsAt:], flags)
	copy(b[4:headerLength], make([]byte, headerLength-4))
	if q.end > 0 {
		b[5] = 1 // one question, as asked
	}
	return b
}
