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

// Behind two hard NATs nothing answers for hours. When one becomes easy, that is found no later than otherwise.
func TestMuteSparesTheHonest(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.add(hard), s.add(hard)
	s.run(time.Second)
	a.flow(b, 100*time.Millisecond, true)
	s.run(3 * time.Hour)
	b.host.Box.Kind = none
	b.host.Box.Forget()
	b.host.At = netip.AddrPortFrom(b.host.Box.External, b.host.At.Port())
	b.gather()
	if took := s.until("direct", func() bool { return kinds(a, b) == bothDirect }); took > time.Second {
		t.Errorf("direct after %s", took)
	}
}
