package natmodel

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// reference is the naive model: everything that was ever sent, looked through from the beginning. Which free port a NAT picks is up to
// it, so the reference is told, and objects to one that it may not take.
type reference struct {
	o    Options
	sent []*sending
	last uint16 // sequential port
}

// sending is that a host has sent something, and when the pair was last used.
type sending struct {
	proto                   Protocol
	inside, outside, remote netip.AddrPort
	used                    time.Time
	mapping                 *time.Time // when any sending of the mapping was last used
}

func (r *reference) alive(now time.Time, proto Protocol, used time.Time) bool {
	if proto == TCP {
		return now.Sub(used) <= TCPTimeout
	}
	return now.Sub(used) <= r.o.Timeout
}

func (r *reference) shares(a, b netip.AddrPort) bool {
	switch r.o.Mapping {
	case AddressDependent:
		return a.Addr() == b.Addr()
	case AddressAndPortDependent:
		return a == b
	}
	return true
}

// out gives the source that a packet must get, or the zero value if a new one is to be picked.
func (r *reference) out(now time.Time, p Packet) netip.AddrPort {
	for _, s := range r.sent {
		if s.proto == p.Proto && s.inside == p.Src && r.alive(now, s.proto, *s.mapping) && r.shares(s.remote, p.Dst) {
			return s.outside
		}
	}
	if r.o.Mapping == NoMapping {
		return p.Src
	}
	return netip.AddrPort{}
}

// objection says what is wrong with a newly picked endpoint.
func (r *reference) objection(now time.Time, p Packet, picked netip.AddrPort) string {
	var taken []uint16
	for _, s := range r.sent {
		if s.proto == p.Proto && r.alive(now, s.proto, *s.mapping) {
			taken = append(taken, s.outside.Port())
		}
	}
	switch {
	case picked.Addr() != external:
		return "is not external"
	case slices.Contains(taken, picked.Port()):
		return "is taken"
	case r.o.Ports == PreservePort && picked.Port() != p.Src.Port() && !slices.Contains(taken, p.Src.Port()):
		return "is not the host's own, which is free"
	case r.o.Ports != PreservePort && picked.Port() < lowPort:
		return "is well-known"
	case r.o.Ports == SequentialPort && r.last != 0:
		for next := after(r.last); next != picked.Port(); next = after(next) {
			if !slices.Contains(taken, next) {
				return fmt.Sprintf("is not next: %d is free, after %d", next, r.last)
			}
		}
	}
	return ""
}

// note records that p was sent by way of an external endpoint.
func (r *reference) note(now time.Time, p Packet, outside netip.AddrPort) {
	shared := new(time.Time)
	for _, s := range r.sent {
		if s.proto != p.Proto || s.inside != p.Src || s.outside != outside || !r.alive(now, s.proto, *s.mapping) {
			continue
		}
		shared = s.mapping
		if s.remote == p.Dst {
			s.used, *s.mapping = now, now
			return
		}
	}
	*shared = now
	r.sent = append(r.sent, &sending{p.Proto, p.Src, outside, p.Dst, now, shared})
}

func (r *reference) in(now time.Time, p Packet) (netip.AddrPort, Verdict) {
	to := netip.AddrPort{}
	var mapping *time.Time
	for _, s := range r.sent {
		if s.proto != p.Proto || s.outside != p.Dst || !r.alive(now, s.proto, *s.mapping) {
			continue
		}
		to, mapping = s.inside, s.mapping
		break
	}
	if mapping == nil {
		return to, Unmapped
	}
	v := Filtered
	for _, s := range r.sent {
		ok := r.o.Filtering == FilterNone || r.alive(now, s.proto, s.used) && (s.remote == p.Src || r.o.Filtering == FilterAddress && s.remote.Addr() == p.Src.Addr())
		if s.mapping == mapping && ok {
			v = ToInside
		}
	}
	if v == ToInside && !r.o.OutboundRefresh {
		*mapping = now
		for _, s := range r.sent {
			// A packet from another port keeps the filter of the address open.
			if s.mapping == mapping && (s.remote == p.Src || r.o.Filtering == FilterAddress && s.remote.Addr() == p.Src.Addr() && r.alive(now, s.proto, s.used)) {
				s.used = now
			}
		}
	}
	return to, v
}

