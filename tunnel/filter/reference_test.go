package filter

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// reference judges packets as a test writes them down, by lists that it searches from the beginning. It has no tables, no bounds, and
// knows nothing of bytes. What it would tell of flows stands in told.
type reference struct {
	records bool
	rules   naiveRules
	flows   []*refFlow
	parts   []refPart
	refused []*refRefused
	ends    []refEnd // to be told
}

type refFlow struct {
	first       shape
	in          bool
	peer        *Peer
	grant       string
	history     []refSeen // TCP: since the last SYN of the side that began
	began, last time.Duration
	told, over  bool
	traffic     [2]Traffic
}

type refSeen struct {
	flags  uint8
	answer bool
}

// refPart is a first fragment that passed; flow is nil if it passed without one.
type refPart struct {
	first shape
	d     Direction
	flow  *refFlow
	grant string
	peer  *Peer
	at    time.Duration
}

type refRefused struct {
	first       shape
	in          bool
	peer        *Peer
	began, last time.Duration
	told        time.Duration
	traffic     [2]Traffic
}

// refEnd is a flow or something refused that is gone.
type refEnd struct {
	flow    *refFlow
	refused *refRefused
	reason  Reason
}

func (s shape) addresses() (src, dst netip.Addr) {
	return netip.MustParseAddr(s.src), netip.MustParseAddr(s.dst)
}

// ports are those that grants and flows see.
func (s shape) ports() (src, dst uint16) {
	switch s.proto {
	case protoTCP, protoUDP, protoSCTP:
		return s.sport, s.dport
	}
	return 0, 0
}

// headers counts the bytes that judging read of what fragments divide.
func (s shape) headers() int {
	transport := 0
	switch s.proto {
	case protoTCP:
		transport = 20
	case protoUDP, protoSCTP, protoICMP, protoICMPv6:
		transport = 8
	}
	if netip.MustParseAddr(s.src).Is4() { // which has none inside
		return transport
	}
	return 16*len(s.inner) + transport
}

func (s shape) isRequest() bool {
	return s.proto == protoICMP && s.kind == 8 || s.proto == protoICMPv6 && s.kind == 128
}

func (s shape) isReply() bool {
	return s.proto == protoICMP && s.kind == 0 || s.proto == protoICMPv6 && s.kind == 129
}

func (s shape) isICMP() bool { return s.proto == protoICMP || s.proto == protoICMPv6 }

// allowed gives the first grant, and tells whether there is one of everything.
func (r *reference) allowed(s shape) (grant string, anything bool) {
	src, dst := s.addresses()
	_, port := s.ports()
	return r.rules.allows(src, dst, s.proto, port)
}

// anything gives the first grant by which src may send dst anything.
func (r *reference) anything(src, dst string) (grant string) {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	for _, g := range r.rules {
		if !within(g.sources, s) || !within(g.destinations, d) {
			continue
		}
		for _, f := range g.flows {
			if f.Protocol == 0 {
				return g.id
			}
		}
	}
	return ""
}

// carries reports whether s belongs to the flow, and whether it is an answer: those go the other way, from the peers' side to the host's or back.
func (f *refFlow) carries(d Direction, s shape) (yes, answer bool) {
	sport, dport := s.ports()
	fsport, fdport := f.first.ports()
	if f.first.proto != s.proto || (s.isICMP() && (f.first.echoID != s.echoID || !s.isRequest() && !s.isReply())) {
		return false, false
	}
	with := f.first.src == s.src && f.first.dst == s.dst && fsport == sport && fdport == dport && !s.isReply() && f.in == (d == In)
	against := f.first.src == s.dst && f.first.dst == s.src && fsport == dport && fdport == sport && !s.isRequest() && f.in == (d == Out)
	if s.src == s.dst && sport == dport && !s.isReply() {
		against = false // such a packet is no answer
	}
	return with || against, !with
}

// state looks at a connection's history.
func (f *refFlow) state() (answered, closed bool) {
	reset := false
	var ended [2]bool
	for _, h := range f.history {
		answered = answered || h.answer
		reset = reset || h.flags&tcpRST != 0
		if h.flags&tcpFIN != 0 {
			ended[map[bool]int{true: 1}[h.answer]] = true
		}
	}
	return answered, f.first.proto == protoTCP && (reset || ended[0] && ended[1])
}

func (f *refFlow) idle() time.Duration {
	switch f.first.proto {
	case protoUDP, protoSCTP:
		return idleUDP
	case protoTCP:
	default:
		return idleOther
	}
	if answered, closed := f.state(); !answered || closed {
		return idleTCPBrief
	}
	return idleTCP
}

