package path_test

import (
	"net/netip"
	"testing"
	"time"

	"warren/nat/candidate"
	"warren/nat/path"
)

// TestMappingIsToldAtOnce: of what is learnt of a NAT only while the session is under way the peer hears at once, and an attempt begins as soon as
// both have agreed, not with the next round of checks.
func TestMappingIsToldAtOnce(t *testing.T) {
	for _, first := range []path.Mapping{path.MappingIndependent, path.MappingDependent} {
		s, e, h := easyHard(t, 1, false)
		s.run(3 * time.Second)
		learn := func(m path.Mapping) {
			if m == path.MappingIndependent {
				set(e, m)
			} else {
				set(h, m)
			}
		}
		learn(first)
		s.run(time.Second)
		if h.sockets != 0 {
			t.Fatal("sockets were opened before both sides' NATs were known")
		}
		began := s.now
		learn(path.MappingIndependent + path.MappingDependent - first)
		s.until("sockets", func() bool { return h.sockets > 0 })
		// Three signals, which keep 50 ms apart, and the time to open sockets.
		if took := s.now.Sub(began); took > 6*s.relay+60*time.Millisecond {
			t.Errorf("%d first: an attempt began %s after both were known", first, took)
		}
	}
}

// A NAT that shows another port, and no other address, is nothing that peers need to hear of.
func TestSameMappingIsNotTold(t *testing.T) {
	s, e, h := easyHard(t, 1, false)
	s.run(3 * time.Second)
	before := h.link(e.id).signals
	at := netip.MustParseAddr("203.0.113.2")
	for i := range uint16(100) {
		h.handle(path.SetMapping{NAT: path.NAT{Mapping: path.MappingDependent, External: netip.AddrPortFrom(at, 5000+i)}})
	}
	s.run(time.Second)
	if n := h.link(e.id).signals - before; n > 1 {
		t.Errorf("%d signals of one NAT", n)
	}
}

// TestBusyPeer: several devices behind hard NATs want one behind an easy one at the same time, which tries one's ports after the other's. Nobody
// is put off for an hour by that.
func TestBusyPeer(t *testing.T) {
	s, e, _ := easyHard(t, 5, false)
	set(e, path.MappingIndependent)
	for range 4 {
		n := s.add(hard)
		n.mayHunt = 500
		set(n, path.MappingDependent)
		n.flow(e, 50*time.Millisecond, true)
	}
	all := s.nodes[2:]
	reached := func() (n int) {
		for _, h := range all {
			if kinds(h, e) == bothDirect {
				n++
			}
		}
		return n
	}
	took := s.until("all direct", func() bool { return reached() == len(all) })
	t.Logf("%d devices were direct after %s", len(all), took)
	if took > 2*time.Minute {
		t.Errorf("all were direct after %s", took)
	}
}

// TestReadinessIsRepeated: a lost word that the sockets are open, or that the peer takes part, costs a moment and not the attempt.
func TestReadinessIsRepeated(t *testing.T) {
	for name, lose := range map[string]func(e, h *node){
		"ready": func(_, h *node) {
			n := 0
			h.loses = func(a path.SendSignal) bool {
				if a.Step == path.StepReady {
					n++
				}
				return a.Step == path.StepReady && n < 3
			}
		},
		"trying": func(e, _ *node) {
			n := 0
			e.loses = func(a path.SendSignal) bool {
				if a.Step == path.StepTrying {
					n++
				}
				return a.Step == path.StepTrying && n < 3
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, e, h := easyHard(t, 2, true)
			lose(e, h)
			began := s.now
			for s.now.Sub(began) < 15*time.Second && kinds(e, h) != bothDirect {
				s.run(10 * time.Millisecond)
			}
			if kinds(e, h) != bothDirect || h.sockets != 256 {
				t.Errorf("paths %v, %d sockets", kinds(e, h), h.sockets)
			}
		})
	}
}

// TestNotTaken: a peer that never takes part costs sockets ever less often, for as long as it likes, and none of them stays open.
func TestNotTaken(t *testing.T) {
	s, e, h := easyHard(t, 1, true)
	h.loses = func(a path.SendSignal) bool { return a.Step == path.StepReady }
	s.run(15 * time.Second)
	if n := h.sockets / 256; n != 2 {
		t.Errorf("%d attempts in a quarter of a minute, want another after ten seconds", n)
	}
	s.run(3 * time.Hour)
	if n := h.sockets / 256; n > 12 {
		t.Errorf("%d attempts in three hours", n)
	}
	if n := len(h.host.Extra); n != 0 {
		t.Errorf("%d sockets are open", n)
	}
	h.loses = nil
	began := s.now
	for s.now.Sub(began) < time.Hour+time.Minute && kinds(e, h) != bothDirect {
		s.run(time.Second)
	}
	if kinds(e, h) != bothDirect {
		t.Errorf("paths %v an hour after the peer takes part again", kinds(e, h))
	}
	if b := h.core.Explain(e.id).Birthday; b.Failed != 0 || b.Wishes != 0 {
		t.Errorf("after a success: %+v", b)
	}
}

// Who does not try ports does not tell how its NAT maps, so that nobody opens sockets for it.
func TestTurnedOffTellsNothing(t *testing.T) {
	core := path.New(time.Time{}, path.Config{BirthdayRate: -1})
	now, peer := time.Unix(1000, 0), path.ID{7}
	outside := netip.MustParseAddrPort("203.0.113.2:5000")
	var told []path.SendSignal
	for _, e := range []path.Event{
		path.SetRelay{Up: true}, path.SetMapping{NAT: path.NAT{Mapping: path.MappingIndependent, External: outside}}, path.Activate{Peer: peer},
	} {
		actions, _ := core.Handle(now, e)
		for _, a := range actions {
			if s, ok := a.(path.SendSignal); ok {
				told = append(told, s)
			}
		}
	}
	if len(told) == 0 || told[0].NAT != (path.NAT{}) {
		t.Errorf("told %+v", told)
	}
}

// TestExternalCounts: of a peer with two uplinks the address by which it sends is tried, not another that servers see.
func TestExternalCounts(t *testing.T) {
	s, e, h := easyHard(t, 1, false)
	set(h, path.MappingDependent)
	other := netip.MustParseAddrPort("198.51.100.200:4000")
	true4, _ := s.net.Mapped(s.now, e.host, stunServer)
	e.handle(path.SetLocal{Candidates: append(e.local, candidate.Candidate{Kind: reflexive, Addr: other})})
	e.handle(path.SetMapping{NAT: path.NAT{Mapping: path.MappingIndependent, External: true4}})
	began := s.now
	for s.now.Sub(began) < 15*time.Second && kinds(e, h) != bothDirect {
		s.run(10 * time.Millisecond)
	}
	if kinds(e, h) != bothDirect {
		t.Errorf("paths %v", kinds(e, h))
	}
}
