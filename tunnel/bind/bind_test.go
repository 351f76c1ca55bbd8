package bind

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/conn"

	"warren/internal/udpbatch"
	"warren/proto/key"
)

const patience = 10 * time.Second

// packet is what came out of a receive function.
type packet struct {
	data string
	from *endpoint
}

// station is an open Bind whose receive functions run.
type station struct {
	*Bind
	key      key.NodePrivate
	received chan packet
	other    chan string // OnPacket: local, remote and data
	relayed  chan string
	stopped  sync.WaitGroup
}

func packets(sizes ...int) [][]byte {
	var out [][]byte
	for _, n := range sizes {
		out = append(out, make([]byte, n))
	}
	return out
}

func repeat(size, n int) []int { return slices.Repeat([]int{size}, n) }

func newStation(t testing.TB, change func(*Config), tune func(*udpbatch.Conn)) *station {
	t.Helper()
	s := &station{key: key.NewNode(), received: make(chan packet, 4096), other: make(chan string, 64), relayed: make(chan string, 64)}
	cfg := Config{
		Private: s.key,
		OnPacket: func(local netip.Addr, remote netip.AddrPort, b []byte) {
			s.other <- fmt.Sprintf("%s %s %s", local, remote.Addr(), b)
		},
		SendRelay: func(_ key.NodePublic, bufs [][]byte) error {
			s.relayed <- string(bytes.Join(bufs, []byte("|")))
			return nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	s.Bind = New(cfg)
	s.tune = tune
	s.open(t, 0)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		s.stopped.Wait()
	})
	return s
}

func (s *station) open(t testing.TB, port uint16) {
	t.Helper()
	fns, got, err := s.Open(port)
	if err != nil {
		t.Fatal(err)
	}
	if got == 0 || got != s.LocalPort() {
		t.Errorf("opened port %d, LocalPort %d", got, s.LocalPort())
	}
	for _, fn := range fns {
		s.stopped.Go(func() { s.receive(t, fn) })
	}
}

func (s *station) receive(t testing.TB, fn conn.ReceiveFunc) {
	bufs, sizes, eps := packets(repeat(1<<14, udpbatch.BatchSize)...), make([]int, udpbatch.BatchSize), make([]conn.Endpoint, udpbatch.BatchSize)
	for {
		n, err := fn(bufs, sizes, eps)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("receive function: %v", err)
			}
			return
		}
		for i := range n {
			s.received <- packet{string(bufs[i][:sizes[i]]), eps[i].(*endpoint)}
		}
	}
}

// knows makes s attribute messages for index to other, and send to it on the loopback address.
func (s *station) knows(t testing.TB, other *station, index uint32, addr string) conn.Endpoint {
	t.Helper()
	public := other.key.Public()
	ep, err := s.ParseEndpoint(public.String())
	if err != nil {
		t.Fatal(err)
	}
	s.index.learn(index, ep.(*endpoint), s.now())
	s.SetPath(public, Path{Kind: Direct, Remote: netip.AddrPortFrom(netip.MustParseAddr(addr), other.LocalPort())})
	return ep
}

func next[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// transport makes data messages for an index, told apart by their counter.
func transport(index uint32, sizes ...int) (out [][]byte) {
	for i, n := range sizes {
		m := message(4, n)
		binary.LittleEndian.PutUint32(m[4:], index)
		binary.LittleEndian.PutUint64(m[8:], uint64(i))
		out = append(out, m)
	}
	return out
}

// offloads runs a test with every combination of offloads, and with both address families.
func offloads(t *testing.T, run func(t *testing.T, change func(*Config), addr string)) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		for _, off := range []struct{ gso, gro bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
			t.Run(fmt.Sprintf("%s gso off %v gro off %v", addr, off.gso, off.gro), func(t *testing.T) {
				run(t, func(c *Config) { c.DisableGSO, c.DisableGRO = off.gso, off.gro }, addr)
			})
		}
	}
}

func TestDirect(t *testing.T) {
	offloads(t, func(t *testing.T, change func(*Config), addr string) {
		a, b := newStation(t, change, nil), newStation(t, change, nil)
		ab := a.knows(t, b, 1, addr)
		from := b.knows(t, a, 2, addr)
		sizes := slices.Concat(repeat(1452, 50), []int{100, 1452, 32, 9000, 200, 201}, repeat(500, 72))
		sent := transport(2, sizes...)
		if err := a.Send(sent, ab); err != nil {
			t.Fatal(err)
		}
		for i, m := range sent {
			got := next(t, b.received)
			if got.data != string(m) || got.from != from.(*endpoint) {
				t.Fatalf("message %d of %d bytes came as one of %d", i, len(m), len(got.data))
			}
		}
		lastSent, _ := a.Traffic(b.key.Public())
		_, lastReceived := b.Traffic(a.key.Public())
		if lastSent.IsZero() || lastReceived.IsZero() {
			t.Error("traffic left no trace")
		}
	})
}

