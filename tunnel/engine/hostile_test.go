package engine

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tun/tuntest"

	"warren/proto/key"
)

// wire stands between two nodes, passes datagrams on and keeps them.
//
//	us <-> 127.0.0.1:first | second:127.0.0.1 <-> them
type wire struct {
	first, second *net.UDPConn
	mu            sync.Mutex
	toUs          [][]byte
}

func newWire(t *testing.T, us, them *node) *wire {
	t.Helper()
	w := &wire{first: loopback(t), second: loopback(t)}
	var group sync.WaitGroup
	pass := func(from, to *net.UDPConn, dst netip.AddrPort, keep bool) {
		group.Go(func() {
			b := make([]byte, 65536)
			for {
				n, _, err := from.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				if keep {
					w.mu.Lock()
					w.toUs = append(w.toUs, bytes.Clone(b[:n]))
					w.mu.Unlock()
				}
				to.WriteToUDPAddrPort(b[:n], dst)
			}
		})
	}
	pass(w.first, w.second, them.remote(), false)
	pass(w.second, w.first, us.remote(), true)
	t.Cleanup(func() {
		w.first.Close()
		w.second.Close()
		group.Wait()
	})
	return w
}

func loopback(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func port(c *net.UDPConn) uint16 { return uint16(c.LocalAddr().(*net.UDPAddr).Port) }

// TestHostileDatagrams throws garbage at the UDP port of a running tunnel, and what it has received before: whole, cut anywhere, and changed. No
// packet comes of it, and the tunnel goes on.
func TestHostileDatagrams(t *testing.T) {
	us, them := newNode(t, addresses[0], nil), newStock(t, addresses[1])
	w := newWire(t, us, them)
	usAt, themAt := us.port, them.port
	us.port, them.port = port(w.second), port(w.first) // where each finds the other
	us.knows(t, true, them)
	them.knows(t, true, us)
	us.port, them.port = usAt, themAt
	us.ping(t, them)
	for range 20 {
		them.ping(t, us)
		us.ping(t, them)
	}
	w.mu.Lock()
	seen := w.toUs
	w.mu.Unlock()
	kinds := map[byte]int{}
	for _, m := range seen {
		kinds[m[0]]++
	}
	if kinds[2] == 0 || kinds[4] < 20 {
		t.Fatalf("the wire saw messages by type: %v", kinds)
	}
	attacker := loopback(t)
	throw := func(m []byte) {
		if _, err := attacker.WriteToUDPAddrPort(m, us.remote()); err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 4))
	for i, m := range seen {
		throw(m)
		changed := bytes.Clone(m)
		changed[rng.IntN(len(m))] ^= 1 << rng.IntN(8)
		throw(changed)
		throw(append(bytes.Clone(m), 0))
		for n := i % 7; n < len(m); n += 7 {
			throw(m[:n])
		}
		garbage := make([]byte, rng.IntN(1500))
		for j := range garbage {
			garbage[j] = byte(rng.Uint32())
		}
		if len(garbage) > 4 && i%2 == 0 {
			copy(garbage, []byte{byte(1 + i%4), 0, 0, 0})
		}
		throw(garbage)
		them.ping(t, us) // nothing else comes in before it
		us.ping(t, them)
	}
	if s := us.engine.Stats(); len(s) != 1 || !s[0].Configured {
		t.Errorf("stats %+v", s)
	}
	if s := us.bind.Stats(); s.UnknownIndex == 0 {
		t.Errorf("hostile datagrams were not even seen: %+v", s)
	}
}

// TestForgedSource: a peer can send as the addresses that the map gives it and as no others, also when it carries a prefix around them, and
// whether their own peer is configured (WireGuard's allowed IPs refuse it) or not (the TUN wrapper does).
func TestForgedSource(t *testing.T) {
	a, b := relayed(t, nil)
	other := key.NewNode().Public()
	third, host := netip.MustParseAddr("100.64.0.3"), func(ip netip.Addr) netip.Prefix { return netip.PrefixFrom(ip, 32) }
	a.allow.Store(other.Raw(), true)
	a.engine.SetMap(Map{Self: []netip.Addr{a.addr}, Grants: everything(), Peers: []Peer{
		{NodeKey: b.key.Public(), Prefixes: []netip.Prefix{host(b.addr), netip.MustParsePrefix("0.0.0.0/0")}},
		{NodeKey: other, Prefixes: []netip.Prefix{host(third)}},
	}})
	b.ping(t, a)
	<-a.active
	for _, configured := range []bool{false, true} {
		if configured {
			a.engine.Want(other)
			<-a.active
		}
		for _, c := range []struct {
			src    netip.Addr
			passes bool
		}{{third, false}, {a.addr, false}, {netip.MustParseAddr("9.9.9.9"), true}, {b.addr, true}} {
			p := tuntest.Ping(a.addr, c.src)
			b.tun.out <- p
			if c.passes {
				select {
				case got := <-a.tun.received:
					if !bytes.Equal(got, p) {
						t.Errorf("configured %v, from %s: another packet came: % x", configured, c.src, got)
					}
				case <-time.After(patience):
					t.Fatalf("configured %v: nothing from %s", configured, c.src)
				}
			}
			b.ping(t, a) // what was forged would come before it
		}
	}
	if c := a.engine.Packets(); c.Forged != 4 {
		t.Errorf("of 4 forged packets %d were counted", c.Forged)
	}
}
