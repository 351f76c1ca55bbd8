package gather

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/nat/candidate"
	"warren/nat/stunmsg"
)

var (
	server   = netip.MustParseAddrPort("203.0.113.1:3478")
	outside  = netip.MustParseAddrPort("198.51.100.9:40000")
	outside2 = netip.MustParseAddrPort("198.51.100.9:40001")
)

// bench runs a Gatherer in fake time; the test plays the servers.
type bench struct {
	mu      sync.Mutex
	g       *Gatherer
	local   []netip.Addr
	uplinks []netip.Addr
	sent    []time.Duration
	asked   []question
	began   time.Time
	lists   [][]string
	reply   func(to netip.AddrPort, b []byte)
}

func run(t *testing.T, f func(b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{local: []netip.Addr{netip.MustParseAddr("192.168.1.5")}, began: time.Now()}
		b.reply = func(netip.AddrPort, []byte) {}
		b.g = New(Config{
			Port: func() uint16 { return 51820 },
			Send: func(local netip.Addr, to netip.AddrPort, p []byte) error {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.sent, b.asked = append(b.sent, time.Since(b.began)), append(b.asked, question{local, to})
				b.reply(to, slices.Clone(p))
				return nil
			},
			OnCandidates: func(c []candidate.Candidate) {
				var texts []string
				for _, one := range c {
					texts = append(texts, one.String())
				}
				b.lists = append(b.lists, texts)
			},
			Addresses: func(string) ([]netip.Addr, error) {
				b.mu.Lock()
				defer b.mu.Unlock()
				return b.local, nil
			},
			Uplinks: func(string) ([]netip.Addr, error) {
				b.mu.Lock()
				defer b.mu.Unlock()
				return b.uplinks, nil
			},
			Resolve: func(context.Context, string) ([]netip.Addr, error) {
				return []netip.Addr{server.Addr(), netip.MustParseAddr("203.0.113.2")}, nil
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.g.Run(ctx) }()
		synctest.Wait()
		f(b)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// pass lets fake time go by. What the test changed before is seen by Run's goroutine after.
func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	wait := time.After(d)
	b.mu.Unlock()
	<-wait
	synctest.Wait()
}

func (b *bench) last() []string { return b.lists[len(b.lists)-1] }

// answerWith makes every server say that we are seen at a.
func (b *bench) answerWith(a func() netip.AddrPort) {
	b.reply = func(to netip.AddrPort, p []byte) {
		m, err := stunmsg.Parse(p)
		if err != nil {
			panic(err)
		}
		b.g.HandlePacket(netip.Addr{}, to, stunmsg.NewSuccess(m.Tx, a(), nil))
	}
}

func TestFindsBoth(t *testing.T) {
	run(t, func(b *bench) {
		b.answerWith(func() netip.AddrPort { return outside })
		b.g.SetServers([]string{server.String()})
		b.pass(time.Second)
		want := []string{"host 192.168.1.5:51820", "server reflexive 198.51.100.9:40000"}
		if diff := cmp.Diff(want, b.last()); diff != "" {
			t.Error(diff)
		}
		if len(b.sent) != 1 {
			t.Errorf("%d requests for one answer", len(b.sent))
		}
	})
}

func TestRetriesUntilAnswered(t *testing.T) {
	run(t, func(b *bench) {
		b.g.SetServers([]string{server.String()})
		b.pass(20 * time.Second)
		want := []time.Duration{0, 100, 300, 700, 1500, 3100}
		for i := range want {
			want[i] *= time.Millisecond
		}
		if diff := cmp.Diff(want, b.sent); diff != "" {
			t.Error(diff)
		}
	})
}

func TestNewMappingReplacesTheOld(t *testing.T) {
	run(t, func(b *bench) {
		now := outside
		b.answerWith(func() netip.AddrPort { return now })
		b.g.SetServers([]string{server.String()})
		b.pass(time.Second)
		now = outside2
		b.pass(refreshEvery)
		want := []string{"host 192.168.1.5:51820", "server reflexive 198.51.100.9:40001"}
		if diff := cmp.Diff(want, b.last()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestUnconfirmedMappingIsDropped(t *testing.T) {
	run(t, func(b *bench) {
		b.answerWith(func() netip.AddrPort { return outside })
		b.g.SetServers([]string{server.String()})
		b.pass(time.Second)
		b.reply = func(netip.AddrPort, []byte) {}
		b.pass(5 * refreshEvery)
		if diff := cmp.Diff([]string{"host 192.168.1.5:51820"}, b.last()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestNetworkChange(t *testing.T) {
	run(t, func(b *bench) {
		b.pass(time.Second)
		b.local = []netip.Addr{netip.MustParseAddr("10.0.0.8")}
		b.g.Trigger()
		b.pass(time.Millisecond)
		if diff := cmp.Diff([]string{"host 10.0.0.8:51820"}, b.last()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOverlayIsNoCandidate(t *testing.T) {
	run(t, func(b *bench) {
		b.local = append(b.local, netip.MustParseAddr("100.70.0.9"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("127.0.0.1"))
		b.answerWith(func() netip.AddrPort { return netip.MustParseAddrPort("100.70.0.9:51820") })
		b.g.SetOverlay([]netip.Prefix{netip.MustParsePrefix("100.70.0.0/16")})
		b.g.SetServers([]string{server.String()})
		b.pass(time.Second)
		if diff := cmp.Diff([]string{"host 192.168.1.5:51820"}, b.last()); diff != "" {
			t.Error(diff)
		}
	})
}

// Nobody but the server that was asked can tell us our address.
func TestHostileAnswers(t *testing.T) {
	run(t, func(b *bench) {
		other := netip.MustParseAddrPort("203.0.113.66:3478")
		b.reply = func(to netip.AddrPort, p []byte) {
			m, err := stunmsg.Parse(p)
			if err != nil {
				panic(err)
			}
			evil := stunmsg.NewSuccess(m.Tx, outside2, nil)
			if !b.g.HandlePacket(netip.Addr{}, other, evil) {
				t.Error("a guessed answer was passed on")
			}
			if b.g.HandlePacket(netip.Addr{}, to, stunmsg.NewSuccess(stunmsg.NewTxID(), outside2, nil)) {
				t.Error("an answer to nothing was taken")
			}
			b.g.HandlePacket(netip.Addr{}, to, stunmsg.NewSuccess(m.Tx, outside, nil))
			b.g.HandlePacket(netip.Addr{}, to, evil) // a second answer
		}
		b.g.SetServers([]string{server.String()})
		b.pass(time.Second)
		want := []string{"host 192.168.1.5:51820", "server reflexive 198.51.100.9:40000"}
		if diff := cmp.Diff(want, b.last()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestResolves(t *testing.T) {
	run(t, func(b *bench) {
		var asked []netip.AddrPort
		b.reply = func(to netip.AddrPort, _ []byte) { asked = append(asked, to) }
		b.g.SetServers([]string{"stun.example:3478", "nonsense"})
		b.pass(50 * time.Millisecond)
		if diff := cmp.Diff([]string{server.String()}, []string{asked[0].String()}); diff != "" || len(asked) != 1 {
			t.Errorf("asked %v; want one address of the family", asked)
		}
	})
}

func TestHostAddresses(t *testing.T) {
	got, err := HostAddresses("")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range got {
		if a.IsLoopback() {
			t.Errorf("loopback address %s", a)
		}
	}
}
