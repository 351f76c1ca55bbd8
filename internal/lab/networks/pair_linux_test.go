package networks

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// switchOver is how long the traffic may stop when a gateway fails. Two seconds are promised, and measured by "make bench" on a machine that does nothing
// else; here all hosts share it with other tests.
const switchOver = 3 * time.Second

// talk is a connection that is used all the time, as an interactive session is.
type talk struct {
	net.Conn
	broken atomic.Pointer[error]
	back   atomic.Int64 // when the last byte came back, Unix nanoseconds
}

func (w *world) talk(from *lab.Host, to netip.AddrPort) *talk {
	w.t.Helper()
	c, _ := w.call(from, to)
	must(w.t, c.SetDeadline(time.Time{}))
	k := &talk{Conn: c}
	fail := func(err error) { k.broken.CompareAndSwap(nil, &err) }
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := c.Write([]byte("x")); err != nil {
				fail(err)
				return
			}
		}
	}()
	go func() {
		b := make([]byte, 1<<12)
		for {
			if _, err := c.Read(b); err != nil {
				fail(err)
				return
			}
			k.back.Store(time.Now().UnixNano())
		}
	}()
	return k
}

// alive waits until something sent after since has come back.
func (k *talk) alive(ctx context.Context, since time.Time) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := k.broken.Load(); err != nil {
			return *err
		}
		if k.back.Load() > since.UnixNano() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// pair is a data center with two gateways, and a laptop that uses the first. The center's hosts send what is for the tunnel to the second, as they would
// to a VRRP master that is not the gateway which the laptop uses.
//
//	laptop --- NAT --- internet --- NAT --- dc1gw1 --- 10.1.0.0/16 --- 10.1.0.10
//	                           `--- NAT --- dc1gw2 ---'
type pair struct {
	*center
	laptop *warrennet.Device
}

func (w *world) pair() *pair {
	w.t.Helper()
	c := w.center(1, 2, "--probe", "10.1.0.10")
	must(w.t, c.host.Route(netip.MustParsePrefix("0.0.0.0/0"), c.lan.Address4(2)))
	return &pair{c, w.laptop(c)}
}

// laptop joins, and uses the first gateway of a center when it knows that both work and reaches both directly.
func (w *world) laptop(c *center) *warrennet.Device {
	w.t.Helper()
	laptop := w.device(w.host(w.Lab.Host("laptop", lab.Easy)), "ann")
	w.awaitRoute(laptop, c.v4, c.gateways[0].Name)
	w.ping(laptop.Host, c.host.Addr)
	w.awaitWell(laptop, c.v4, c.gateways[0].Name, c.gateways[1].Name)
	for _, g := range c.gateways {
		_, err := laptop.AwaitPath(w.ctx, g.Name, "direct")
		must(w.t, err)
	}
	return laptop
}

// fault is a way in which a gateway of a center fails. What undoes it may be nil.
type fault struct {
	name     string
	do, undo func(w *world, c *center, g *warrennet.Device) error
}

func faults() []fault {
	block := "add table ip block; add chain ip block f { type filter hook forward priority 10; policy drop; }"
	return []fault{
		{"daemon killed", func(_ *world, _ *center, g *warrennet.Device) error {
			_ = g.Daemon().Signal(syscall.SIGKILL)
			return nil
		}, nil},
		{"daemon stopped", func(_ *world, _ *center, g *warrennet.Device) error { return g.Daemon().Signal(syscall.SIGTERM) }, nil},
		{"uplink cut", func(_ *world, _ *center, g *warrennet.Device) error { return g.Unplug() }, nil},
		{"LAN cut", func(_ *world, c *center, g *warrennet.Device) error { return c.lan.Cut(g.Host, "eth1") },
			func(_ *world, c *center, g *warrennet.Device) error { return c.lan.Mend(g.Host, "eth1") }},
		{"forwarding off", func(_ *world, _ *center, g *warrennet.Device) error { return g.Sysctl("ipv4/ip_forward", "0") }, nil},
		{"firewall", func(w *world, _ *center, g *warrennet.Device) error { return w.nft(g, block) }, nil},
	}
}

// use is a ping and a connection from a pair's laptop to its host while gateways fail.
type use struct {
	*talk
	meter *warrennet.Meter
}

func (w *world) use(p *pair) *use {
	w.t.Helper()
	at := netip.AddrPortFrom(p.host.Addr, 8080)
	w.server(p.host, at)
	u := &use{talk: w.talk(p.laptop.Host, at)}
	var err error
	u.meter, err = warrennet.NewMeter(w.ctx, p.laptop.Host, p.host.Addr.String())
	must(w.t, err)
	w.t.Cleanup(u.meter.Close)
	return u
}

