package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"syscall"
)

// SOCKS5's numbers (RFC 1928, RFC 1929).
const (
	version5    = 5
	authVersion = 1

	methodNone     = 0x00
	methodPassword = 0x02
	methodRefused  = 0xff

	commandConnect   = 1
	commandAssociate = 3

	addressIPv4 = 1
	addressName = 3
	addressIPv6 = 4
)

// reply is what a request is answered with (RFC 1928, section 6).
type reply byte

const (
	replyDone        reply = 0
	replyFailed      reply = 1
	replyNotAllowed  reply = 2
	replyNoNetwork   reply = 3
	replyNoHost      reply = 4
	replyRefused     reply = 5
	replyExpired     reply = 6
	replyNoCommand   reply = 7
	replyNoAddresses reply = 8
)

// replyTo finds the word for an error.
func replyTo(err error) reply {
	switch {
	case err == nil:
		return replyDone
	case errors.Is(err, ErrOutside), errors.Is(err, ErrPolicy):
		return replyNotAllowed
	case errors.Is(err, ErrUnknown), errors.Is(err, syscall.EHOSTUNREACH):
		return replyNoHost
	case errors.Is(err, ErrDown), errors.Is(err, syscall.ENETUNREACH):
		return replyNoNetwork
	case errors.Is(err, syscall.ECONNREFUSED):
		return replyRefused
	case isTimeout(err):
		return replyExpired
	}
	return replyFailed
}

func isTimeout(err error) bool {
	return errors.Is(err, errNoAnswer) || errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

var errMalformed = errors.New("not SOCKS5")

// methods reads what a client offers for authentication.
func readMethods(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if head[0] != version5 || head[1] == 0 {
		return nil, fmt.Errorf("%w: version %d, %d methods", errMalformed, head[0], head[1])
	}
	list := make([]byte, head[1])
	_, err := io.ReadFull(r, list)
	return list, err
}

// readPassword reads RFC 1929's request.
func readPassword(r io.Reader) (user, password string, err error) {
	var v [1]byte
	if _, err := io.ReadFull(r, v[:]); err != nil {
		return "", "", err
	}
	if v[0] != authVersion {
		return "", "", fmt.Errorf("%w: version %d of password authentication", errMalformed, v[0])
	}
	if user, err = readShort(r); err != nil {
		return "", "", err
	}
	password, err = readShort(r)
	return user, password, err
}

// readShort reads a text behind its length in a byte.
func readShort(r io.Reader) (string, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", err
	}
	b := make([]byte, n[0])
	_, err := io.ReadFull(r, b)
	return string(b), err
}

// target is a host, by name or address, and a port.
type target struct {
	host string
	port uint16
}

// request is what a client wants.
type request struct {
	command byte
	target
}

// errAddressType says that the kind of address is none that is known.
var errAddressType = fmt.Errorf("%w: unknown type of address", errMalformed)

// readRequest reads a request.
func readRequest(r io.Reader) (q request, err error) {
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return q, err
	}
	if head[0] != version5 {
		return q, fmt.Errorf("%w: version %d", errMalformed, head[0])
	}
	q.command = head[1]
	q.target, err = readTarget(r)
	return q, err
}

// readTarget reads type, address and port.
func readTarget(r io.Reader) (t target, err error) {
	var kind [1]byte
	if _, err := io.ReadFull(r, kind[:]); err != nil {
		return t, err
	}
	switch kind[0] {
	case addressIPv4:
		var b [4]byte
		_, err = io.ReadFull(r, b[:])
		t.host = netip.AddrFrom4(b).String()
	case addressIPv6:
		var b [16]byte
		_, err = io.ReadFull(r, b[:])
		t.host = netip.AddrFrom16(b).Unmap().String()
	case addressName:
		if t.host, err = readShort(r); err == nil && t.host == "" {
			err = fmt.Errorf("%w: an empty name", errMalformed)
		}
	default:
		err = errAddressType
	}
	if err != nil {
		return target{}, err
	}
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return target{}, err
	}
	t.port = uint16(port[0])<<8 | uint16(port[1])
	return t, nil
}

// appendAddress is what readTarget reads, of an address.
func appendAddress(b []byte, at netip.AddrPort) []byte {
	kind := byte(addressIPv4)
	if at.Addr().Is6() {
		kind = addressIPv6
	}
	b = append(append(b, kind), at.Addr().AsSlice()...)
	return append(b, byte(at.Port()>>8), byte(at.Port()))
}

// appendReply is the answer to a request. at is the address that the server uses for it; where there is none, all zeros.
func appendReply(b []byte, r reply, at netip.AddrPort) []byte {
	if !at.IsValid() {
		at = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return appendAddress(append(b, version5, byte(r), 0), netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
}