func TestOtherPackets(t *testing.T) {
	offloads(t, func(t *testing.T, change func(*Config), addr string) {
		a, b := newStation(t, change, nil), newStation(t, change, nil)
		local := netip.MustParseAddr(addr)
		want := addr + " " + addr + " not WireGuard"
		if addr == "127.0.0.1" {
			local = netip.MustParseAddr("127.0.0.9") // pinned by packet info
			want = "127.0.0.1 127.0.0.9 not WireGuard"
		}
		if err := a.WriteTo(local, netip.AddrPortFrom(netip.MustParseAddr(addr), b.LocalPort()), []byte("not WireGuard")); err != nil {
			t.Fatal(err)
		}
		if got := next(t, b.other); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestPinnedSource: a path's local address is the packets' source, also for a whole train.
func TestPinnedSource(t *testing.T) {
	a, b := newStation(t, nil, nil), newStation(t, nil, nil)
	ep := a.knows(t, b, 1, "127.0.0.1")
	a.SetPath(b.key.Public(), Path{
		Kind: Direct, Local: netip.MustParseAddr("127.0.0.7"), Remote: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.LocalPort()),
	})
	for range 2 {
		if err := a.Send([][]byte{[]byte("one"), []byte("two"), []byte("3")}, ep); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"one", "two", "3"} {
			if got := next(t, b.other); got != "127.0.0.1 127.0.0.7 "+want {
				t.Errorf("got %q", got)
			}
		}
	}
	if got := ep.SrcToString(); got != "127.0.0.7" {
		t.Errorf("source shown as %q", got)
	}
}

func TestPaths(t *testing.T) {
	s := newStation(t, nil, nil)
	peer := key.NewNode().Public()
	ep, err := s.ParseEndpoint(peer.String())
	if err != nil {
		t.Fatal(err)
	}
	again, _ := s.ParseEndpoint(peer.String())
	if ep != again {
		t.Error("a peer has two endpoints")
	}
	if _, err := s.ParseEndpoint("192.0.2.1:51820"); err == nil {
		t.Error("an address is taken for a public key")
	}
	direct, relay := netip.MustParseAddrPort("[::ffff:192.0.2.1]:7"), netip.MustParseAddrPort("198.51.100.1:443")
	for _, c := range []struct {
		path  Path
		shown string
	}{
		{Path{}, "0.0.0.0:0"},
		{Path{Kind: Relay, RelayAddr: relay}, "198.51.100.1:443"},
		{Path{Kind: Direct}, "0.0.0.0:0"}, // no address: none
		{Path{Kind: Relay}, "0.0.0.0:0"},
	} {
		s.SetPath(peer, c.path)
		if got := ep.DstToString(); got != c.shown {
			t.Errorf("%+v is shown as %s, want %s", c.path, got, c.shown)
		}
		if err := s.Send([][]byte{[]byte("a"), []byte("b")}, ep); err != nil {
			t.Error(err)
		}
		if got := next(t, s.relayed); got != "a|b" {
			t.Errorf("%+v: relayed %q", c.path, got)
		}
	}
	s.SetPath(peer, Path{Kind: Direct, Remote: direct})
	if got := ep.DstToString(); got != "192.0.2.1:7" {
		t.Errorf("direct path shown as %s", got)
	}
	s.SetPath(key.NewNode().Public(), Path{})
	if len(s.endpoints.byKey) != 1 {
		t.Error("no path for an unknown peer makes an endpoint")
	}
	if err := s.Send(nil, &conn.StdNetEndpoint{}); !errors.Is(err, conn.ErrWrongEndpointType) {
		t.Errorf("foreign endpoint: %v", err)
	}
}

func TestNoRelayNoPath(t *testing.T) {
	b := New(Config{Private: key.NewNode()})
	ep, err := b.ParseEndpoint(key.NewNode().Public().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Send([][]byte{{1}}, ep); !errors.Is(err, errNoWay) {
		t.Errorf("got %v", err)
	}
}

// TestTraffic: keepalives and handshakes are not data that asks for an answer.
func TestTraffic(t *testing.T) {
	s := newStation(t, nil, nil)
	peer := key.NewNode().Public()
	ep, _ := s.ParseEndpoint(peer.String())
	for _, c := range []struct {
		m    []byte
		data bool
	}{{message(1, 148), false}, {message(2, 92), false}, {message(3, 64), false}, {message(4, 32), false}, {message(4, 48), true}} {
		if err := s.Send([][]byte{c.m}, ep); err != nil {
			t.Fatal(err)
		}
		if sent, received := s.Traffic(peer); sent.IsZero() == c.data || !received.IsZero() {
			t.Errorf("type %d of %d bytes: last sent %v, last received %v", c.m[0], len(c.m), sent, received)
		}
	}
	if sent, received := s.Traffic(key.NewNode().Public()); !sent.IsZero() || !received.IsZero() {
		t.Error("traffic of an unknown peer")
	}
}

// TestLearnsIndices from handshake messages on their way out, whole and no others.
func TestLearnsIndices(t *testing.T) {
	s := newStation(t, nil, nil)
	peer := key.NewNode().Public()
	ep, _ := s.ParseEndpoint(peer.String())
	for index, m := range map[uint32][]byte{
		11: message(1, 148), 12: message(2, 92), 13: message(3, 64), 14: message(4, 148), 15: message(4, 92), 16: message(1, 100),
	} {
		binary.LittleEndian.PutUint32(m[4:], index)
		if err := s.Send([][]byte{m}, ep); err != nil {
			t.Fatal(err)
		}
		if got, want := s.index.lookup(index, 1) != nil, index <= 12; got != want {
			t.Errorf("type %d of %d bytes: learnt %v, want %v", m[0], len(m), got, want)
		}
	}
	s.Forget(peer)
	if s.index.lookup(11, 1) != nil {
		t.Error("a forgotten peer keeps its indices")
	}
}

func TestOpenCloseCycles(t *testing.T) {
	s := newStation(t, nil, nil)
	port := s.LocalPort()
	if _, _, err := s.Open(0); !errors.Is(err, conn.ErrBindAlreadyOpen) {
		t.Errorf("second Open: %v", err)
	}
	peer, _ := s.ParseEndpoint(key.NewNode().Public().String())
	for range 3 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s.stopped.Wait() // every receive function ended
		if err := s.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		s.SetPath(peer.(*endpoint).key, Path{Kind: Direct, Remote: netip.MustParseAddrPort("127.0.0.1:9")})
		if err := s.Send([][]byte{{1}}, peer); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Send while closed: %v", err)
		}
		s.open(t, 0)
		if s.LocalPort() != port {
			t.Errorf("port %d, before %d", s.LocalPort(), port)
		}
		if err := s.WriteTo(netip.Addr{}, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), []byte("hello")); err != nil {
			t.Fatal(err)
		}
		next(t, s.other)
	}
}

