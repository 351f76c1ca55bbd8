package engine

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"warren/proto/key"
	pb "warren/proto/warrenv1"
	"warren/tunnel/bind"
)

const patience = 20 * time.Second

// memTUN is an interface without a kernel: packets go in by Send and come out of Received.
type memTUN struct {
	out      chan []byte // from the host into the tunnel
	received chan []byte // from the tunnel to the host
	closed   chan struct{}
	once     sync.Once
	events   chan tun.Event
	batch    int
}

func newMemTUN(batch int) *memTUN {
	return &memTUN{
		out: make(chan []byte, 1024), received: make(chan []byte, 1024), closed: make(chan struct{}),
		events: make(chan tun.Event, 1), batch: batch,
	}
}

func (m *memTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case <-m.closed:
		return 0, os.ErrClosed
	case p := <-m.out:
		sizes[0] = copy(bufs[0][offset:], p)
	}
	n := 1
	for n < len(bufs) {
		select {
		case p := <-m.out:
			sizes[n] = copy(bufs[n][offset:], p)
			n++
			continue
		default:
		}
		break
	}
	return n, nil
}

func (m *memTUN) Write(bufs [][]byte, offset int) (int, error) {
	for i, b := range bufs {
		select {
		case <-m.closed:
			return i, os.ErrClosed
		case m.received <- bytes.Clone(b[offset:]):
		}
	}
	return len(bufs), nil
}

func (m *memTUN) Close() error {
	m.once.Do(func() { close(m.closed); close(m.events) })
	return nil
}

func (m *memTUN) File() *os.File           { return nil }
func (m *memTUN) MTU() (int, error)        { return 1420, nil }
func (m *memTUN) Name() (string, error)    { return "mem0", nil }
func (m *memTUN) Events() <-chan tun.Event { return m.events }
func (m *memTUN) BatchSize() int           { return m.batch }

// node is an engine with everything that it needs, or a stock device in its place.
type node struct {
	key    key.NodePrivate
	device key.DevicePublic
	addr   netip.Addr
	tun    *memTUN
	engine *Engine
	bind   *bind.Bind
	stock  *device.Device
	bound  *wireguard // in benchmarks: a plain device with our Bind
	port   uint16
	at     netip.Addr // where others reach the port; zero: 127.0.0.1
	active chan key.NodePublic
	idle   chan key.NodePublic
	allow  sync.Map // [32]byte

	relayTo atomic.Pointer[node] // whom our packets reach through the relay
}

var addresses = []netip.Addr{netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")}

func newNode(t testing.TB, addr netip.Addr, change func(*node, *bind.Config, *Config)) *node {
	t.Helper()
	n := &node{
		key: key.NewNode(), device: key.NewDevice().Public(), addr: addr, tun: newMemTUN(conn.IdealBatchSize),
		active: make(chan key.NodePublic, 16), idle: make(chan key.NodePublic, 16),
	}
	bc := bind.Config{
		Private:      n.key,
		OnInitiation: func(k key.NodePublic) { n.engine.Want(k) },
		OnCrossed:    func(k key.NodePublic) { n.engine.Recall(k) },
		Allowed:      func(k key.NodePublic) bool { _, ok := n.allow.Load(k.Raw()); return ok },
	}
	ec := Config{
		TUN: n.tun, Name: "mem0", Private: n.key, SocketDir: t.TempDir(),
		OnActive: func(k key.NodePublic) { n.active <- k },
		OnIdle:   func(k key.NodePublic) { n.idle <- k },
	}
	if change != nil {
		change(n, &bc, &ec)
	}
	n.bind = bind.New(bc)
	ec.Bind = n.bind
	var err error
	if n.engine, err = New(ec); err != nil {
		t.Fatal(err)
	}
	n.port = n.bind.LocalPort()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.engine.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("engine: %v", err)
		}
		n.engine.Close()
	})
	return n
}