// drop ends a flow.
func (r *reference) drop(f *refFlow, why Reason) {
	r.flows = slices.DeleteFunc(r.flows, func(o *refFlow) bool { return o == f })
	if _, closed := f.state(); closed && why == Idle {
		why = Closed
	}
	if r.records && !f.over {
		r.ends = append(r.ends, refEnd{flow: f, reason: why})
	}
}

func (r *reference) dropRefused(f *refRefused) {
	r.refused = slices.DeleteFunc(r.refused, func(o *refRefused) bool { return o == f })
	if f.traffic != [2]Traffic{} {
		r.ends = append(r.ends, refEnd{refused: f})
	}
}

// setRules ends what the new rules forbid.
func (r *reference) setRules(n naiveRules, gone *Peer) {
	r.rules = n
	for _, f := range slices.Clone(r.flows) {
		grant, _ := r.allowed(f.first)
		switch {
		case f.peer == gone:
			r.drop(f, Left)
		case grant == "":
			r.drop(f, Forbidden)
		default:
			f.grant = grant
		}
	}
	r.parts = slices.DeleteFunc(r.parts, func(p refPart) bool { return p.peer == gone })
	for i := range r.parts {
		s := r.parts[i].first
		if f := r.parts[i].flow; f != nil {
			s = f.first
		}
		r.parts[i].grant, _ = r.allowed(s)
	}
	r.parts = slices.DeleteFunc(r.parts, func(p refPart) bool { return p.grant == "" })
	for _, f := range slices.Clone(r.refused) {
		if f.peer == gone {
			r.dropRefused(f)
		}
	}
}

// find gives the flow of a packet. One that has expired is gone once something asks for it.
func (r *reference) find(d Direction, s shape, now time.Duration) (flow *refFlow, answer bool) {
	for _, f := range r.flows {
		if yes, against := f.carries(d, s); yes && now < f.last+f.idle() {
			return f, against
		} else if yes {
			r.drop(f, Idle)
			return nil, false
		}
	}
	return nil, false
}

func (f *refFlow) note(s shape, peer *Peer, answer bool, now time.Duration) {
	if s.flags&tcpSYN != 0 && !answer {
		f.history = nil
	}
	f.history = append(f.history, refSeen{s.flags, answer})
	f.last, f.peer = now, peer
}

// judge takes what the packet reports on, if it is an error, and how long the packet is.
func (r *reference) judge(d Direction, peer *Peer, s shape, quotes *shape, size int, now time.Duration) (Verdict, string) {
	free := r.anything(s.src, s.dst)
	open := free != "" && r.anything(s.dst, s.src) != ""
	if open && !r.records {
		return Pass, free
	}
	v, grant, flow := Unrelated, "", (*refFlow)(nil)
	switch {
	case quotes != nil:
		v, grant, flow = r.judgeError(d, peer, s, *quotes, now)
	case s.offset != 0:
		v, grant, flow = r.judgeLater(d, s, now)
	default:
		v, grant, flow = r.judgeWhole(d, peer, s, now)
		if v == Denied && r.records {
			r.refuse(d, peer, s, size, now)
		}
		if s.more {
			r.parts = slices.DeleteFunc(r.parts, func(p refPart) bool { return p.hasName(d, s) })
		}
		if s.more && v == Pass {
			r.parts = append(r.parts, refPart{s, d, flow, grant, peer, now})
		}
	}
	if flow != nil {
		flow.traffic[d].Packets++
		flow.traffic[d].Bytes += uint64(size)
	}
	if v != Pass && open {
		return Pass, free
	}
	return v, grant
}

func (r *reference) judgeWhole(d Direction, peer *Peer, s shape, now time.Duration) (Verdict, string, *refFlow) {
	f, answer := r.find(d, s, now)
	if f != nil {
		if _, closed := f.state(); closed && s.flags&tcpSYN != 0 && !answer {
			r.drop(f, Closed)
			f = nil
		}
	}
	if f != nil {
		f.note(s, peer, answer, now)
		return Pass, f.grant, f
	}
	grant, _ := r.allowed(s)
	if grant == "" {
		return Denied, "", nil
	}
	if s.isICMP() && !s.isRequest() {
		return Pass, grant, nil
	}
	f = &refFlow{first: s, in: d == In, grant: grant, began: now}
	f.note(s, peer, false, now)
	r.flows = append(r.flows, f)
	return Pass, grant, f
}

