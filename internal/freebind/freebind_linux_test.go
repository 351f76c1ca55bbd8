package freebind

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"warren/internal/netnstest"
)

// TestListen: a socket listens before its address is there, and is reached once it is.
func TestListen(t *testing.T) {
	for _, address := range []string{"192.0.2.7", "2001:db8::7"} {
		t.Run(address, func(t *testing.T) { netnstest.Run(t, func(t *testing.T) { listenEarly(t, address) }) })
	}
}

func listenEarly(t *testing.T, address string) {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	at := net.JoinHostPort(address, "0")
	if l, err := net.Listen("tcp", at); err == nil {
		l.Close()
		t.Fatalf("the address is there already: %s", l.Addr())
	}
	l, err := Listen(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if !Missing(l.Addr()) {
		t.Errorf("%s is not missed", l.Addr())
	}
	host := &net.IPNet{IP: net.ParseIP(address), Mask: net.CIDRMask(128, 128)}
	if ip4 := host.IP.To4(); ip4 != nil {
		host = &net.IPNet{IP: ip4, Mask: net.CIDRMask(32, 32)}
	}
	if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: host, Flags: 0x02}); err != nil { // IFA_F_NODAD: at once
		t.Fatal(err)
	}
	if Missing(l.Addr()) {
		t.Errorf("%s is missed, and there", l.Addr())
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(20 * time.Second); ; <-tick.C { // the kernel makes an IPv6 address's route a little later
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			c.Close()
			return
		}
		if !errors.Is(err, syscall.ENETUNREACH) || time.Now().After(until) {
			t.Fatal(err)
		}
	}
}

// TestMissing: addresses of every host are not missed, nor what is none.
func TestMissing(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		l, err := Listen(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		if Missing(l.Addr()) {
			t.Errorf("%s is missed", l.Addr())
		}
		l.Close()
	}
	if Missing(&net.UnixAddr{Name: "/x"}) {
		t.Error("a path is missed")
	}
}
