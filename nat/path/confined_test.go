package path_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/nat/candidate"
	"warren/nat/path"
)

// TestConfined: from an address whose link leads to a LAN only nothing is sent elsewhere. It would leave by the uplink with that source, and the NAT there
// would give it the port that the uplink's own packets need.
func TestConfined(t *testing.T) {
	uplink, lan := netip.MustParseAddr("192.168.2.2"), netip.MustParseAddr("10.1.0.1")
	outside, inside := netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("10.1.0.7")
	at := func(addrs ...netip.Addr) (out []candidate.Candidate) {
		for _, a := range addrs {
			out = append(out, candidate.Candidate{Kind: host, Addr: netip.AddrPortFrom(a, 1)})
		}
		return out
	}
	for name, tc := range map[string]struct {
		confined map[netip.Addr][]netip.Prefix
		want     map[string]bool
	}{
		"free": {nil, map[string]bool{
			"192.168.2.2 203.0.113.5": true, "10.1.0.1 203.0.113.5": true, "192.168.2.2 10.1.0.7": true, "10.1.0.1 10.1.0.7": true,
		}},
		"confined": {map[netip.Addr][]netip.Prefix{lan: {netip.MustParsePrefix("10.1.0.0/16")}}, map[string]bool{
			"192.168.2.2 203.0.113.5": true, "10.1.0.1 10.1.0.7": true,
		}},
		"in one network": {map[netip.Addr][]netip.Prefix{lan: {netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("192.0.0.0/8")}}, map[string]bool{
			"192.168.2.2 203.0.113.5": true, "10.1.0.1 10.1.0.7": true,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(1e9, 0)
			core := path.New(now, path.Config{Rand: rand.New(rand.NewPCG(1, 2))})
			got := map[string]bool{}
			next := now
			handle := func(e path.Event) {
				var actions []path.Action
				actions, next = core.Handle(now, e)
				for _, a := range actions {
					if c, ok := a.(path.SendCheck); ok {
						got[c.Pair.Local.String()+" "+c.Pair.Remote.Addr().String()] = true
					}
				}
			}
			peer := path.ID{1}
			handle(path.SetRelay{Up: true})
			handle(path.SetLocal{Candidates: at(uplink, lan)})
			handle(path.SetLocal{Candidates: at(uplink, lan), Confined: tc.confined}) // the same addresses, otherwise known
			handle(path.Activate{Peer: peer})
			handle(path.Signal{Peer: peer, Candidates: at(outside, inside)})
			if tc.confined != nil { // a check that came a way which the answer would not take
				handle(path.Request{Peer: peer, Pair: path.Pair{Local: lan, Remote: netip.AddrPortFrom(outside, 7)}})
			}
			for end := now.Add(3 * time.Second); now.Before(end) && !next.IsZero(); {
				if now = next; now.Before(end) {
					handle(nil)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("checked (-want +got):\n%s", diff)
			}
		})
	}
}
