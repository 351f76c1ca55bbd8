package system

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// back is how soon a ping must be answered after the network is there again.
const back = time.Second

// stream is a TCP connection through the tunnel on which data goes all the time. The far end tells the hash of what it received.
type stream struct {
	c     *net.TCPConn
	sent  hash.Hash
	stop  chan struct{}
	ended chan error
	told  chan string
}

// newStream connects from one device to another.
func newStream(t *testing.T, ctx context.Context, from, to *warrennet.Device) *stream {
	t.Helper()
	c, far := connect(t, ctx, from, to)
	return streamBetween(t, c, far)
}

// connect gives both ends of a TCP connection through the tunnel.
func connect(t *testing.T, ctx context.Context, from, to *warrennet.Device) (c, far net.Conn) {
	t.Helper()
	st, err := to.Status(ctx)
	must(t, err)
	l, err := to.Listen(net.JoinHostPort(st.Self.Addresses[0], "0"))
	must(t, err)
	defer l.Close()
	c, err = from.Dial(ctx, "tcp", l.Addr().String())
	must(t, err)
	far, err = l.Accept()
	must(t, err)
	return c, far
}

// newAnswer is newStream with the data going the other way, so that nothing but acknowledgements comes from the side that has connected.
func newAnswer(t *testing.T, ctx context.Context, from, to *warrennet.Device) *stream {
	t.Helper()
	c, far := connect(t, ctx, from, to)
	return streamBetween(t, far, c)
}

// streamBetween sends from one end of a connection to the other.
func streamBetween(t *testing.T, c, far net.Conn) *stream {
	t.Helper()
	s := &stream{c: c.(*net.TCPConn), sent: sha256.New(), stop: make(chan struct{}), ended: make(chan error, 1), told: make(chan string, 1)}
	t.Cleanup(func() {
		c.Close()
		far.Close()
	})
	go func() {
		received := sha256.New()
		_, _ = io.Copy(received, far)
		s.told <- hex.EncodeToString(received.Sum(nil))
	}()
	go func() { s.ended <- s.send() }()
	return s
}

// send writes a block every 20 ms until finish.
func (s *stream) send() error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	rng := rand.NewChaCha8([32]byte{1})
	for b := make([]byte, 4096); ; {
		select {
		case <-s.stop:
			return s.c.CloseWrite()
		case <-tick.C:
		}
		rng.Read(b)
		s.sent.Write(b)
		if _, err := s.c.Write(b); err != nil {
			return err
		}
	}
}

// finish ends the stream and compares.
func (s *stream) finish(t *testing.T, ctx context.Context) {
	t.Helper()
	close(s.stop)
	select {
	case err := <-s.ended:
		must(t, err)
	case <-ctx.Done():
		t.Fatal("the TCP connection is stuck")
	}
	select {
	case got := <-s.told:
		if want := hex.EncodeToString(s.sent.Sum(nil)); got != want {
			t.Errorf("received %s, sent %s", got, want)
		}
	case <-ctx.Done():
		t.Fatal("what was sent by TCP does not arrive")
	}
}

// answersWithin pings until an answer comes, which must be soon after the network was back.
func answersWithin(t *testing.T, ctx context.Context, what string, p *warrennet.Pinger, since time.Time, bound time.Duration) {
	t.Helper()
	if _, err := p.Until(ctx, 50*time.Millisecond); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	took := time.Since(since)
	t.Logf("%s: answered after %d ms", what, took.Milliseconds())
	if took > bound {
		t.Errorf("%s: answered after %s, want %s", what, took, bound)
	}
}

func site(t *testing.T, n *warrennet.Network, name string, kind lab.NAT) *lab.Site {
	t.Helper()
	s, err := n.Lab.Site(name, kind.Access())
	must(t, err)
	return s
}

// deviceAt is device for a host with uplinks at sites.
func deviceAt(t *testing.T, ctx context.Context, n *warrennet.Network, name string, sites ...*lab.Site) *warrennet.Device {
	t.Helper()
	h, err := n.Lab.HostAt(name, sites...)
	must(t, err)
	d := n.DeviceOn(h)
	must(t, d.StartDaemon(ctx))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s:\n%s", name, d.Daemon().Log())
		}
	})
	token, err := n.Token(ctx)
	must(t, err)
	must(t, d.Up(ctx, token))
	return d
}

// TestMove carries a laptop from one NAT to another, and back to the first with another address there, while its peer's TCP connection and its own
// ping go on.
//
//	desk --- easy NAT --- internet --- easy NAT (home) --- laptop
//	                             \--- easy NAT (café) ...
func TestMove(t *testing.T) {
	ctx, n := start(t)
	home, cafe := site(t, n, "home", lab.Easy), site(t, n, "cafe", lab.Easy)
	x := device(t, ctx, n, "desk", lab.Easy)
	y := deviceAt(t, ctx, n, "laptop", home)
	p, q := ping(t, ctx, y, x), ping(t, ctx, x, y)
	awaitDirect(t, ctx, x, y)
	s := newStream(t, ctx, x, y)
	for _, to := range []*lab.Site{cafe, home} {
		must(t, y.Move(to))
		began := time.Now()
		answersWithin(t, ctx, "ping from the laptop at "+to.Name, p, began, back)
		answersWithin(t, ctx, "ping to the laptop at "+to.Name, q, began, back)
		awaitDirect(t, ctx, x, y)
		t.Logf("direct after %d ms", time.Since(began).Milliseconds())
	}
	s.finish(t, ctx)
}

