package path_test

import (
	"net/netip"
	"testing"
	"time"

	"warren/nat/candidate"
	"warren/nat/path"
)

// A NAT that maps anew lets its own side's packets through and loses the other's, which is told by nothing but the checks that come from a new
// address.
func TestMappedAnew(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.add(hard), s.add(none)
	s.run(time.Second)
	a.flow(b, 20*time.Millisecond, false)
	b.flow(a, 20*time.Millisecond, false)
	s.run(5 * time.Second)
	if kinds(a, b) != bothDirect {
		t.Fatalf("paths %v", kinds(a, b))
	}
	before := b.link(a.id).path.Remote
	a.host.Box.Forget()
	took := s.until("b sends to the new mapping", func() bool {
		p := b.link(a.id).path
		return p.Kind == path.Direct && p.Remote != before
	})
	if took > time.Second {
		t.Errorf("b went on sending to the old mapping for %s", took)
	}
}

// The new mapping may be one that a server has told the peer of before, if the NAT keeps ports: then it is a candidate, and is no less a reason to
// look at the path in use at once.
func TestMappedAnewToCandidate(t *testing.T) {
	s, a, b, _ := pairOf(t)
	s.run(time.Second)
	other := netip.MustParseAddrPort("203.0.113.1:777")
	b.handle(path.Signal{Peer: a.id, Candidates: append(a.local[:len(a.local):len(a.local)], candidate.Candidate{Kind: reflexive, Addr: other})})
	s.run(7 * time.Second)
	cut(true, true)(a, b)
	s.run(50 * time.Millisecond)
	b.handle(path.Request{Peer: a.id, Pair: path.Pair{Local: b.host.At.Addr(), Remote: other}})
	began := s.now
	for kinds(a, b)[1] == path.Direct {
		s.run(10 * time.Millisecond)
	}
	if took := s.now.Sub(began); took > 400*time.Millisecond {
		t.Errorf("a check from another candidate, and the path in use is given up after %s", took)
	}
}