func (r *reference) judgeError(d Direction, peer *Peer, s, quotes shape, now time.Duration) (Verdict, string, *refFlow) {
	if quotes.src != s.dst || quotes.offset != 0 || s.more {
		return Unrelated, "", nil
	}
	f, _ := r.find(d.other(), quotes, now)
	if f != nil && f.peer == peer {
		return Pass, f.grant, f
	}
	if quotes.dst != s.src && r.anything(quotes.src, s.src) == "" {
		return Unrelated, "", nil
	}
	if f != nil {
		return Pass, f.grant, f
	}
	if r.anything(quotes.src, quotes.dst) != "" && r.anything(quotes.dst, quotes.src) != "" {
		grant, _ := r.allowed(quotes)
		return Pass, grant, nil
	}
	return Unrelated, "", nil
}

// hasName reports whether s is a fragment of the same packet, or of another with its name.
func (p refPart) hasName(d Direction, s shape) bool {
	v4, _ := s.addresses()
	return p.d == d && p.first.src == s.src && p.first.dst == s.dst && p.first.id == s.id && (!v4.Is4() || p.first.proto == s.proto)
}

func (r *reference) judgeLater(d Direction, s shape, now time.Duration) (Verdict, string, *refFlow) {
	for _, p := range slices.Backward(r.parts) {
		if p.hasName(d, s) && now < p.at+idleFragment {
			if int(s.offset)*8 < p.first.headers() {
				return Malformed, "", nil
			}
			return Pass, p.grant, p.flow
		}
	}
	return Unrelated, "", nil
}

func (r *reference) refuse(d Direction, peer *Peer, s shape, size int, now time.Duration) {
	var f *refRefused
	for _, o := range r.refused {
		_, a := o.first.ports()
		_, b := s.ports()
		if o.in == (d == In) && o.first.src == s.src && o.first.dst == s.dst && o.first.proto == s.proto && a == b {
			f = o
		}
	}
	if f != nil && now >= f.last+idleRefused {
		r.dropRefused(f)
		f = nil
	}
	if f == nil {
		f = &refRefused{first: s, in: d == In, began: now, told: never}
		r.refused = append(r.refused, f)
	}
	f.peer, f.last = peer, now
	f.traffic[d].Packets++
	f.traffic[d].Bytes += uint64(size)
}

// collect gives what is to be told at now, a line each.
func (r *reference) collect(now time.Duration) (out []string) {
	for _, f := range slices.Clone(r.flows) {
		if now >= f.last+f.idle() {
			r.drop(f, Idle)
			continue
		}
		_, closed := f.state()
		switch {
		case !r.records:
		case closed && !f.over && now-f.last >= settle:
			out = append(out, f.line(Ended, Closed, now))
			f.over = true
		case !closed && !f.told:
			out = append(out, f.line(Began, 0, now))
			f.told = true
		}
	}
	for _, f := range slices.Clone(r.refused) {
		if now >= f.last+idleRefused {
			r.dropRefused(f)
		} else if f.traffic != [2]Traffic{} && (f.told == never || now-f.told >= retell) {
			out = append(out, f.line(now))
			f.told = now
		}
	}
	for _, e := range r.ends {
		if e.flow != nil {
			out = append(out, e.flow.line(Ended, e.reason, now))
		} else {
			out = append(out, e.refused.line(now))
		}
	}
	r.ends = nil
	slices.Sort(out)
	return out
}

func (f *refFlow) line(k Kind, why Reason, now time.Duration) string {
	return fmt.Sprintf("%v %v %s %v %q of %p, %v, %v, %v", k, why, f.first.endsText(), f.in, f.grant, f.peer, now-f.began, now-f.last, f.traffic)
}

func (f *refRefused) line(now time.Duration) string {
	first := f.first
	first.echoID = 0
	out := fmt.Sprintf("%v %v %s %v %q of %p, %v, %v, %v", Refused, Reason(0), first.endsText(), f.in, "", f.peer, now-f.began, now-f.last, f.traffic)
	f.traffic = [2]Traffic{}
	return out
}

func (s shape) endsText() string {
	sport, dport := s.ports()
	if s.isRequest() || s.isReply() {
		sport, dport = s.echoID, s.echoID
	}
	return fmt.Sprintf("%d %s:%d %s:%d", s.proto, s.src, sport, s.dst, dport)
}

// told prints a record as the reference does.
func told(r *Record) string {
	return fmt.Sprintf("%v %v %d %s:%d %s:%d %v %q of %p, %v, %v, %v", r.Kind, r.Reason, r.Proto, r.Src.Addr(), r.Src.Port(), r.Dst.Addr(), r.Dst.Port(),
		r.Direction == In, r.Grant, r.Peer, r.Age, r.Idle, r.Traffic)
}
