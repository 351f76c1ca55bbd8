package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/internal/sim/natmodel"
)

func mustSite(t *testing.T, l *Lab, name string, a Access) *Site {
	t.Helper()
	s, err := l.Site(name, a)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustHostAt(t *testing.T, l *Lab, name string, sites ...*Site) *Host {
	t.Helper()
	h, err := l.HostAt(name, sites...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// serve answers each TCP connection with the address that it came from.
func serve(t *testing.T, h *Host, address string) {
	t.Helper()
	listener, err := h.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
			c.Close()
		}
	}()
}

// ask connects to a server of serve and gives what it said, or "" if there was silence.
func ask(t *testing.T, h *Host, to netip.AddrPort, wait time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", to.String())
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestKindsHaveNames(t *testing.T) {
	for _, n := range Kinds() {
		if got, err := ParseNAT(n.String()); err != nil || got != n {
			t.Errorf("%s is parsed as %s, %v", n, got, err)
		}
		if err := n.Access().check(); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
	if _, err := ParseNAT("soft"); err == nil || !strings.Contains(err.Error(), `"soft"`) || !strings.Contains(err.Error(), "same-nat-hairpin") {
		t.Errorf("an unknown kind: %v", err)
	}
}

func TestAccessThatMakesNoSense(t *testing.T) {
	l := newLab(t)
	for want, a := range map[string]Access{
		"neither IPv4 nor IPv6":      {NoIPv4: true},
		"nothing to translate":       {NoIPv4: true, IPv6: OpenIPv6, NAT: natmodel.Easy()},
		"port mapping needs one NAT": {PortMapping: true},
		"an MTU of 1279":             {MTU: 1279},
		"a black hole needs an MTU":  {BlackHole: true},
		"a NAT must map":             {NAT: &natmodel.Options{}},
		"a NAT of its own":           {CGNAT: natmodel.Easy(), Block: BlockUDP},
	} {
		if _, err := l.Site("site", a); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v; want %q", a, err, want)
		}
	}
	if _, err := l.HostAt("nowhere"); err == nil {
		t.Error("a host at no site")
	}
	full := mustSite(t, l, "full", Access{Block: BlockUDP})
	mustHostAt(t, l, "first", full)
	if _, err := full.Host("second"); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("a second host in a /30: %v", err)
	}
}

// TestCGNAT shows that the provider's inside is 100.64.0.0/10, where an overlay may be too, and that a host can be there without a router:
//
//	home --- router --- 100.64.N.0/24 --- CGNAT --- internet --- server
//	phone ------------- 100.64.M.0/24 --- CGNAT ---/
func TestCGNAT(t *testing.T) {
	l := newLab(t)
	provider := netip.MustParsePrefix("100.64.0.0/10")
	server := mustHost(t, l, "server", None)
	serve(t, server, ":80")
	home := mustSite(t, l, "home", HardCGNAT.Access())
	h, phone := mustHostAt(t, l, "h", home), mustHostAt(t, l, "phone", mustSite(t, l, "mobile", Access{CGNAT: natmodel.Hard()}))
	if router := home.Router().Uplinks[0].Addr4; !provider.Contains(router) || !provider.Contains(phone.Addr) || provider.Contains(h.Addr) {
		t.Errorf("router %s, phone %s, host %s; want the first two in %s", router, phone.Addr, h.Addr, provider)
	}
	for _, h := range []*Host{h, phone} {
		if got := ask(t, h, netip.AddrPortFrom(server.Public, 80), soon); got != h.Public.String() || provider.Contains(h.Public) {
			t.Errorf("%s is seen as %q, want %s", h.Name, got, h.Public)
		}
	}
}

// TestSharedNAT has two hosts behind one box reach each other on the LAN, unless they are isolated there, and not at their external address,
// since the kernel's NAT does not hairpin:
//
//	a ---\
//	      easy NAT --- internet --- server
//	b ---/
func TestSharedNAT(t *testing.T) {
	for _, isolated := range []bool{false, true} {
		t.Run(fmt.Sprintf("isolated=%t", isolated), func(t *testing.T) {
			l := newLab(t)
			access := SameNAT.Access()
			access.Isolated = isolated
			site := mustSite(t, l, "site", access)
			server, a, b := mustHost(t, l, "server", None), mustHostAt(t, l, "a", site), mustHostAt(t, l, "b", site)
			if a.Public != b.Public || a.Addr == b.Addr {
				t.Fatalf("a is %s at %s, b %s at %s", a.Addr, a.Public, b.Addr, b.Public)
			}
			sa, sb, ss := socket(t, a, ":41000"), socket(t, b, ":41000"), socket(t, server, ":1000")
			send(t, sa, netip.AddrPortFrom(server.Public, 1000), "a")
			ma, _ := receive(t, ss, soon)
			send(t, sb, netip.AddrPortFrom(server.Public, 1000), "b")
			mb, _ := receive(t, ss, soon)
			if !ma.IsValid() || !mb.IsValid() || ma == mb || ma.Port() != 41000 {
				t.Errorf("a is mapped to %s and b to %s", ma, mb)
			}
			send(t, sb, netip.AddrPortFrom(a.Addr, 41000), "lan")
			wait := soon
			if isolated {
				wait = never
			}
			if from, _ := receive(t, sa, wait); from.IsValid() == isolated {
				t.Errorf("on the LAN a hears from %s", from)
			}
			send(t, sb, ma, "hairpin")
			if from, _ := receive(t, sa, never); from.IsValid() {
				t.Errorf("a hears from %s by hairpin", from)
			}
		})
	}
	l := newLab(t)
	a, b, other := mustHost(t, l, "a", SameNAT), mustHost(t, l, "b", SameNAT), mustHost(t, l, "other", Easy)
	if a.Public != b.Public || a.Public == other.Public {
		t.Errorf("hosts of kind %s have the public addresses %s and %s, one of another %s", SameNAT, a.Public, b.Public, other.Public)
	}
}

// TestIPv6 sends between a host with open IPv6 and one whose firewall lets only replies in; v6 has no IPv4 at all.
//
//	open --- internet --- firewall --- host
//	           \--- v6
func TestIPv6(t *testing.T) {
	l := newLab(t)
	open := mustHostAt(t, l, "open", mustSite(t, l, "open", Access{IPv6: OpenIPv6}))
	host := mustHost(t, l, "host", IPv6Firewalled)
	only := mustHostAt(t, l, "v6", mustSite(t, l, "v6", Access{NoIPv4: true, IPv6: OpenIPv6}))
	if !open.Addr.IsValid() || !host.Addr.IsValid() || only.Addr.IsValid() || only.Public.IsValid() {
		t.Errorf("IPv4 of open %s, host %s, v6 %s", open.Addr, host.Addr, only.Addr)
	}
	so, sh, sv := socket(t, open, ":1000"), socket(t, host, ":1000"), socket(t, only, ":1000")
	at := func(h *Host) netip.AddrPort { return netip.AddrPortFrom(h.Addr6, 1000) }
	send(t, so, at(host), "unsolicited")
	if from, _ := receive(t, sh, never); from.IsValid() {
		t.Errorf("the firewall lets %s in", from)
	}
	send(t, sh, at(open), "out")
	if from, _ := receive(t, so, soon); from != at(host) {
		t.Errorf("open hears from %s, want the host's own address %s", from, at(host))
	}
	send(t, so, at(host), "reply")
	if from, _ := receive(t, sh, soon); from != at(open) {
		t.Errorf("the reply came from %s", from)
	}
	send(t, sv, at(host), "unsolicited too")
	if from, _ := receive(t, sh, never); from.IsValid() {
		t.Errorf("the firewall lets %s in", from)
	}
	send(t, sv, at(open), "hello")
	if from, _ := receive(t, so, soon); from != at(only) {
		t.Errorf("open hears from %s, want %s", from, at(only))
	}
	if _, err := only.Dial(t.Context(), "tcp", netip.AddrPortFrom(open.Public, 80).String()); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("a host without IPv4 connects by it: %v", err)
	}
}