func TestPortInUse(t *testing.T) {
	s := newStation(t, nil, nil)
	_, _, err := New(Config{Port: s.LocalPort(), Private: key.NewNode()}).Open(0)
	if !errors.Is(err, syscall.EADDRINUSE) || !bytes.Contains([]byte(err.Error()), fmt.Appendf(nil, "%d is used", s.LocalPort())) {
		t.Errorf("got %v", err)
	}
	// A port taken in one family only is no use either, but 0 finds another.
	c, err := net.ListenPacket("udp6", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	taken := uint16(c.LocalAddr().(*net.UDPAddr).Port)
	if _, _, err := New(Config{Port: taken, Private: key.NewNode()}).Open(0); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v", err)
	}
}

// TestSetPathRace: paths change while packets are sent; the race detector judges.
func TestSetPathRace(t *testing.T) {
	a, b := newStation(t, nil, nil), newStation(t, nil, nil)
	ep := a.knows(t, b, 1, "127.0.0.1")
	b.knows(t, a, 2, "127.0.0.1")
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 500 {
			addr := []string{"127.0.0.1", "::1"}[i%2]
			a.SetPath(b.key.Public(), Path{Kind: Direct, Remote: netip.AddrPortFrom(netip.MustParseAddr(addr), b.LocalPort())})
			a.index.learn(uint32(i)+100, ep.(*endpoint), a.now())
		}
	})
	wg.Go(func() {
		bufs := transport(2, repeat(100, 8)...)
		for range 500 {
			if err := a.Send(bufs, ep); err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Wait()
	next(t, b.received)
}

func TestStats(t *testing.T) {
	s := newStation(t, func(c *Config) { c.DisableGSO = true }, nil)
	got := s.Stats()
	if got.GSO4 || got.GSO6 {
		t.Error("GSO is on though switched off")
	}
	got.GRO4, got.GRO6 = false, false
	if diff := cmp.Diff(Stats{}, got); diff != "" {
		t.Errorf("a new Bind has counted:\n%s", diff)
	}
}

// TestBytesByWay: every byte is counted once, by the way that it took.
func TestBytesByWay(t *testing.T) {
	a, b := newStation(t, nil, nil), newStation(t, nil, nil)
	ab := a.knows(t, b, 1, "127.0.0.1")
	b.knows(t, a, 2, "127.0.0.1")
	sent := transport(2, 100, 1452, 9000)
	if err := a.Send(sent, ab); err != nil {
		t.Fatal(err)
	}
	for range sent {
		next(t, b.received)
	}
	public := b.key.Public()
	a.SetPath(public, Path{Kind: Direct, Remote: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.LocalPort()), MTU: 1280})
	if err := a.Send(transport(2, 200, 1400), ab); err != nil { // the second is too long for the path
		t.Fatal(err)
	}
	next(t, b.received)
	a.SetPath(public, Path{Kind: Relay})
	if err := a.Send(transport(2, 300), ab); err != nil {
		t.Fatal(err)
	}
	b.InjectRelay(a.key.Public(), transport(2, 300))
	next(t, b.received)
	if s := a.Stats(); s.SentDirect != 100+1452+9000+200 || s.SentRelay != 1400+300 || s.ReceivedDirect != 0 || s.ReceivedRelay != 0 {
		t.Errorf("sender: %+v", s)
	}
	if s := b.Stats(); s.ReceivedDirect != 100+1452+9000+200 || s.ReceivedRelay != 300 || s.SentDirect != 0 || s.SentRelay != 0 {
		t.Errorf("receiver: %+v", s)
	}
}
