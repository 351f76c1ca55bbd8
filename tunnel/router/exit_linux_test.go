package router

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"warren/internal/capture"
)

// abroad is a laptop that uses an exit node, while its own way to the internet stays there for the tunnel itself:
//
//	phone --- laptop ==tunnel== exit
//	             \              /
//	              --- internet --
//
// The phone is a client of the laptop's: it knows no other way.
type abroad struct {
	phone, laptop, exit, internet *station
	onLaptop, onExit              *Router
}

const far4, far6 = "198.51.100.1:80", "[2001:db8:1::1]:80"

func newAbroad(t *testing.T) *abroad {
	t.Helper()
	a := &abroad{phone: newStation(t, "phone"), laptop: newStation(t, "laptop"), exit: newStation(t, "exit"), internet: newStation(t, "internet")}
	connect(a.laptop, []string{"192.168.1.5/24", "2001:db8:5::5/64"}, a.internet, []string{"192.168.1.1/24", "2001:db8:5::1/64"})
	connect(a.exit, []string{"203.0.113.2/24", "2001:db8:2::2/64"}, a.internet, []string{"203.0.113.1/24", "2001:db8:2::1/64"})
	connect(a.phone, []string{"10.42.0.2/24", "2001:db8:42::2/64"}, a.laptop, []string{"10.42.0.1/24", "2001:db8:42::1/64"})
	a.internet.run("ip", "address", "add", "198.51.100.1/32", "dev", "lo")
	a.internet.run("ip", "address", "add", "2001:db8:1::1/128", "dev", "lo", "nodad")
	a.laptop.route("0.0.0.0/0", "192.168.1.1")
	a.laptop.route("::/0", "2001:db8:5::1")
	a.exit.route("0.0.0.0/0", "203.0.113.1")
	a.exit.route("::/0", "2001:db8:2::1")
	a.phone.route("0.0.0.0/0", "10.42.0.1")
	a.phone.route("::/0", "2001:db8:42::1")
	a.internet.route("2001:db8:42::/64", "2001:db8:5::5")
	a.laptop.sysctl(forwarding4, "1")
	a.laptop.sysctl(forwarding6, "1")
	for _, at := range []string{far4, far6, "192.168.1.1:53", "[2001:db8:5::1]:53", "198.51.100.1:53"} {
		a.internet.echo(at)
	}
	a.onLaptop, a.onExit = a.laptop.open(Config{}), a.exit.open(Config{})
	tunnel(a.onLaptop, a.onExit)
	s := gatewayState()
	s.Exit = Families{IPv4: true, IPv6: true}
	a.exit.apply(a.onExit, s)
	a.exit.echo("100.64.0.1:53")
	a.exit.echo("[fd00::1]:53")
	return a
}

// using is the laptop's state with an exit node; its own client's network stays out of the tunnel.
func using(defaults ...string) State {
	s := laptopState(defaults...)
	s.Local = list("10.42.0.0/24", "2001:db8:42::/64")
	return s
}