// TestBrokenV4 has IPv4 that looks fine and goes nowhere.
//
//	host --- router (loses IPv4) --- internet --- server
func TestBrokenV4(t *testing.T) {
	l := newLab(t)
	host := mustHost(t, l, "host", BrokenV4)
	server := mustHostAt(t, l, "server", mustSite(t, l, "server", Access{IPv6: OpenIPv6}))
	serve(t, server, ":80")
	if got := ask(t, host, netip.AddrPortFrom(server.Addr, 80), never); got != "" {
		t.Errorf("IPv4 works: %q", got)
	}
	if got := ask(t, host, netip.AddrPortFrom(server.Addr6, 80), soon); got != host.Addr6.String() {
		t.Errorf("by IPv6 the server sees %q, want %s", got, host.Addr6)
	}
	c := socket(t, server, ":1000")
	send(t, c, netip.AddrPortFrom(host.Addr6, 9), "nothing filters IPv6")
	sh := socket(t, host, ":1000")
	send(t, c, netip.AddrPortFrom(host.Addr6, 1000), "x")
	if _, text := receive(t, sh, soon); text != "x" {
		t.Error("open IPv6 lets nothing in")
	}
}

// TestDoubleHomed goes out by the first uplink, by the second what is bound to it, and by the second all when the first is down.
//
//	     /--- easy NAT ---\
//	host                   internet --- server
//	     \--- easy NAT ---/
func TestDoubleHomed(t *testing.T) {
	l := newLab(t)
	server := mustHostAt(t, l, "server", mustSite(t, l, "server", Access{IPv6: OpenIPv6}))
	serve(t, server, ":80")
	access := Access{NAT: natmodel.Easy(), IPv6: FirewalledIPv6}
	host := mustHostAt(t, l, "host", mustSite(t, l, "cable", access), mustSite(t, l, "mobile", access))
	first, second := host.Uplinks[0], host.Uplinks[1]
	if first.Link != "eth0" || second.Link != "eth1" || first.Public4 == second.Public4 || host.Public != first.Public4 {
		t.Fatalf("uplinks %+v and %+v", first, second)
	}
	at4, at6 := netip.AddrPortFrom(server.Addr, 80), netip.AddrPortFrom(server.Addr6, 80)
	check := func(when string, u *Uplink) {
		t.Helper()
		if got := ask(t, host, at4, soon); got != u.Public4.String() {
			t.Errorf("%s: the server sees %q, want %s", when, got, u.Public4)
		}
		if got := ask(t, host, at6, soon); got != u.Addr6.String() {
			t.Errorf("%s: the server sees %q, want %s", when, got, u.Addr6)
		}
	}
	check("both up", first)
	c, s := socket(t, host, ":0"), socket(t, server, ":1000")
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var bindErr error
	if err := raw.Control(func(fd uintptr) {
		bindErr = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "eth1")
	}); err != nil || bindErr != nil {
		t.Fatal(err, bindErr)
	}
	send(t, c, netip.AddrPortFrom(server.Addr, 1000), "by the second")
	if from, _ := receive(t, s, soon); from.Addr() != second.Public4 {
		t.Errorf("what is bound to eth1 comes from %s, want %s", from, second.Public4)
	}
	if err := host.Unplug("eth0"); err != nil {
		t.Fatal(err)
	}
	check("first down", second)
	if err := host.Plug("eth0"); err != nil {
		t.Fatal(err)
	}
	check("first up again", first)
	for range 10 { // nothing sent by it the moment after goes another way, or is lost
		if err := errors.Join(host.Unplug("eth0"), host.Plug("eth0")); err != nil {
			t.Fatal(err)
		}
		check("first down and up again", first)
	}
}