// script reads decisions from bytes, so that seeds and the fuzzer drive the same test.
type script struct{ b []byte }

func (s *script) intN(n int) int {
	if len(s.b) == 0 {
		return 0
	}
	v := int(s.b[0]) % n
	s.b = s.b[1:]
	return v
}

func (s *script) options() Options {
	return Options{
		Mapping: Mapping(s.intN(4)), Filtering: Filtering(s.intN(3)), Ports: Ports(s.intN(3)),
		Hairpin: s.intN(2) == 0, OutboundRefresh: s.intN(3) == 0, Timeout: ShortTimeout, Capacity: 1 << 20,
	}
}

// compare runs a script against both and gives the first difference, with what led to it.
func compare(b []byte) string {
	s := &script{b}
	o := s.options()
	n, r := New(o, external, uint64(s.intN(256))), &reference{o: o}
	now, log := began, []string{o.String()}
	hosts := []netip.AddrPort{inside, inside2, netip.MustParseAddrPort("192.168.1.2:80"), netip.MustParseAddrPort("192.168.1.3:41001")}
	known := []netip.AddrPort{netip.AddrPortFrom(external, 41000)}
	for len(s.b) > 0 {
		now = now.Add([]time.Duration{0, time.Second, ShortTimeout / 2, ShortTimeout, ShortTimeout + 1}[s.intN(5)])
		p := Packet{Proto: Protocol(s.intN(8) / 6), Dst: allTo[s.intN(3)]}
		var got, want string
		if s.intN(2) == 0 {
			p.Src = hosts[s.intN(len(hosts))]
			if o.Mapping != NoMapping && s.intN(4) == 0 {
				p.Dst = known[s.intN(len(known))]
			}
			q, v := n.Out(now, p)
			got = fmt.Sprint(q, v)
			want, known = r.expectOut(now, p, q, known)
		} else {
			p.Src, p.Dst = p.Dst, known[s.intN(len(known))]
			q, v := n.In(now, p)
			got = fmt.Sprint(q, v)
			want = r.expectIn(now, p)
		}
		log = append(log, fmt.Sprintf("%6s %s %s -> %s: %s", now.Sub(began), p.Proto, p.Src, p.Dst, got))
		if got != want {
			return strings.Join(append(log, "want "+want), "\n")
		}
		if o.Mapping == NoMapping {
			known = hosts
		}
	}
	return ""
}

func (r *reference) expectIn(now time.Time, p Packet) string {
	if r.o.Mapping == NoMapping && r.o.Filtering == FilterNone {
		return fmt.Sprint(p, ToInside)
	}
	to, v := r.in(now, p)
	if v == ToInside {
		p.Dst = to
	}
	return fmt.Sprint(p, v)
}

// expectOut is what must become of p, if the box made q of it.
func (r *reference) expectOut(now time.Time, p, q Packet, known []netip.AddrPort) (string, []netip.AddrPort) {
	hairpin := r.o.Mapping != NoMapping && p.Dst.Addr() == external
	if hairpin && !r.o.Hairpin {
		return fmt.Sprint(p, NotHairpin), known
	}
	src := r.out(now, p)
	if !src.IsValid() {
		src = q.Src // also of what a filter then refuses
		if why := r.objection(now, p, src); why != "" {
			return fmt.Sprintf("another port: %s %s", src, why), known
		}
		r.last = src.Port()
		known = append(known, src)
	}
	r.note(now, p, src)
	p.Src = src
	if hairpin {
		return r.expectIn(now, p), known
	}
	return fmt.Sprint(p, ToOutside), known
}

func TestAgainstReference(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		b := make([]byte, 20+rng.IntN(600))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if diff := compare(b); diff != "" {
			t.Fatalf("seed %d:\n%s", seed, diff)
		}
	}
}

func FuzzAgainstReference(f *testing.F) {
	f.Add([]byte("a seed that is long enough to make a few steps, at least"))
	f.Add([]byte{1, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 1, 1, 0, 1, 1, 0, 4, 2, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4000 {
			return
		}
		if diff := compare(b); diff != "" {
			t.Fatal(diff)
		}
	})
}
