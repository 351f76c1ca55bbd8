package engine

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tun/tuntest"

	"warren/proto/key"
	"warren/tunnel/bind"
	"warren/tunnel/tundev"
)

// net of engines that all reach each other through a relay.
func meshOf(t *testing.T, n int, change func(*Config)) []*node {
	t.Helper()
	nodes := make([]*node, n)
	byKey := map[[key.Size]byte]*node{}
	for i := range nodes {
		nodes[i] = newNode(t, netip.AddrFrom4([4]byte{100, 64, 0, byte(i + 1)}), func(n *node, bc *bind.Config, ec *Config) {
			public := n.key.Public()
			bc.SendRelay = func(to key.NodePublic, bufs [][]byte) error {
				byKey[to.Raw()].bind.InjectRelay(public, bufs)
				return nil
			}
			if change != nil {
				change(ec)
			}
		})
		byKey[nodes[i].key.Public().Raw()] = nodes[i]
	}
	for _, n := range nodes {
		for _, o := range nodes {
			n.allow.Store(o.key.Public().Raw(), true)
		}
	}
	return nodes
}

// peer is n as others know it, with what it carries for them.
func (n *node) peer(carries ...string) Peer {
	p := Peer{Device: n.device, NodeKey: n.key.Public(), Prefixes: []netip.Prefix{netip.PrefixFrom(n.addr, 32)}, Addresses: []netip.Addr{n.addr}}
	for _, c := range carries {
		p.Prefixes = append(p.Prefixes, netip.MustParsePrefix(c))
	}
	return p
}

func (n *node) receives(t *testing.T, what string, want []byte) {
	t.Helper()
	select {
	case got := <-n.tun.received:
		if !bytes.Equal(got, want) {
			t.Errorf("%s: % x came", what, got)
		}
	case <-time.After(patience):
		t.Fatalf("%s: nothing came; %+v", what, n.engine.Packets())
	}
}

// TestSiblings: through WireGuard, the LAN's packets reach a laptop from the gateway that it uses, whichever reads them, also after it has changed.
func TestSiblings(t *testing.T) {
	nodes := meshOf(t, 3, nil)
	laptop, a, b := nodes[0], nodes[1], nodes[2]
	cidr := netip.MustParsePrefix("10.1.0.0/16")
	for n, o := range map[*node]*node{a: b, b: a} {
		n.engine.SetMap(Map{
			Self: []netip.Addr{n.addr}, Carries: []netip.Prefix{cidr}, Grants: everything(), Peers: []Peer{laptop.peer(), o.peer()},
			Siblings: []tundev.Sibling{{Prefix: cidr, Devices: []key.DevicePublic{o.device}}},
		})
	}
	host := netip.MustParseAddr("10.1.0.7")
	for round, used := range []*node{a, b, a} {
		other := map[*node]*node{a: b, b: a}[used]
		laptop.engine.SetMap(Map{Self: []netip.Addr{laptop.addr}, Grants: everything(), Peers: []Peer{used.peer(cidr.String()), other.peer()}})
		if !used.engine.Uses(laptop.device, cidr, key.DevicePublic{}) || !other.engine.Uses(laptop.device, cidr, used.device) {
			t.Fatal("the gateways do not take what the laptop uses")
		}
		for i := range 20 {
			what := fmt.Sprintf("round %d, packet %d", round, i)
			there, back := tuntest.Ping(host, laptop.addr), tuntest.Ping(laptop.addr, host)
			laptop.tun.out <- there
			used.receives(t, what, there)
			other.tun.out <- back
			laptop.receives(t, what+", read by the other", back)
			used.tun.out <- back
			laptop.receives(t, what+", read by the one in use", back)
		}
		if c := other.engine.Packets(); c.Handed == 0 || c.Refused != 0 {
			t.Errorf("round %d: the other counts %+v", round, c)
		}
		tr := laptop.engine.Traffic(used.device)
		if len(tr) != 2 || tr[0].Prefix != cidr || tr[0].Sent.IsZero() || tr[0].Received.IsZero() {
			t.Errorf("round %d: traffic %+v", round, tr)
		}
		if hosts := used.engine.Hosts(cidr); len(hosts) != 1 || hosts[0].Addr != host {
			t.Errorf("round %d: hosts %+v", round, hosts)
		}
	}
	if c := laptop.engine.Packets(); c.Forged != 0 {
		t.Errorf("the laptop counts %+v", c)
	}
}

// TestProbe: the host is asked as if through the tunnel, and its answer is told.
func TestProbe(t *testing.T) {
	type answer struct {
		target  netip.Addr
		id, seq uint16
	}
	answers := make(chan answer, 1)
	n := meshOf(t, 1, func(c *Config) {
		c.OnProbe = func(target netip.Addr, id, seq uint16) { answers <- answer{target, id, seq} }
	})[0]
	from, target := netip.MustParseAddr("100.64.255.254"), netip.MustParseAddr("10.1.0.7")
	n.engine.SetMap(Map{Self: []netip.Addr{n.addr}, Carries: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, Probe: []netip.Addr{from}})
	if err := n.engine.Probe(target, 5, 6); err != nil {
		t.Fatal(err)
	}
	request := <-n.tun.received
	reply := tuntest.Ping(from, target)
	copy(reply[20:], request[20:])
	reply[20] = 0
	n.tun.out <- reply
	if got := <-answers; got != (answer{target, 5, 6}) {
		t.Errorf("told %+v", got)
	}
}