// TestAddressLost takes the laptop's address away and gives it another in the same network.
func TestAddressLost(t *testing.T) {
	ctx, _, x, y, q := pair(t, lab.Easy, lab.Easy)
	p := ping(t, ctx, y, x)
	awaitDirect(t, ctx, x, y)
	s := newStream(t, ctx, x, y)
	must(t, y.Readdress("eth0", netip.AddrFrom4([4]byte{y.Addr.As4()[0], y.Addr.As4()[1], y.Addr.As4()[2], 77})))
	began := time.Now()
	answersWithin(t, ctx, "ping from the new address", p, began, back)
	answersWithin(t, ctx, "ping to the new address", q, began, back)
	awaitDirect(t, ctx, x, y)
	s.finish(t, ctx)
}

// TestInterfaceDownAndUp takes the link down for longer than a path lives without an answer.
func TestInterfaceDownAndUp(t *testing.T) {
	ctx, _, x, y, q := pair(t, lab.Easy, lab.Easy)
	p := ping(t, ctx, y, x)
	awaitDirect(t, ctx, x, y)
	s := newStream(t, ctx, x, y)
	for _, away := range []time.Duration{500 * time.Millisecond, 8 * time.Second} {
		must(t, y.Unplug())
		losses(t, q, away)
		must(t, y.Plug())
		began := time.Now()
		answersWithin(t, ctx, "ping from the device after "+away.String(), p, began, back)
		answersWithin(t, ctx, "ping to the device after "+away.String(), q, began, back)
		awaitDirect(t, ctx, x, y)
	}
	s.finish(t, ctx)
}

// TestDefaultRouteChanges has a host with two uplinks prefer the other one, which must not disturb the path, for that leaves by the uplink of its
// source address, and then lose the uplinks in turn.
//
//	desk --- easy NAT --- internet --- easy NAT (fibre) --- eth0 office
//	                             \--- easy NAT (mobile) --- eth1
func TestDefaultRouteChanges(t *testing.T) {
	ctx, n := start(t)
	x := device(t, ctx, n, "desk", lab.Easy)
	y := deviceAt(t, ctx, n, "office", site(t, n, "fibre", lab.Easy), site(t, n, "mobile", lab.Easy))
	p, q := ping(t, ctx, y, x), ping(t, ctx, x, y)
	beginBy(t, ctx, x, y, y.Uplinks[0].Addr4, y.Uplinks[0].Public4)
	s := newStream(t, ctx, x, y)
	for _, step := range []struct {
		what string
		do   func() error
		by   int // the uplink that carries the tunnel then
	}{
		{"eth1 preferred", func() error { return y.Prefer("eth1") }, 0},
		{"eth1 lost", func() error { return y.Unplug("eth1") }, 0},
		{"eth1 back", func() error { return y.Plug("eth1") }, 0},
		{"eth0 lost", func() error { return y.Unplug("eth0") }, 1},
		{"eth0 back", func() error { return y.Plug("eth0") }, 1},
		{"eth1 lost again", func() error { return y.Unplug("eth1") }, 0},
	} {
		by := y.Uplinks[step.by]
		before, err := y.Status(ctx)
		must(t, err)
		must(t, step.do())
		began := time.Now()
		answersWithin(t, ctx, step.what+": ping from the host", p, began, back)
		answersWithin(t, ctx, step.what+": ping to the host", q, began, back)
		if path := before.Peer("desk").Path; path.Local == "" || netip.MustParseAddrPort(path.Local).Addr() == by.Addr4 {
			if lost := losses(t, q, time.Second); lost > 0 {
				t.Errorf("%s: %d pings were lost, though it does not concern %s", step.what, lost, by.Link)
			}
		}
		leavesBy(t, ctx, x, y, step.by)
	}
	s.finish(t, ctx)
}