func newStock(t testing.TB, addr netip.Addr) *node {
	t.Helper()
	n := &node{key: key.NewNode(), device: key.NewDevice().Public(), addr: addr, tun: newMemTUN(conn.IdealBatchSize)}
	n.stock = device.NewDevice(n.tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(n.stock.Close)
	if err := n.stock.IpcSet("private_key=" + hex.EncodeToString(n.key.Bytes()) + "\n"); err != nil {
		t.Fatal(err)
	}
	if err := n.stock.Up(); err != nil {
		t.Fatal(err)
	}
	text, err := n.stock.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(text, "listen_port=")
	if _, err := fmt.Sscan(rest, &n.port); err != nil {
		t.Fatal(err)
	}
	return n
}

// everything is the grant that a network has until a policy is set.
func everything() []*pb.Grant {
	v4, v6 := &pb.Prefix{Address: make([]byte, 4)}, &pb.Prefix{Address: make([]byte, 16)}
	all := []*pb.Prefix{v4, v6}
	return []*pb.Grant{{Id: "all", Sources: all, Destinations: all, Flows: []*pb.Flow{{}}}}
}

func (n *node) remote() netip.AddrPort {
	if n.at.IsValid() {
		return netip.AddrPortFrom(n.at, n.port)
	}
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), n.port)
}

