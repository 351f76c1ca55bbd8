package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

func newLab(t *testing.T) *Lab {
	t.Helper()
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func mustHost(t *testing.T, l *Lab, name string, nat NAT) *Host {
	t.Helper()
	h, err := l.Host(name, nat)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func socket(t *testing.T, h *Host, address string) *net.UDPConn {
	t.Helper()
	c, err := h.ListenUDP(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func send(t *testing.T, c *net.UDPConn, to netip.AddrPort, text string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(text), to); err != nil {
		t.Fatal(err)
	}
}

// receive gives the sender of the next datagram, or the zero value if none comes within the time.
func receive(t *testing.T, c *net.UDPConn, within time.Duration) (from netip.AddrPort, text string) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<16)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return netip.AddrPort{}, ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), string(b[:n])
}

const (
	soon  = 5 * time.Second
	never = 150 * time.Millisecond // how long to wait for what must not come
)

// behaviour is what RFC 5780 lets a client find out.
type behaviour struct {
	udp, sameMapping, portKept, filtersAddress, filtersPort bool
}

// TestBoxes proves each kind of NAT by the tests of RFC 5780, with two servers of two ports each.
//
//	host --- NAT of the kind --- internet --- one (ports 1000, 2000)
//	                                     \--- two (port 1000)
func TestBoxes(t *testing.T) {
	for kind, want := range map[NAT]behaviour{
		None:       {udp: true, sameMapping: true, portKept: true},
		Easy:       {udp: true, sameMapping: true, portKept: true, filtersAddress: true, filtersPort: true},
		Hard:       {udp: true, filtersAddress: true, filtersPort: true},
		UDPBlocked: {},
		EasyCGNAT:  {udp: true, sameMapping: true, portKept: true, filtersAddress: true, filtersPort: true},
		HardCGNAT:  {udp: true, filtersAddress: true, filtersPort: true},
		SameNAT:    {udp: true, sameMapping: true, portKept: true, filtersAddress: true, filtersPort: true},
		PortMapped: {udp: true, filtersAddress: true, filtersPort: true},
		// What is left of these is IPv4's share.
		IPv6Firewalled: {udp: true, filtersAddress: true, filtersPort: true},
		BrokenV4:       {},
		TCP443Only:     {},
		ProxyOnly:      {},
		ShortTimeout:   {udp: true, sameMapping: true, portKept: true, filtersAddress: true, filtersPort: true},
	} {
		t.Run(kind.String(), func(t *testing.T) {
			l := newLab(t)
			one, two := mustHost(t, l, "one", None), mustHost(t, l, "two", None)
			host := mustHost(t, l, "host", kind)
			wait := soon
			if a := kind.Access(); a.Block != BlockNothing || a.BrokenIPv4 {
				wait = never
			}
			if got := probe(t, host, one, two, wait); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// probe waits for the first datagram as long as it is told.
func probe(t *testing.T, host, one, two *Host, wait time.Duration) (b behaviour) {
	const port = 41000
	c := socket(t, host, fmt.Sprintf(":%d", port))
	s1, s1b, s2 := socket(t, one, ":1000"), socket(t, one, ":2000"), socket(t, two, ":1000")
	at := func(h *Host, p uint16) netip.AddrPort { return netip.AddrPortFrom(h.Public, p) }
	send(t, c, at(one, 1000), "1")
	m1, _ := receive(t, s1, wait)
	if !m1.IsValid() {
		return b
	}
	b.udp = true
	if m1.Addr() != host.Public {
		t.Errorf("seen from %s, want %s", m1.Addr(), host.Public)
	}
	// An answer from where the question went comes back; from elsewhere it must not, until something was sent there.
	send(t, s1, m1, "answer")
	if from, _ := receive(t, c, soon); from != at(one, 1000) {
		t.Fatalf("the answer came from %s", from)
	}
	send(t, s1b, m1, "another port")
	from, _ := receive(t, c, never)
	b.filtersPort = !from.IsValid()
	send(t, s2, m1, "another address")
	from, _ = receive(t, c, never)
	b.filtersAddress = !from.IsValid()
	send(t, c, at(two, 1000), "2")
	m2, _ := receive(t, s2, soon)
	b.sameMapping, b.portKept = m1 == m2, m1.Port() == port
	return b
}

// TestUnsolicitedIsDroppedSilently sends to the public address of what has a box.
//
//	outside --- internet --- NAT of the kind --- inside
func TestUnsolicitedIsDroppedSilently(t *testing.T) {
	l := newLab(t)
	outside := mustHost(t, l, "outside", None)
	for _, kind := range []NAT{Easy, Hard, UDPBlocked, EasyCGNAT, SameNAT, PortMapped, IPv6Firewalled, BrokenV4, TCP443Only, ProxyOnly, ShortTimeout} {
		inside := mustHost(t, l, kind.String(), kind)
		ctx, cancel := context.WithTimeout(t.Context(), never)
		_, err := outside.Dial(ctx, "tcp", netip.AddrPortFrom(inside.Public, 22).String())
		cancel()
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%s: TCP from outside: %v; want silence", kind, err)
		}
		c, err := outside.Dial(t.Context(), "udp", netip.AddrPortFrom(inside.Public, 9).String())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(never)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: UDP from outside: %v; want silence, no ICMP", kind, err)
		}
		c.Close()
	}
}

func TestTCPGoesOut(t *testing.T) {
	l := newLab(t)
	server := mustHost(t, l, "server", None)
	listener, err := server.Listen(":80")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
	for _, kind := range []NAT{None, Easy, Hard, UDPBlocked} {
		h := mustHost(t, l, kind.String(), kind)
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		c, err := h.Dial(ctx, "tcp", netip.AddrPortFrom(server.Public, 80).String())
		cancel()
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != h.Public.String() {
			t.Errorf("%s: the server saw %q, %v; want %s", kind, b, err, h.Public)
		}
		c.Close()
	}
}

// Each host has a /run and a resolv.conf of its own, and sees only its own interfaces.
func TestIsolation(t *testing.T) {
	l := newLab(t)
	a, b := mustHost(t, l, "a", None), mustHost(t, l, "b", Easy)
	if out, err := a.Command(t.Context(), "sh", "-c", "echo here > /run/mark && echo nameserver 192.0.2.1 > /etc/resolv.conf").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := b.Command(t.Context(), "sh", "-c", "ls /run; cat /etc/resolv.conf; ls /sys/class/net | wc -l").CombinedOutput()
	if err != nil || strings.Contains(string(out), "mark") || strings.Contains(string(out), "192.0.2.1") {
		t.Errorf("b sees %q, %v", out, err)
	}
	if _, err := os.Stat("/run/mark"); err == nil {
		t.Error("the machine itself sees a's /run")
	}
	for _, h := range []*Host{a, b} {
		links, err := h.Links()
		if err != nil || len(links) != 2 {
			t.Errorf("%s has the interfaces %v, %v; want lo and eth0", h.Name, links, err)
		}
	}
}

func TestCloseEndsDetachedPrograms(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := mustHost(t, l, "a", None)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(t.Context(), "setsid", "sleep", "1000")
	cmd.Stdout = w // stays open as long as the program lives
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	l.Close()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the program outlived the lab: %v", err)
	}
	_ = cmd.Wait() // killed
}