// TestMTU sends datagrams that may not be fragmented over a cable that is too narrow for some of them.
//
//	host --- router === 1280 bytes === internet --- server
func TestMTU(t *testing.T) {
	for _, tc := range []struct {
		name string
		a    Access
		told bool
	}{
		{"told", Access{NAT: natmodel.Easy(), IPv6: OpenIPv6, MTU: 1280}, true},
		{"black hole", Access{NAT: natmodel.Easy(), IPv6: OpenIPv6, MTU: 1280, BlackHole: true}, false},
		{"black hole, no NAT", Access{IPv6: OpenIPv6, MTU: 1280, BlackHole: true}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t)
			server := mustHostAt(t, l, "server", mustSite(t, l, "server", Access{IPv6: OpenIPv6}))
			host := mustHostAt(t, l, "host", mustSite(t, l, "narrow", tc.a))
			for _, to := range []netip.Addr{server.Addr, server.Addr6} {
				network, overhead := "udp4", 28
				if to.Is6() {
					network, overhead = "udp6", 48
				}
				s, c := unfragmented(t, server, network, 1000), unfragmented(t, host, network, 1000)
				send(t, c, netip.AddrPortFrom(to, 1000), strings.Repeat("x", 1280-overhead))
				back, text := receive(t, s, soon)
				if len(text) != 1280-overhead {
					t.Fatalf("%s: %d bytes of a datagram that fits arrived", network, len(text))
				}
				for _, dir := range []struct {
					name     string
					from, to *net.UDPConn
					at       netip.AddrPort
				}{{"out", c, s, netip.AddrPortFrom(to, 1000)}, {"in", s, c, back}} {
					send(t, dir.from, dir.at, strings.Repeat("y", 1281-overhead))
					if _, text := receive(t, dir.to, never); text != "" {
						t.Errorf("%s %s: a datagram of 1281 bytes arrives", network, dir.name)
					}
					_, err := dir.from.WriteToUDPAddrPort(make([]byte, 1400), dir.at)
					if told := errors.Is(err, unix.EMSGSIZE); told != tc.told {
						t.Errorf("%s %s: then sending more gives %v", network, dir.name, err)
					}
				}
			}
			serve(t, server, ":80")
			if got := ask(t, host, netip.AddrPortFrom(server.Addr, 80), soon); got != host.Public.String() {
				t.Errorf("TCP: the server sees %q", got)
			}
		})
	}
}

