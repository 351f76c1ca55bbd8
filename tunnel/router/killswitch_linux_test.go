package router

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"warren/internal/capture"

	"golang.org/x/sys/unix"
)

// send sends one datagram from a port, by the link to the internet whatever the routes say, and returns the error.
func (s *station) send(fromPort, to string) error {
	return s.try(func() error {
		d := dialer(hurry, func(fd uintptr) {
			_ = unix.BindToDevice(int(fd), "internet")
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
		})
		local, err := net.ResolveUDPAddr("udp", fromPort)
		if err != nil {
			return err
		}
		d.LocalAddr = local
		c, err := d.Dial("udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("hello"))
		return err
	})
}

// allowedOut reports whether a frame is one of the kill switch's exceptions that the tests do not cause themselves.
func allowedOut(f capture.Frame) bool {
	return !f.To.IsValid() || f.Port == marker || f.Protocol == unix.IPPROTO_ICMPV6 || f.Protocol == 0 /* hop-by-hop, of reports */ && f.To.IsMulticast()
}

// wantNothingOut fails the test with each frame since n that is no exception and not to a port in also.
func (w *wire) wantNothingOut(n int, also ...uint16) {
	w.at.t.Helper()
	for _, f := range w.Since(n) {
		if !allowedOut(f) && !slices.Contains(also, f.Port) {
			w.at.t.Errorf("left outside of the tunnel: %s", f)
		}
	}
}

// attempts are what must not get out by the laptop's own link.
func (a *abroad) attempts(old net.Conn) {
	for _, network := range []string{"udp", "tcp"} {
		for _, at := range []string{far4, far6} {
			a.laptop.ask(network, at)
			a.phone.ask(network, at)
			a.laptop.ask(network, at, func(fd uintptr) { _ = unix.BindToDevice(int(fd), "internet") })
		}
		a.laptop.ask(network, "192.168.1.1:53")
	}
	if old != nil {
		_, _ = askOver(old)
	}
	for _, d := range [][2]string{
		{"192.168.1.5:5353", "224.0.0.251:5353"}, {"192.168.1.5:137", "255.255.255.255:137"}, {"192.168.1.5:68", "255.255.255.255:69"},
		{"192.168.1.5:1068", "255.255.255.255:67"}, {"[2001:db8:5::5]:546", "[2001:db8:1::1]:547"}, {"[2001:db8:5::5]:5353", "[ff02::fb%internet]:5353"},
	} {
		_ = a.laptop.send(d[0], d[1])
	}
}

// TestKillSwitch: nothing leaves but by the tunnel, however it is tried, before, while and after the router is there, until it is lifted.
func TestKillSwitch(t *testing.T) {
	a := newAbroad(t)
	var old net.Conn
	a.laptop.do(func() (err error) {
		old, err = net.Dial("udp", far4)
		return err
	})
	defer old.Close()
	if got, err := askOver(old); err != nil || got != "internet saw 192.168.1.5" {
		t.Fatalf("before: %q, %v", got, err)
	}
	c := a.internet.capture("laptop")
	s := using("0.0.0.0/0", "::/0")
	s.DNS, s.KillSwitch = addrs("100.64.0.1", "fd00::1"), true
	s.Local = append(s.Local, list("192.168.1.1/32")...) // the link's own router, which is its resolver, too
	a.laptop.apply(a.onLaptop, s)
	from := c.mark(a.laptop)
	for _, who := range []*station{a.laptop, a.phone} {
		who.wantAnswer("tcp", far4, "internet saw 203.0.113.2")
		who.wantAnswer("tcp", far6, "internet saw 2001:db8:2::2")
		who.wantAnswer("udp", "192.168.1.1:53", "exit saw 100.64.0.9")
	}
	a.attempts(old)
	c.mark(a.laptop)
	c.wantNothingOut(from)
	a.laptop.wantNone("tcp", far4, "connection refused", func(fd uintptr) { _ = unix.BindToDevice(int(fd), "internet") })
	a.laptop.wantNone("udp", far4, "operation not permitted", func(fd uintptr) { _ = unix.BindToDevice(int(fd), "internet") })
	// The exceptions.
	a.laptop.wantAnswer("udp", far4, "internet saw 192.168.1.5", asAgent)
	a.laptop.wantAnswer("tcp", far6, "internet saw 2001:db8:5::5", asAgent)
	a.laptop.echo("127.0.0.1:99")
	a.laptop.wantAnswer("tcp", "127.0.0.1:99", "laptop saw 127.0.0.1")
	from = c.mark(a.laptop)
	for _, d := range [][2]string{
		{"192.168.1.5:68", "255.255.255.255:67"}, {"192.168.1.5:68", "192.168.1.1:67"}, {"[2001:db8:5::5]:546", "[ff02::1:2%internet]:547"},
	} {
		if err := a.laptop.send(d[0], d[1]); err != nil {
			t.Errorf("from %s to %s: %v", d[0], d[1], err)
		}
	}
	c.mark(a.laptop)
	c.wantNothingOut(from, 67, 547)
	if n := len(slices.DeleteFunc(c.Since(from), func(f capture.Frame) bool { return f.Port != 67 && f.Port != 547 })); n != 3 {
		t.Errorf("%d packets of DHCP clients left, want 3", n)
	}
	// A State without it does not lift it, nor does Close, nor CleanUp.
	for what, f := range []func() error{
		func() error { return a.onLaptop.Apply(using()) }, a.onLaptop.Close,
		func() error { _, err := CleanUp(filepath.Join(t.TempDir(), "journal")); return err },
	} {
		a.laptop.do(f)
		from = c.mark(a.laptop)
		a.attempts(old)
		c.mark(a.laptop)
		c.wantNothingOut(from)
		a.laptop.do(func() error {
			if on, err := KillSwitchOn(); !on || err != nil {
				t.Errorf("after step %d: %v, %v", what, on, err)
			}
			return nil
		})
	}
	for range 2 {
		a.laptop.do(LiftKillSwitch)
	}
	a.laptop.wantAnswer("tcp", far4, "internet saw 192.168.1.5")
	a.phone.wantAnswer("tcp", far6, "internet saw 2001:db8:42::2")
	if left := a.laptop.run("nft", "list", "ruleset"); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// TestKillSwitchReplaced: while the kill switch changes there is no moment without it, and it comes back if somebody flushes all tables.
func TestKillSwitchReplaced(t *testing.T) {
	a := newAbroad(t)
	c := a.internet.capture("laptop")
	s := using()
	s.KillSwitch = true
	a.laptop.apply(a.onLaptop, s)
	from := c.mark(a.laptop)
	stop := make(chan struct{})
	flooded := make(chan int)
	go func() {
		sent := 0
		defer func() { flooded <- sent }()
		_ = a.laptop.try(func() error {
			d, err := net.Dial("udp", far4)
			if err != nil {
				return err
			}
			defer d.Close()
			for {
				select {
				case <-stop:
					return nil
				default:
					sent++
					_, _ = d.Write([]byte("leak"))
				}
			}
		})
	}()
	for i := range 100 {
		s.KillSwitchLAN = list("192.168.7.0/24")[:i%2]
		a.laptop.apply(a.onLaptop, s)
	}
	close(stop)
	if n := strings.Count(strings.Join(a.onLaptop.Notes(), "\n"), "the kill switch is on"); n != 1 {
		t.Errorf("told %d times: %q", n, a.onLaptop.Notes())
	}
	if sent := <-flooded; sent < 100 {
		t.Errorf("tried %d times only", sent)
	}
	c.mark(a.laptop)
	c.wantNothingOut(from)

	a.laptop.run("nft", "flush", "ruleset")
	a.laptop.wantAnswer("tcp", far4, "internet saw 192.168.1.5")
	a.laptop.apply(a.onLaptop, using())
	if notes := a.onLaptop.Notes(); strings.Contains(strings.Join(notes, "\n"), "kill switch") {
		t.Errorf("told that it is on, though nobody wants it: %q", notes)
	}
	a.laptop.apply(a.onLaptop, s)
	a.laptop.wantNone("tcp", far4, "connection refused")
	s.KillSwitchLAN = list("192.168.1.0/24", "2001:db8:5::/64")
	a.laptop.apply(a.onLaptop, s)
	a.laptop.wantAnswer("tcp", "192.168.1.1:53", "internet saw 192.168.1.5")
	a.laptop.wantAnswer("tcp", "[2001:db8:5::1]:53", "internet saw 2001:db8:5::5")
	a.laptop.wantNone("tcp", far4, "connection refused")
}

// awaitListener waits until somebody on the station listens to changes of nftables.
func (s *station) awaitListener() {
	s.t.Helper()
	s.do(func() error {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(patience); ; <-tick.C {
			sockets, err := os.ReadFile("/proc/thread-self/net/netlink")
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(sockets)) {
				f := strings.Fields(line) // address, protocol, port, groups
				if groups, err := strconv.ParseUint(f[3], 16, 32); f[1] == strconv.Itoa(unix.NETLINK_NETFILTER) && err == nil && groups&nftablesGroup != 0 {
					return nil
				}
			}
			if time.Now().After(end) {
				return fmt.Errorf("nobody listens to nftables: %s", sockets)
			}
		}
	})
}

// TestWatch: who flushes all tables is noticed, and the tables come back; what we change ourselves, or others of their own, is not.
func TestWatch(t *testing.T) {
	a := newAbroad(t)
	s := using("0.0.0.0/0")
	s.KillSwitch = true
	a.laptop.apply(a.onLaptop, s)
	ctx, cancel := context.WithCancel(t.Context())
	lost, ended := make(chan struct{}, 1000), make(chan error, 1)
	go func() {
		ended <- a.laptop.try(func() error { return a.onLaptop.Watch(ctx, func() { lost <- struct{}{} }) })
	}()
	a.laptop.awaitListener()
	await := func(what string) {
		t.Helper()
		select {
		case <-lost:
		case <-time.After(patience):
			t.Fatalf("%s: not noticed", what)
		}
	}
	a.laptop.apply(a.onLaptop, s)
	a.laptop.wantNone("tcp", far4, "connection refused", func(fd uintptr) { _ = unix.BindToDevice(int(fd), "internet") })
	for range 10 {
		s.KillSwitchLAN = list("192.168.7.0/24")[:1-len(s.KillSwitchLAN)]
		s.DNS = addrs("100.64.0.1")[:1-len(s.DNS)]
		a.laptop.apply(a.onLaptop, s)
	}
	a.laptop.run("nft", "add table inet somebody; delete table inet somebody")
	a.laptop.run("nft", "delete", "table", "inet", killSwitchTable)
	await("the kill switch deleted")
	a.laptop.apply(a.onLaptop, s)
	a.laptop.run("nft", "delete", "table", "inet", tableNameFor(name))
	await("the table deleted")
	a.laptop.apply(a.onLaptop, s)
	a.laptop.do(LiftKillSwitch)
	await("the kill switch lifted by somebody")
	a.laptop.apply(a.onLaptop, s)
	if n := len(lost); n > 0 {
		t.Errorf("noticed %d times what was not lost", n)
	}
	a.laptop.run("nft", "flush", "ruleset")
	await("all tables flushed")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestWriteKillSwitch: loaded by nft before there is any interface, the file holds everything back, and the router takes it over.
func TestWriteKillSwitch(t *testing.T) {
	a := newAbroad(t)
	a.laptop.do(a.onLaptop.Close)
	file := filepath.Join(t.TempDir(), "killswitch.nft")
	if err := WriteKillSwitch(file, name, list("10.42.0.0/24")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		a.laptop.run("nft", "-f", file)
	}
	c := a.internet.capture("laptop")
	from := c.mark(a.laptop)
	a.attempts(nil)
	c.mark(a.laptop)
	c.wantNothingOut(from)
	loaded := a.laptop.run("nft", "list", "ruleset")
	r := a.laptop.open(Config{})
	s := using()
	s.KillSwitch, s.KillSwitchLAN = true, list("10.42.0.0/24")
	a.laptop.apply(r, s)
	if applied := a.laptop.run("nft", "list", "ruleset"); applied != loaded {
		t.Errorf("the file's:\n%s\nthe router's:\n%s", loaded, applied)
	}
	a.laptop.do(LiftKillSwitch)

	for _, bad := range []struct {
		name string
		lan  []netip.Prefix
		want string
	}{
		{"a b", nil, "interface name"}, {"", nil, "interface name"},
		{"warren*", nil, "cannot be written"}, {`w"accept#`, nil, "cannot be written"},
		{name, []netip.Prefix{{}}, "not a prefix"},
		{name, []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}, "host bits"},
	} {
		file := filepath.Join(t.TempDir(), "none")
		if err := WriteKillSwitch(file, bad.name, bad.lan); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%q, %v: %v", bad.name, bad.lan, err)
		}
		if err := syscall.Access(file, 0); err == nil {
			t.Errorf("%q, %v: written", bad.name, bad.lan)
		}
	}
}