// knows gives n a map with the peers, which have a fixed direct path unless relayed.
func (n *node) knows(t testing.TB, direct bool, peers ...*node) {
	t.Helper()
	m := Map{Self: []netip.Addr{n.addr}, Grants: everything()}
	for _, p := range peers {
		public, remote := p.key.Public(), p.remote()
		prefix := netip.PrefixFrom(p.addr, p.addr.BitLen())
		if n.stock != nil {
			if err := n.stock.IpcSet(fmt.Sprintf("public_key=%s\nendpoint=%s\nallowed_ip=%s\n",
				hex.EncodeToString(public.Bytes()), remote, prefix)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		n.allow.Store(public.Raw(), true)
		if n.bound != nil {
			n.configure(t, public, prefix)
		}
		m.Peers = append(m.Peers, Peer{Device: p.device, NodeKey: public, Prefixes: []netip.Prefix{prefix}})
		if direct {
			n.bind.SetPath(public, bind.Path{Kind: bind.Direct, Remote: remote})
		}
	}
	if n.engine != nil {
		n.engine.SetMap(m)
	}
}

func (n *node) configure(t testing.TB, peer key.NodePublic, prefix netip.Prefix) {
	t.Helper()
	var lines strings.Builder
	writePeer(&lines, peer, []netip.Prefix{prefix}, true)
	if err := n.bound.apply(lines.String()); err != nil {
		t.Fatal(err)
	}
	n.bind.Release(peer)
}

// ping sends one packet from n to other and waits for it there.
func (n *node) ping(t testing.TB, other *node) {
	t.Helper()
	p := tuntest.Ping(other.addr, n.addr)
	n.tun.out <- p
	select {
	case got := <-other.tun.received:
		if !bytes.Equal(got, p) {
			t.Errorf("packet changed on its way: % x", got)
		}
	case <-time.After(patience):
		t.Fatalf("the packet from %s did not reach %s", n.addr, other.addr)
	}
}

func (n *node) isConfigured(other *node) bool {
	for _, s := range n.engine.Stats() {
		if s.NodeKey.Equal(other.key.Public()) {
			return s.Configured
		}
	}
	return false
}

// TestStockPeer: a stock WireGuard understands us over UDP of either kind, whoever begins, and no first packet is lost.
func TestStockPeer(t *testing.T) {
	for _, c := range []struct{ begins, over string }{
		{"we begin", "127.0.0.1"}, {"stock begins", "127.0.0.1"}, {"we begin", "::1"}, {"stock begins", "::1"},
	} {
		t.Run(c.begins+" over "+c.over, func(t *testing.T) {
			us, them := newNode(t, addresses[0], nil), newStock(t, addresses[1])
			us.at, them.at = netip.MustParseAddr(c.over), netip.MustParseAddr(c.over)
			us.knows(t, true, them)
			them.knows(t, true, us)
			if us.isConfigured(them) {
				t.Error("a peer is configured before there is traffic")
			}
			first, second := us, them
			if c.begins == "stock begins" {
				first, second = them, us
			}
			first.ping(t, second)
			second.ping(t, first)
			for range 50 {
				us.ping(t, them)
				them.ping(t, us)
			}
			if k := <-us.active; !k.Equal(them.key.Public()) {
				t.Error("another peer was told to be active")
			}
			st := us.engine.Stats()
			if len(st) != 1 || !st[0].Configured || st[0].LastHandshake.IsZero() || st[0].RxBytes == 0 || st[0].TxBytes == 0 {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

// relayed is two engines that reach each other through a relay only.
func relayed(t testing.TB, change func(*Config)) (a, b *node) {
	t.Helper()
	var nodes [2]*node
	for i := range nodes {
		nodes[i] = newNode(t, addresses[i], func(n *node, bc *bind.Config, ec *Config) {
			public := n.key.Public()
			bc.SendRelay = func(_ key.NodePublic, bufs [][]byte) error {
				n.relayTo.Load().bind.InjectRelay(public, bufs)
				return nil
			}
			if change != nil {
				change(ec)
			}
		})
	}
	nodes[0].relayTo.Store(nodes[1])
	nodes[1].relayTo.Store(nodes[0])
	nodes[0].knows(t, false, nodes[1])
	nodes[1].knows(t, false, nodes[0])
	return nodes[0], nodes[1]
}

func TestRelayed(t *testing.T) {
	a, b := relayed(t, nil)
	a.ping(t, b)
	b.ping(t, a)
	// From the relay to a direct path and back, without a packet lost.
	for _, kind := range []bind.Kind{bind.Direct, bind.Relay, bind.Direct} {
		for _, pair := range [][2]*node{{a, b}, {b, a}} {
			pair[0].bind.SetPath(pair[1].key.Public(), bind.Path{
				Kind: kind, Remote: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), pair[1].port),
			})
		}
		for range 20 {
			a.ping(t, b)
			b.ping(t, a)
		}
	}
}

// TestBothBegin: two peers that want each other at the same moment get a session, and their first packets are not lost, though no other follows. How soon
// is a matter of what the Bind waits for, which is tested in virtual time: on a host so busy that a handshake takes longer, both calls may be lost, and
// the next is made after 5 s or 6 s.
func TestBothBegin(t *testing.T) {
	for range 20 {
		a, b := relayed(t, nil)
		a.tun.out <- tuntest.Ping(b.addr, a.addr)
		b.tun.out <- tuntest.Ping(a.addr, b.addr)
		for _, n := range []*node{a, b} {
			select {
			case <-n.tun.received:
			case <-time.After(3 * patience):
				t.Fatal("a first packet was lost")
			}
		}
		a.ping(t, b)
		b.ping(t, a)
	}
}

// chat lets two nodes exchange packets for longer than WireGuard takes to heed another initiation of the same peer: one in 20 ms, with a
// timestamp that grows in steps of 17 ms. A second handshake before that would wait for WireGuard's next try, 5 s later.
func (n *node) chat(t testing.TB, other *node) {
	t.Helper()
	for began := time.Now(); time.Since(began) < 50*time.Millisecond; {
		n.ping(t, other)
		other.ping(t, n)
	}
}

// TestRemovedPeer: when SetMap or Update returns, a peer that is gone has no session, and cannot make one.
func TestRemovedPeer(t *testing.T) {
	for name, remove := range map[string]func(a, b *node){
		"SetMap": func(a, _ *node) { a.engine.SetMap(Map{Self: []netip.Addr{a.addr}, Grants: everything()}) },
		"Update": func(a, b *node) {
			a.engine.Update(Change{Self: []netip.Addr{a.addr}, Grants: everything(), Gone: []key.DevicePublic{b.device}})
		},
	} {
		t.Run(name, func(t *testing.T) { testRemovedPeer(t, remove) })
	}
}

func testRemovedPeer(t *testing.T, remove func(a, b *node)) {
	a, b := relayed(t, nil)
	a.chat(t, b)
	<-a.active
	a.allow.Delete(b.key.Public().Raw())
	remove(a, b)
	if text, err := a.engine.dev.get(); err != nil || strings.Contains(text, "public_key") {
		t.Errorf("the device still has a peer: %v\n%s", err, text)
	}
	if k := <-a.idle; !k.Equal(b.key.Public()) {
		t.Error("another peer was told to be idle")
	}
	a.engine.Want(b.key.Public())
	before := a.bind.Stats().UnknownIndex
	b.tun.out <- tuntest.Ping(a.addr, b.addr)
	deadline := time.After(patience)
	for a.bind.Stats().UnknownIndex == before {
		select {
		case <-a.tun.received:
			t.Fatal("a packet of a removed peer came through")
		case <-deadline:
			t.Fatal("the removed peer's packet was not even seen")
		default:
		}
	}
	// Back in the map, it works again, by a new handshake that we begin.
	a.knows(t, false, b)
	a.ping(t, b)
	b.ping(t, a)
}

// TestIdlePeer: peers without traffic leave the device, and come back with the next packet, whoever sends it.
func TestIdlePeer(t *testing.T) {
	// Longer than a handshake takes under load: a peer that is removed meanwhile loses what waits for it.
	a, b := relayed(t, func(c *Config) { c.IdleAfter = 500 * time.Millisecond })
	for range 2 {
		a.ping(t, b)
		b.ping(t, a)
		for _, n := range []*node{a, b} {
			select {
			case <-n.idle:
			case <-time.After(patience):
				t.Fatal("an idle peer stays configured")
			}
		}
		if st := a.engine.Stats(); len(st) != 1 || st[0].Configured || st[0].RxBytes == 0 || st[0].LastHandshake.IsZero() {
			t.Errorf("stats of an idle peer: %+v", st)
		}
		a, b = b, a
	}
}

// TestRestart: a peer that goes on in a session of before our restart is called at once, rather than after WireGuard's 15 s.
func TestRestart(t *testing.T) {
	a, b := relayed(t, nil)
	a.chat(t, b)
	again := newNode(t, a.addr, func(n *node, bc *bind.Config, ec *Config) {
		n.key, bc.Private, ec.Private = a.key, a.key, a.key
		public := n.key.Public()
		bc.SendRelay = func(_ key.NodePublic, bufs [][]byte) error {
			b.bind.InjectRelay(public, bufs)
			return nil
		}
	})
	b.relayTo.Store(again)
	again.knows(t, false, b)
	began := time.Now()
	for retry := time.NewTicker(20 * time.Millisecond); ; {
		b.tun.out <- tuntest.Ping(again.addr, b.addr)
		select {
		case <-again.tun.received:
			retry.Stop()
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("contact was back after %v", took)
			}
			return
		case <-retry.C:
		}
		if time.Since(began) > patience {
			t.Fatal("no contact after a restart")
		}
	}
}

// TestInterfaceGone: Run ends with an error when the device closes by itself.
func TestInterfaceGone(t *testing.T) {
	n := &node{key: key.NewNode(), tun: newMemTUN(1)}
	n.bind = bind.New(bind.Config{Private: n.key})
	e, err := New(Config{TUN: n.tun, Name: "mem0", Bind: n.bind, Private: n.key, SocketDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.tun.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "went away") {
		t.Errorf("Run: %v", err)
	}
	e.Close()
}

// TestPortInUse: the error reaches whoever makes the engine.
func TestPortInUse(t *testing.T) {
	n := newNode(t, addresses[0], nil)
	k := key.NewNode()
	_, err := New(Config{TUN: newMemTUN(1), Name: "mem1", Bind: bind.New(bind.Config{Port: n.port, Private: k}), Private: k, SocketDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "used by another program") {
		t.Errorf("got %v", err)
	}
}