// TestExit sends all of a laptop, and of who is behind it, by an exit node, and the agent's own packets past it, with the strict reverse-path filter
// and without, and goes back.
func TestExit(t *testing.T) {
	for _, filter := range []string{"0", "1"} {
		t.Run("rp_filter "+filter, func(t *testing.T) {
			a := newAbroad(t)
			for _, conf := range []string{"all", "default", "internet", "phone"} {
				a.laptop.sysctl(conf4+conf+"/rp_filter", filter)
			}
			before := a.laptop.run("ip", "rule")
			a.laptop.apply(a.onLaptop, using())
			for _, network := range []string{"udp", "tcp"} {
				a.laptop.wantAnswer(network, far4, "internet saw 192.168.1.5")
				a.laptop.wantAnswer(network, far6, "internet saw 2001:db8:5::5")
			}
			s := using("0.0.0.0/0", "::/0")
			s.DNS = addrs("100.64.0.1", "fd00::1")
			a.laptop.apply(a.onLaptop, s)
			for _, network := range []string{"udp", "tcp"} {
				for _, who := range []*station{a.laptop, a.phone} {
					who.wantAnswer(network, far4, "internet saw 203.0.113.2")
					who.wantAnswer(network, far6, "internet saw 2001:db8:2::2")
					// Questions for names go to the exit node, also those for a server on the LAN or behind a narrower default.
					for _, server := range []string{"198.51.100.1:53", "192.168.1.1:53", "9.9.9.9:53"} {
						who.wantAnswer(network, server, "exit saw 100.64.0.9")
					}
					who.wantAnswer(network, "[2001:db8:5::1]:53", "exit saw fd00::9")
				}
				a.laptop.wantAnswer(network, far4, "internet saw 192.168.1.5", asAgent)
				a.laptop.wantAnswer(network, far6, "internet saw 2001:db8:5::5", asAgent)
				a.laptop.wantAnswer(network, "192.168.1.1:53", "internet saw 192.168.1.5", asAgent)
			}
			// The agent's sockets are reached by whom they have not sent to, too.
			a.laptop.echo("192.168.1.5:4000", asAgent)
			a.internet.wantAnswer("udp", "192.168.1.5:4000", "laptop saw 192.168.1.1")
			// What is forwarded to the very port of the agent's is none of them, and goes the way of all that is forwarded.
			a.laptop.echo("0.0.0.0:4001", asAgent)
			a.laptop.echo("[::]:4002", asAgent)
			for _, at := range []string{"198.51.100.1:4001", "[2001:db8:1::1]:4002"} {
				a.internet.echo(at)
			}
			for _, network := range []string{"udp", "tcp"} {
				a.phone.wantAnswer(network, "198.51.100.1:4001", "internet saw 203.0.113.2")
				a.phone.wantAnswer(network, "[2001:db8:1::1]:4002", "internet saw 2001:db8:2::2")
			}
			// Loopback and this host's own servers are nobody else's business.
			a.laptop.echo("127.0.0.1:53")
			a.laptop.wantAnswer("udp", "127.0.0.1:53", "laptop saw 127.0.0.1")
			a.laptop.echo("10.42.0.1:53")
			a.phone.wantAnswer("udp", "10.42.0.1:53", "laptop saw 10.42.0.2")

			a.laptop.apply(a.onLaptop, using())
			a.laptop.wantAnswer("tcp", far4, "internet saw 192.168.1.5")
			a.laptop.wantAnswer("udp", "192.168.1.1:53", "internet saw 192.168.1.5")
			a.laptop.do(a.onLaptop.Close)
			a.laptop.wantAnswer("tcp", far4, "internet saw 192.168.1.5")
			if left := a.laptop.run("nft", "list", "ruleset"); left != "" {
				t.Errorf("left behind:\n%s", left)
			}
			if after := a.laptop.run("ip", "rule"); after != before {
				t.Errorf("rules before:\n%s\nafter:\n%s", before, after)
			}
			a.laptop.sysctlIs(validMark, "0")
		})
	}
}

// TestExitSocketsThatStay: a resolver that keeps its socket is answered by the exit node as soon as there is one, by the next when that changes,
// and by its own server when there is none.
func TestExitSocketsThatStay(t *testing.T) {
	a := newAbroad(t)
	a.exit.run("ip", "address", "add", "100.64.0.2/32", "dev", "lo")
	a.exit.echo("100.64.0.2:53")
	var resolver net.Conn
	a.laptop.do(func() (err error) {
		resolver, err = net.Dial("udp", "192.168.1.1:53")
		return err
	})
	defer resolver.Close()
	want := func(when, want string) {
		t.Helper()
		// Not the first answer: that may be one to the question before, which took the other way.
		var got string
		var err error
		for end := time.Now().Add(patience); time.Now().Before(end); {
			if got, err = askOver(resolver); got == want && err == nil {
				return
			}
		}
		t.Errorf("%s: %q, %v; want %q", when, got, err, want)
	}
	want("before", "internet saw 192.168.1.5")
	s := using("0.0.0.0/0")
	s.DNS = addrs("100.64.0.1")
	a.laptop.apply(a.onLaptop, s)
	want("with an exit node", "exit saw 100.64.0.9")
	s.DNS = addrs("100.64.0.2")
	from := a.exit.capture(name)
	a.laptop.apply(a.onLaptop, s)
	want("with another", "exit saw 100.64.0.9")
	from.await(1, func(f capture.Frame) bool { return f.To == netip.MustParseAddr("100.64.0.2") })
	a.laptop.apply(a.onLaptop, using())
	want("afterwards", "internet saw 192.168.1.5")
}

