package capture

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/internal/netnstest"
)

// TestCapture sends over a loopback interface, where each packet goes out and comes in.
func TestCapture(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		up(t)
		in, err := Open("lo", Incoming)
		if err != nil {
			t.Fatal(err)
		}
		out, err := Open("lo", Outgoing)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 100 { // nobody listens, so that an error comes back
			if _, err := c.WriteToUDPAddrPort([]byte("hello"), netip.MustParseAddrPort("127.0.0.1:65001")); err != nil {
				t.Fatal(err)
			}
		}
		source := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		for _, x := range []*Capture{in, out} {
			sent, errors := 0, 0
			tick, deadline := time.NewTicker(time.Millisecond), time.After(10*time.Second)
			for seen := 0; sent < 100 || errors == 0; {
				select {
				case <-tick.C:
				case <-deadline:
					t.Fatalf("%d packets and %d errors recorded", sent, errors)
				}
				for _, f := range x.Since(seen) {
					seen++
					switch {
					case f.Kind != unix.ETH_P_IP || f.To != netip.MustParseAddr("127.0.0.1"):
						t.Errorf("recorded: %s", f)
					case f.Port == 65001 && f.Source == source:
						sent++
					case f.Protocol == icmp && f.Source>>8 == 3:
						errors++
					}
				}
			}
			tick.Stop()
			if missing, err := x.Missing(); missing != 0 || err != nil {
				t.Errorf("%d missing, %v", missing, err)
			}
			if err := x.Close(); err != nil {
				t.Error(err)
			}
			if n := x.Count(); n < 101 {
				t.Errorf("%d frames after closing", n)
			}
		}
	})
}

func TestNoSuchLink(t *testing.T) {
	if c, err := Open("nonesuch0", Incoming); err == nil {
		c.Close()
		t.Error("recording a link that is not there")
	}
}

// up brings the namespace's loopback interface up.
func up(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		t.Fatal(err)
	}
}
