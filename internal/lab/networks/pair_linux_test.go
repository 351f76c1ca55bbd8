package networks

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// switchOver is how long the traffic may stop when a gateway fails.
const switchOver = 2 * time.Second

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

// TestGatewayPair: of two gateways of a data center the one in use fails in one way after another, and comes back each time. The hosts of the center send
// what is for the tunnel to the other one, as they would to a VRRP master that is not the one which the laptop uses.
//
//	laptop --- NAT --- internet --- NAT --- dc1gw1 --- 10.1.0.0/16 --- 10.1.0.10
//	                           `--- NAT --- dc1gw2 ---'
func TestGatewayPair(t *testing.T) {
	w := newWorld(t, sites)
	c := w.center(1, 2, "--probe", "10.1.0.10")
	must(t, c.host.Route(netip.MustParsePrefix("0.0.0.0/0"), c.lan.Address4(2)))
	laptop := w.device(w.host(w.Lab.Host("laptop", lab.Easy)), "ann")
	first, second := c.gateways[0], c.gateways[1]
	w.awaitRoute(laptop, c.v4, first.Name)
	w.ping(laptop.Host, c.host.Addr)
	at := netip.AddrPortFrom(c.host.Addr, 8080)
	w.server(c.host, at)
	session := w.talk(laptop.Host, at)
	meter, err := warrennet.NewMeter(w.ctx, laptop.Host, c.host.Addr.String())
	must(t, err)
	defer meter.Close()
	w.awaitWell(laptop, c.v4, first.Name, second.Name)
	for _, gateway := range c.gateways {
		_, err := laptop.AwaitPath(w.ctx, gateway.Name, "direct")
		must(t, err)
	}

	for _, fault := range []struct {
		name      string
		do, undo  func() error
		holdsTalk bool
	}{
		{"daemon killed", func() error { _ = first.Daemon().Signal(syscall.SIGKILL); return nil }, func() error { return first.StartDaemon(w.ctx) }, true},
		{"LAN cut", func() error { return c.lan.Cut(first.Host, "eth1") }, func() error { return c.lan.Mend(first.Host, "eth1") }, true},
		{"forwarding off", func() error { return first.Sysctl("ipv4/ip_forward", "0") }, func() error { return first.Sysctl("ipv4/ip_forward", "1") }, true},
		{"firewall", func() error {
			return w.nft(first, "add table ip block; add chain ip block f { type filter hook forward priority 10; policy drop; }")
		},
			func() error { return w.nft(first, "delete table ip block") }, true},
		{"uplink cut", func() error { return first.Unplug() }, func() error { return first.Plug() }, true},
	} {
		began := time.Now()
		must(t, fault.do())
		w.awaitRoute(laptop, c.v4, second.Name)
		within, cancel := context.WithTimeout(w.ctx, patience)
		must(t, session.alive(within, time.Now()))
		cancel()
		lost := meter.Longest(began)
		t.Logf("%s: %.2f s without answers", fault.name, lost.Seconds())
		if lost > switchOver {
			t.Errorf("%s: the ping was not answered for %s, more than %s", fault.name, lost, switchOver)
		}
		must(t, fault.undo())
		back := time.Now()
		w.awaitRoute(laptop, c.v4, first.Name)
		if lost := meter.Longest(back); lost > 300*time.Millisecond {
			t.Errorf("after %s: the ping was not answered for %s on the way back", fault.name, lost)
		}
		w.awaitWell(laptop, c.v4, first.Name, second.Name)
	}
}
