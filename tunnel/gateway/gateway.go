// Package gateway holds the words that devices and gateways exchange inside the tunnel, and what else is common to its two pure cores:
//
//   - choose: a device's choice of one gateway for each CIDR, by what the data path says. It sends Pings and hears Reports.
//   - carry: a gateway's knowledge of the networks behind it, and of who uses it. It hears Pings and sends Reports.
//
// A device that carries CIDRs itself has both. Append makes the bytes of a word, Parse reads them: one byte of version, then a protobuf GatewayWord.
// They travel between the two devices' own addresses as packets of IP protocol 253 (RFC 3692), so that whoever sent them is known to be a peer.
//
// A ping says which gateway the device uses for the CIDRs that the receiver carries. The report that answers says how the gateway reaches those
// same CIDRs, and no others, so that nobody learns of CIDRs that it does not know already. When that changes, a report is sent unasked, and again
// until a ping says that it was heard.
//
// Words may be late, doubled or lost. Each bears a Stamp: a number drawn when the sender started, and a count. What a word says of a CIDR counts only if
// nothing newer was said of it. A start that another has followed never counts again. See Fresh.
package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

const (
	version = 1
	// MaxSize is the longest word in bytes. It fits into the smallest packet that IPv6 lets a link carry.
	MaxSize = 1200
	// MaxPrefixes bounds the CIDRs in one word. Who has more to say says it in several.
	MaxPrefixes = 16
	maxUses     = MaxPrefixes
)

// ErrFormat says that something is no word that this version reads.
var ErrFormat = errors.New("not a word of gateways")

// ID names a device: its device key, raw. Zero is none.
type ID = [key.Size]byte

// Health is how a gateway reaches a network behind it.
type Health uint8

// The states. What is not known is not held against a gateway.
const (
	Unknown Health = iota
	Working
	Failing
)

// String is as in the JSON of status.
func (h Health) String() string {
	switch h {
	case Working:
		return "working"
	case Failing:
		return "failing"
	}
	return "unknown"
}

// Stamp orders the words of one sender. Zero is none.
type Stamp struct{ Start, Sequence uint64 }

// Word is a Ping or a Report.
type Word interface{ message() *pb.GatewayWord }

// Use says which gateway a device uses for a CIDR.
type Use struct {
	Prefix  netip.Prefix
	Gateway ID // zero: none
	// Active says that packets for it were sent lately.
	Active bool
}

// Ping is a device's word to a gateway.
type Ping struct {
	Stamp
	// Heard is the newest report of this gateway.
	Heard Stamp
	Uses  []Use // at most MaxPrefixes
}

// Told is what a gateway says of one CIDR.
type Told struct {
	Prefix netip.Prefix
	Health Health
}

// Report is a gateway's word to a device.
type Report struct {
	Stamp
	// Answers is the ping that was asked; zero in a report that nobody has asked for.
	Answers Stamp
	Health  []Told // at most MaxPrefixes
}

// Append adds the bytes of a word to b.
func Append(b []byte, w Word) ([]byte, error) {
	start := len(b)
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(append(b, version), w.message())
	if err != nil {
		return nil, fmt.Errorf("encoding a word of gateways: %w", err)
	}
	if n := len(b) - start; n > MaxSize {
		return nil, fmt.Errorf("a word of gateways has %d bytes, more than %d", n, MaxSize)
	}
	return b, nil
}

func (p Ping) message() *pb.GatewayWord {
	m := &pb.GatewayPing{Start: p.Start, Sequence: p.Sequence, HeardStart: p.Heard.Start, HeardSequence: p.Heard.Sequence}
	// CIDRs of the same gateway share its key.
	type group struct {
		gateway ID
		active  bool
	}
	at := map[group]*pb.GatewayUse{}
	for _, u := range p.Uses {
		g := group{u.Gateway, u.Active}
		use := at[g]
		if use == nil {
			use = &pb.GatewayUse{Active: u.Active}
			if u.Gateway != (ID{}) {
				use.Gateway = u.Gateway[:]
			}
			at[g] = use
			m.Uses = append(m.Uses, use)
		}
		use.Prefixes = append(use.Prefixes, record.PrefixesToProto([]netip.Prefix{u.Prefix})...)
	}
	return &pb.GatewayWord{Word: &pb.GatewayWord_Ping{Ping: m}}
}

