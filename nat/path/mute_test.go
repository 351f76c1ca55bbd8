package path_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"warren/nat/candidate"
	"warren/nat/path"
)

// A peer that names addresses of third parties, ever other ports, and calls without end: each gets what an address that does not answer gets.
func TestLyingCandidates(t *testing.T) {
	for _, addresses := range []int{1, 50, 300} {
		t.Run(fmt.Sprint(addresses), func(t *testing.T) {
			r, peer := rand.New(rand.NewPCG(1, 2)), path.ID{7}
			now := time.Unix(1_000_000, 0)
			c := path.New(now, path.Config{Rand: r, Traffic: func(path.ID) path.Traffic { return path.Traffic{Sent: now} }})
			got, next := map[netip.Addr]int{}, now
			handle := func(e path.Event) {
				var actions []path.Action
				actions, next = c.Handle(now, e)
				for _, a := range actions {
					if a, ok := a.(path.SendCheck); ok {
						got[a.Remote.Addr()]++
					}
				}
			}
			handle(path.SetRelay{Up: true})
			handle(path.Activate{Peer: peer})
			const minutes = 20
			for i := range minutes * 60 * 5 {
				var told []candidate.Candidate
				for range candidate.Max {
					n := r.IntN(addresses)
					at := netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)})
					told = append(told, candidate.Candidate{Kind: reflexive, Addr: netip.AddrPortFrom(at, uint16(1+r.IntN(65535)))})
				}
				handle(path.Signal{Peer: peer, Candidates: told, Call: i%2 == 0})
				end := now.Add(200 * time.Millisecond)
				for ; !next.IsZero() && next.Before(end); handle(nil) {
					now = next
				}
				now = end
			}
			all := 0
			for at, n := range got {
				if all += n; n > 512+2*60*minutes {
					t.Errorf("%s gets %d checks in %d minutes", at, n, minutes)
				}
			}
			if all < 512 {
				t.Errorf("%d checks in all: the peer is not heard", all)
			}
		})
	}
}

// A peer whose session ends ever again, because it is silent for a while, gets no more sent to a third party for that.
func TestLiarComesAndGoes(t *testing.T) {
	victim := netip.MustParseAddrPort("198.18.0.1:7")
	for name, lie := range map[string]path.Signal{
		"candidates": {Candidates: []candidate.Candidate{{Kind: reflexive, Addr: victim}}, Call: true},
		"readiness":  {Candidates: []candidate.Candidate{{Kind: reflexive, Addr: victim}}, Call: true, NAT: path.NAT{Mapping: path.MappingDependent}, Step: path.StepReady},
	} {
		t.Run(name, func(t *testing.T) {
			lie.Peer = path.ID{7}
			now := time.Unix(1_000_000, 0)
			c := path.New(now, path.Config{Rand: rand.New(rand.NewPCG(1, 2))})
			got, next := 0, now
			handle := func(e path.Event) {
				var actions []path.Action
				actions, next = c.Handle(now, e)
				for _, a := range actions {
					if _, ok := a.(path.SendCheck); ok {
						got++
					}
				}
			}
			pass := func(d time.Duration) {
				end := now.Add(d)
				for ; !next.IsZero() && next.Before(end); handle(nil) {
					now = next
				}
				now = end
			}
			handle(path.SetRelay{Up: true})
			handle(path.SetMapping{NAT: path.NAT{Mapping: path.MappingIndependent}})
			begin, ends := now, 0
			for now.Sub(begin) < 30*time.Minute {
				for i := range 100 {
					lie.Candidates[0].Addr = netip.AddrPortFrom(victim.Addr(), uint16(1000+i))
					handle(lie)
					pass(200 * time.Millisecond)
				}
				pass(12 * time.Second)
				if c.Sessions() == 0 {
					ends++
				}
			}
			if limit := 512 + 2*int(now.Sub(begin).Seconds()) + 1100; ends < 50 || got < 1000 || got > limit {
				t.Errorf("%d checks after %d sessions, want no more than %d", got, ends, limit)
			}
		})
	}
}

// Behind two hard NATs nothing answers for hours. When one becomes easy, that is found no later than otherwise.
func TestMuteSparesTheHonest(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.add(hard), s.add(hard)
	s.run(time.Second)
	a.flow(b, 100*time.Millisecond, true)
	s.run(3 * time.Hour)
	b.host.Box.Become(none)
	b.host.At = netip.AddrPortFrom(b.host.Box.External(), b.host.At.Port())
	b.gather()
	if took := s.until("direct", func() bool { return kinds(a, b) == bothDirect }); took > time.Second {
		t.Errorf("direct after %s", took)
	}
}