// unfragmented opens a socket that sets Don't Fragment and believes what ICMP says of the path.
func unfragmented(t *testing.T, h *Host, network string, port int) (c *net.UDPConn) {
	t.Helper()
	err := h.Do(func() (err error) {
		if c, err = net.ListenUDP(network, &net.UDPAddr{Port: port}); err != nil {
			return err
		}
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		var set error
		err = raw.Control(func(fd uintptr) {
			if network == "udp4" {
				set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			} else {
				set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
			}
		})
		return errors.Join(err, set)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestTimeout has a mapping end after a second of silence: its port then lets nothing in, and the next packet gets another.
//
//	host --- hard NAT, 1 s --- internet --- server
func TestTimeout(t *testing.T) {
	l := newLab(t)
	o := natmodel.Hard()
	o.Timeout = time.Second
	server, host := mustHost(t, l, "server", None), mustHostAt(t, l, "host", mustSite(t, l, "site", Access{NAT: o}))
	s, c := socket(t, server, ":1000"), socket(t, host, ":1000")
	to := netip.AddrPortFrom(server.Addr, 1000)
	send(t, c, to, "1")
	first, _ := receive(t, s, soon)
	send(t, s, first, "in time")
	if _, text := receive(t, c, soon); text != "in time" {
		t.Error("the answer in time was lost")
	}
	if from, _ := receive(t, c, 1500*time.Millisecond); from.IsValid() { // silence
		t.Errorf("unexpected datagram from %s", from)
	}
	send(t, s, first, "late")
	if _, text := receive(t, c, never); text != "" {
		t.Errorf("%q came in after the time-out", text)
	}
	send(t, c, to, "2")
	if second, _ := receive(t, s, soon); second == first || !second.IsValid() {
		t.Errorf("mapped to %s, then to %s", first, second)
	}
}