func (r Report) message() *pb.GatewayWord {
	var lists [3][]netip.Prefix
	for _, t := range r.Health {
		lists[t.Health] = append(lists[t.Health], t.Prefix)
	}
	return &pb.GatewayWord{Word: &pb.GatewayWord_Report{Report: &pb.GatewayReport{
		Start: r.Start, Sequence: r.Sequence, AnswersStart: r.Answers.Start, AnswersSequence: r.Answers.Sequence,
		Unknown: record.PrefixesToProto(lists[Unknown]), Working: record.PrefixesToProto(lists[Working]), Failing: record.PrefixesToProto(lists[Failing]),
	}}}
}

// Parse reads a word. Errors are ErrFormat: who hears something that it cannot read, of a newer version perhaps, does nothing.
func Parse(b []byte) (Word, error) {
	switch {
	case len(b) == 0 || len(b) > MaxSize:
		return nil, fmt.Errorf("%w: %d bytes", ErrFormat, len(b))
	case b[0] != version:
		return nil, fmt.Errorf("%w: version %d", ErrFormat, b[0])
	}
	var m pb.GatewayWord
	if err := proto.Unmarshal(b[1:], &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	var w Word
	var err error
	switch m := m.GetWord().(type) {
	case *pb.GatewayWord_Ping:
		w, err = parsePing(m.Ping)
	case *pb.GatewayWord_Report:
		w, err = parseReport(m.Report)
	default:
		err = errors.New("neither ping nor report")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return w, nil
}

func parsePing(m *pb.GatewayPing) (Word, error) {
	p := Ping{Stamp: Stamp{m.GetStart(), m.GetSequence()}, Heard: Stamp{m.GetHeardStart(), m.GetHeardSequence()}}
	if err := checkStamps(p.Stamp, p.Heard); err != nil {
		return nil, err
	}
	if len(m.GetUses()) > maxUses {
		return nil, fmt.Errorf("%d uses", len(m.GetUses()))
	}
	for _, u := range m.GetUses() {
		use := Use{Active: u.GetActive()}
		switch len(u.GetGateway()) {
		case 0:
		case key.Size:
			use.Gateway = ID(u.GetGateway())
		default:
			return nil, fmt.Errorf("a gateway's key has %d bytes", len(u.GetGateway()))
		}
		prefixes, err := record.PrefixesFromProto(u.GetPrefixes(), MaxPrefixes-len(p.Uses))
		if err != nil {
			return nil, err
		}
		for _, use.Prefix = range prefixes {
			p.Uses = append(p.Uses, use)
		}
	}
	return p, nil
}

func parseReport(m *pb.GatewayReport) (Word, error) {
	r := Report{Stamp: Stamp{m.GetStart(), m.GetSequence()}, Answers: Stamp{m.GetAnswersStart(), m.GetAnswersSequence()}}
	if err := checkStamps(r.Stamp, r.Answers); err != nil {
		return nil, err
	}
	for h, list := range [][]*pb.Prefix{Unknown: m.GetUnknown(), Working: m.GetWorking(), Failing: m.GetFailing()} {
		prefixes, err := record.PrefixesFromProto(list, MaxPrefixes-len(r.Health))
		if err != nil {
			return nil, err
		}
		for _, p := range prefixes {
			r.Health = append(r.Health, Told{p, Health(h)})
		}
	}
	return r, nil
}

// checkStamps demands a whole stamp of the word itself, and a whole one or none of what it refers to.
func checkStamps(own, other Stamp) error {
	if own.Start == 0 || own.Sequence == 0 {
		return errors.New("it has no stamp")
	}
	if (other.Start == 0) != (other.Sequence == 0) {
		return errors.New("it refers to half a stamp")
	}
	return nil
}

// Fresh tells which starts of a peer count. The zero value knows none.
type Fresh struct {
	start uint64
	// retired are starts before it, so that what is late does not count as yet another start.
	retired [4]uint64
}

// Accept takes the start of a peer's word. Whatever was said in the starts before it has no order to what is said from now on: restarted tells so.
// Of a start that another has followed, ok is false: such a word is late.
func (f *Fresh) Accept(start uint64) (restarted, ok bool) {
	switch {
	case start == f.start:
		return false, true
	case slices.Contains(f.retired[:], start):
		return false, false
	}
	copy(f.retired[1:], f.retired[:])
	f.retired[0], f.start = f.start, start
	return true, true
}

// Compare orders IDs.
func Compare(a, b ID) int { return bytes.Compare(a[:], b[:]) }
