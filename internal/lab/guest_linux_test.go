package lab

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"warren/internal/sim/natmodel"
)

// TestGuest: a machine that is plugged in at a site's router by an interface of its own reaches the internet as the addresses say that it got, and
// does not with its cable out.
func TestGuest(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	server, err := l.Host("server", None)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := server.Listen(server.Addr.String() + ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for name, access := range map[string]Access{"translated": {NAT: natmodel.Easy()}, "public": {MTU: 1500}} {
		site, err := l.Site(name, access)
		if err != nil {
			t.Fatal(err)
		}
		g, err := site.Guest()
		if err != nil {
			t.Fatal(err)
		}
		machine, err := l.newHost(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{
			plainCable(machine, "host0", site.Router(), "ve-x", 0), g.Plug("ve-x"), machine.raise("host0", g.Addr),
			machine.awaitUp("host0"), site.Router().awaitUp("ve-x"), machine.route(netip.MustParsePrefix("0.0.0.0/0"), g.Gateway),
		} {
			if err != nil {
				t.Fatal(name, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := machine.Dial(ctx, "tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(name, err)
		}
		defer c.Close()
		there, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer there.Close()
		if seen := netip.MustParseAddrPort(there.RemoteAddr().String()).Addr(); seen != g.Public {
			t.Errorf("%s: seen as %s, not %s", name, seen, g.Public)
		}
		if err := g.Unplug("ve-x"); err != nil {
			t.Fatal(err)
		}
		soon, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if c, err := machine.Dial(soon, "tcp", listener.Addr().String()); err == nil {
			c.Close()
			t.Errorf("%s: the internet is reached without a cable", name)
		}
	}
	direct, err := l.Site("direct", Access{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := direct.Guest(); err == nil {
		t.Error("a site without a router takes a guest")
	}
}