// TestDefaultRouteChangesIPv6 is the same where only IPv6 leads straight to the peer. The kernel obeys the interface alone there, which the agent
// learns to name once the other route is preferred.
func TestDefaultRouteChangesIPv6(t *testing.T) {
	ctx, n := start(t)
	x := deviceAt(t, ctx, n, "desk", site(t, n, "desk", lab.IPv6Firewalled))
	y := deviceAt(t, ctx, n, "office", site(t, n, "fibre", lab.IPv6Firewalled), site(t, n, "mobile", lab.IPv6Firewalled))
	p, q := ping(t, ctx, y, x), ping(t, ctx, x, y)
	beginBy(t, ctx, x, y, y.Uplinks[0].Addr6, y.Uplinks[0].Addr6)
	s := newStream(t, ctx, x, y)
	for _, step := range []struct {
		what string
		do   func() error
		by   int
	}{
		{"eth1 preferred", func() error { return y.Prefer("eth1") }, 0},
		{"eth0 lost", func() error { return y.Unplug("eth0") }, 1},
		{"eth0 back", func() error { return y.Plug("eth0") }, 1},
		{"eth0 preferred", func() error { return y.Prefer("eth0") }, 1},
	} {
		must(t, step.do())
		began := time.Now()
		answersWithin(t, ctx, step.what+": ping from the host", p, began, back)
		answersWithin(t, ctx, step.what+": ping to the host", q, began, back)
		leavesFrom(t, ctx, x, y, y.Uplinks[step.by].Addr6, y.Uplinks[step.by].Addr6)
		if lost := losses(t, q, time.Second); lost > 0 {
			t.Errorf("%s: %d pings were lost afterwards", step.what, lost)
		}
		leavesFrom(t, ctx, x, y, y.Uplinks[step.by].Addr6, y.Uplinks[step.by].Addr6)
	}
	s.finish(t, ctx)
}

// beginBy has a device with two uplinks send to its peer by the first. Left alone it takes that which answers first, and they are alike.
func beginBy(t *testing.T, ctx context.Context, peer, d *warrennet.Device, from, seen netip.Addr) {
	t.Helper()
	must(t, d.Unplug("eth1"))
	leavesFrom(t, ctx, peer, d, from, seen)
	must(t, d.Plug("eth1"))
	knows(t, ctx, d, d.Uplinks...)
}

// leavesBy waits until what a device sends directly to its peer has the address of an uplink, and comes out of the NAT of that.
func leavesBy(t *testing.T, ctx context.Context, peer, d *warrennet.Device, uplink int) {
	t.Helper()
	leavesFrom(t, ctx, peer, d, d.Uplinks[uplink].Addr4, d.Uplinks[uplink].Public4)
}

// leavesFrom waits until a device sends directly to its peer from an address, which the peer sees as another.
func leavesFrom(t *testing.T, ctx context.Context, peer, d *warrennet.Device, from, seen netip.Addr) {
	t.Helper()
	is := func(end string, want netip.Addr) bool {
		a, err := netip.ParseAddrPort(end)
		return err == nil && a.Addr() == want
	}
	_, err := d.Await(ctx, "sending from "+from.String(), func(s *warrennet.Status) bool { return is(s.Peer(peer.Name).Path.Local, from) })
	must(t, err)
	_, err = peer.Await(ctx, "reaching "+seen.String(), func(s *warrennet.Status) bool { return is(s.Peer(d.Name).Path.Remote, seen) })
	must(t, err)
}

// TestStopped stops a daemon for longer than its NAT keeps a mapping, which is to it what sleep is.
func TestStopped(t *testing.T) {
	ctx, _, x, y, q := pair(t, lab.Easy, lab.ShortTimeout)
	p := ping(t, ctx, y, x)
	awaitDirect(t, ctx, x, y)
	s := newStream(t, ctx, x, y)
	must(t, syscall.Kill(y.Daemon().PID(), syscall.SIGSTOP))
	losses(t, q, 25*time.Second)
	must(t, syscall.Kill(y.Daemon().PID(), syscall.SIGCONT))
	began := time.Now()
	answersWithin(t, ctx, "ping from the device", p, began, back)
	answersWithin(t, ctx, "ping to the device", q, began, back)
	must(t, y.Daemon().AwaitLog(ctx, "woke from sleep or a stop"))
	awaitDirect(t, ctx, x, y)
	s.finish(t, ctx)
}

// TestMovedWhileStopped carries the laptop to another NAT while its daemon stands still: nothing of the old network is left when it goes on.
func TestMovedWhileStopped(t *testing.T) {
	ctx, n := start(t)
	cafe := site(t, n, "cafe", lab.ShortTimeout)
	x := device(t, ctx, n, "desk", lab.Easy)
	y := device(t, ctx, n, "laptop", lab.ShortTimeout)
	p, q := ping(t, ctx, y, x), ping(t, ctx, x, y)
	awaitDirect(t, ctx, x, y)
	s := newStream(t, ctx, x, y)
	must(t, syscall.Kill(y.Daemon().PID(), syscall.SIGSTOP))
	must(t, y.Move(cafe))
	losses(t, q, 25*time.Second)
	must(t, syscall.Kill(y.Daemon().PID(), syscall.SIGCONT))
	began := time.Now()
	answersWithin(t, ctx, "ping from the laptop", p, began, back)
	answersWithin(t, ctx, "ping to the laptop", q, began, back)
	awaitDirect(t, ctx, x, y)
	s.finish(t, ctx)
}