// goesOn waits until the connection is used again, and has it that the ping was not answered for no longer than that.
func (w *world) goesOn(u *use, since time.Time, atMost time.Duration) {
	w.t.Helper()
	within, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	must(w.t, u.alive(within, time.Now()))
	lost := u.meter.Longest(since)
	w.t.Logf("%.2f s without answers", lost.Seconds())
	if lost > atMost {
		w.t.Errorf("the ping was not answered for %s, more than %s", lost, atMost)
	}
}

// TestGatewayPair: the gateway in use fails, in each of the ways that there are, under a running ping and an open connection. Both go on over the other
// gateway, and go back when the first one has been well for a while.
func TestGatewayPair(t *testing.T) {
	for _, f := range faults() {
		w := newWorld(t, sites)
		p := w.pair()
		t.Run(f.name, func(t *testing.T) {
			w.t = t
			w.failOver(p, f)
		})
		w.Close()
	}
}

func (w *world) failOver(p *pair, f fault) {
	first, second := p.gateways[0], p.gateways[1]
	u := w.use(p)
	began := time.Now()
	must(w.t, f.do(w, p.center, first))
	w.awaitRoute(p.laptop, p.v4, second.Name)
	w.goesOn(u, began, switchOver)
	if f.undo == nil {
		return
	}
	must(w.t, f.undo(w, p.center, first))
	back := time.Now()
	w.awaitRoute(p.laptop, p.v4, first.Name)
	w.goesOn(u, back, 300*time.Millisecond)
}

// TestDifferentGateways: two laptops use different gateways of one data center, whose hosts send to one of them: the one has seen the first gateway fail and
// waits until it has been well for long enough, the other has come since. Connections are opened both ways.
func TestDifferentGateways(t *testing.T) {
	w := newWorld(t, sites)
	p := w.pair()
	first, second := p.gateways[0], p.gateways[1]
	must(t, p.lan.Cut(first.Host, "eth1"))
	w.awaitRoute(p.laptop, p.v4, second.Name)
	must(t, p.lan.Mend(first.Host, "eth1"))
	w.awaitWell(p.laptop, p.v4, first.Name, second.Name)
	other := w.device(w.host(w.Lab.Host("other", lab.Easy)), "ann")
	w.awaitRoute(other, p.v4, first.Name)
	at := netip.AddrPortFrom(p.host.Addr, 8080)
	w.server(p.host, at)
	for _, d := range []*warrennet.Device{p.laptop, other} {
		c, seen := w.call(d.Host, at)
		st, err := d.Status(w.ctx)
		must(t, err)
		if seen != st.Self.Addresses[0] {
			t.Errorf("%s is seen as %s, not as %s", d.Name, seen, st.Self.Addresses[0])
		}
		w.through(c, 1<<20)
		own := netip.AddrPortFrom(netip.MustParseAddr(st.Self.Addresses[0]), 9090)
		w.server(d.Host, own)
		back, seen := w.call(p.host, own)
		if seen != p.host.Addr.String() {
			t.Errorf("the host is seen as %s by %s", seen, d.Name)
		}
		w.through(back, 1<<20)
	}
	w.awaitRoute(p.laptop, p.v4, second.Name) // still, or the test has shown nothing
	w.awaitRoute(other, p.v4, first.Name)
}

// TestWiderRouteServes: when the only gateway of a CIDR dies, that of a wider one, which reaches the same hosts, carries their packets, until the first
// has been well again for a while.
func TestWiderRouteServes(t *testing.T) {
	w := newWorld(t, strings.ReplaceAll(sites, `"dst": ["dc1", "dc2", "dc1v6", "dc2v6"]`, `"dst": ["10.0.0.0/8"]`))
	c := w.center(1, 1, "--probe", "10.1.0.10")
	narrow := c.gateways[0]
	h := w.host(w.Lab.Host("wide", lab.Easy))
	must(t, c.lan.Plug(h, "eth1", 2))
	w.device(h, "tag:gateway", "--site", "10.0.0.0/8", "--probe", "10.1.0.10")
	laptop := w.device(w.host(w.Lab.Host("laptop", lab.Easy)), "ann")
	w.awaitRoute(laptop, c.v4, narrow.Name)
	w.awaitRoute(laptop, "10.0.0.0/8", "wide")
	p := w.ping(laptop.Host, c.host.Addr)
	w.awaitWell(laptop, "10.0.0.0/8", "wide")

	_ = narrow.Daemon().Signal(syscall.SIGKILL)
	must(t, c.host.Route(netip.MustParsePrefix("0.0.0.0/0"), c.lan.Address4(2))) // as its router would
	died := time.Now()
	within, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	_, err := p.Until(within, 100*time.Millisecond)
	must(t, err)
	t.Logf("the wider route served after %.2f s", time.Since(died).Seconds())
	w.awaitRoute(laptop, c.v4, "")
	if s, err := laptop.Status(w.ctx); err != nil || s.Route(c.v4) == nil || s.Route(c.v4).Use != "none" {
		t.Errorf("the route is told as %+v, %v", s.Route(c.v4), err)
	}
}