// TestExitLocal: what stays out of the tunnel does so, under an exit node and under a route that covers it.
func TestExitLocal(t *testing.T) {
	a := newAbroad(t)
	a.internet.echo("192.168.1.1:631")
	s := using("0.0.0.0/0", "::/0")
	a.laptop.apply(a.onLaptop, s)
	a.laptop.wantAnswer("tcp", "192.168.1.1:631", "internet saw 203.0.113.2") // as the exit node finds it
	s.Local = append(s.Local, list("192.168.1.0/24")...)
	a.laptop.apply(a.onLaptop, s)
	a.laptop.wantAnswer("tcp", "192.168.1.1:631", "internet saw 192.168.1.5")
	s.Routes = append(s.Routes, list("192.168.0.0/16", "192.168.1.0/24")...)
	a.laptop.apply(a.onLaptop, s)
	a.laptop.wantAnswer("tcp", "192.168.1.1:631", "internet saw 192.168.1.5")
	a.laptop.wantAnswer("tcp", far4, "internet saw 203.0.113.2")
	s.Local = using().Local
	a.laptop.apply(a.onLaptop, s)
	a.laptop.wantAnswer("tcp", "192.168.1.1:631", "internet saw 203.0.113.2")
}

// TestExitBlocked: a family that the exit node does not have is refused at once, and nothing of it gets out, but into narrower routes.
func TestExitBlocked(t *testing.T) {
	a := newAbroad(t)
	c := a.internet.capture("laptop")
	s := using("0.0.0.0/0")
	s.Blocked, s.DNS = Families{IPv6: true}, addrs("100.64.0.1")
	a.laptop.apply(a.onLaptop, s)
	mark := c.mark(a.laptop)
	a.laptop.wantNone("tcp", far6, "connection refused")
	a.laptop.wantNone("udp", far6, "operation not permitted")
	a.laptop.wantNone("udp", "[2001:db8:5::1]:53", "operation not permitted")
	a.phone.wantNone("tcp", far6, "")
	a.phone.wantNone("udp", far6, "permission denied") // by ICMP
	a.phone.wantNone("udp", "[2001:db8:5::1]:53", "permission denied")
	for _, who := range []*station{a.laptop, a.phone} {
		who.wantAnswer("tcp", far4, "internet saw 203.0.113.2")
	}
	for _, p := range c.Since(mark) {
		if p.To.Is6() && !slices.ContainsFunc(scratch, func(s netip.Prefix) bool { return s.Contains(p.To) }) {
			t.Errorf("left the laptop: %s", p)
		}
	}
	a.laptop.wantAnswer("udp", "[fd00::1]:53", "exit saw fd00::9")
	a.laptop.wantAnswer("tcp", far6, "internet saw 2001:db8:5::5", asAgent)

	// The node itself is reached by IPv6 in the tunnel, and so is its forwarder.
	s.DNS = addrs("100.64.0.1", "fd00::1")
	a.laptop.apply(a.onLaptop, s)
	for _, network := range []string{"udp", "tcp"} {
		for _, who := range []*station{a.laptop, a.phone} {
			who.wantAnswer(network, "[2001:db8:5::1]:53", "exit saw fd00::9")
		}
	}
	a.laptop.wantNone("tcp", far6, "connection refused")

	// The other way round: an exit node that has IPv6 only.
	s = using("::/0")
	s.Blocked = Families{IPv4: true}
	a.laptop.apply(a.onLaptop, s)
	a.laptop.wantNone("tcp", far4, "connection refused")
	a.laptop.wantAnswer("tcp", far6, "internet saw 2001:db8:2::2")
}

// TestExitNeedsMarks: where sockets cannot be marked, or what keeps the rest from leaking cannot be had, no exit node is used; other routes are.
func TestExitNeedsMarks(t *testing.T) {
	a := newAbroad(t)
	s := using("0.0.0.0/0", "::/0", "10.5.0.0/16")
	s.KillSwitch = true
	a.onLaptop.canMark = func() error { return syscall.EPERM }
	err := a.laptop.try(func() error { return a.onLaptop.Apply(s) })
	if !errors.Is(err, ErrNoMark) || !strings.Contains(err.Error(), "neither an exit node nor the kill switch can be used") {
		t.Errorf("got %v", err)
	}
	a.laptop.wantAnswer("tcp", far4, "internet saw 192.168.1.5")
	if routes := a.laptop.run("ip", "route", "show", "table", "22359"); !strings.Contains(routes, "10.5.0.0/16") || strings.Contains(routes, "default") {
		t.Errorf("routes:\n%s", routes)
	}
	a.laptop.do(func() error {
		if on, err := KillSwitchOn(); on || err != nil {
			t.Errorf("kill switch: %v, %v", on, err)
		}
		return nil
	})
}
