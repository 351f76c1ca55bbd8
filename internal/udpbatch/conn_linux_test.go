package udpbatch

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestAddresses(t *testing.T) {
	for _, a := range []string{"192.0.2.1:1", "[2001:db8::1]:65535", "[fe80::1%7]:9"} {
		want := netip.MustParseAddrPort(a)
		w := newWireAddr(Source{}, want, false)
		if got := readAddr(w.name[:w.nameLen]); got != want || w.ctlLen != 0 {
			t.Errorf("%s went to %s", want, got)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 8), make([]byte, 28), {unix.AF_INET6, 0, 1, 2, 16: 0}} {
		if got := readAddr(b); got.IsValid() {
			t.Errorf("% x read as %s", b, got)
		}
	}
}

// FuzzControl: the kernel is trusted, but reading control messages must not depend on it.
func FuzzControl(f *testing.F) {
	w := newWireAddr(Source{Local: netip.MustParseAddr("192.0.2.1")}, netip.MustParseAddrPort("192.0.2.2:1"), false)
	f.Add(append([]byte(nil), w.control[:w.ctlLen+putSegment(w.control[w.ctlLen:], 1452)]...))
	w = newWireAddr(Source{Local: netip.MustParseAddr("2001:db8::1")}, netip.MustParseAddrPort("[2001:db8::2]:1"), false)
	f.Add(append([]byte(nil), w.control[:w.ctlLen]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(&Conn{gro: true})
		r.bufs = r.own
		r.headers[0].Len = 3000
		r.headers[0].Hdr.SetControllen(copy(r.controls[0][:], b))
		data, segment := r.Message(0)
		for n := 0; data != nil; n++ {
			_, data = Cut(data, segment)
			if n > 3000 {
				t.Fatal("no end")
			}
		}
		r.Local(0)
	})
}

// TestBothFamilies: one socket serves IPv4 and IPv6, trains come apart as they were sent, and answers leave from the address that was asked.
func TestBothFamilies(t *testing.T) {
	for _, offload := range []bool{true, false} {
		both, err := Listen("udp", ":0", Options{GSO: offload, GRO: offload})
		if err != nil {
			t.Fatal(err)
		}
		defer both.Close()
		for network, addr := range map[string]string{"udp4": "127.0.0.7", "udp6": "::1"} {
			t.Run(fmt.Sprint(network, " offloads ", offload), func(t *testing.T) {
				c, err := Listen(network, ":0", Options{GSO: offload, GRO: offload})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				sizes := []int{1200, 1200, 1200, 300, 1200}
				at := netip.AddrPortFrom(netip.MustParseAddr(addr), both.Port())
				if err := c.Send(packets(sizes...), c.NewRoute(netip.Addr{}, at)); err != nil {
					t.Fatal(err)
				}
				source, local, got := receiveSizes(t, both, len(sizes))
				if local != at.Addr() || source.Port() != c.Port() {
					t.Errorf("came from %s to %s", source, local)
				}
				if diff := cmp.Diff(sizes, got); diff != "" {
					t.Errorf("there (-want +got):\n%s", diff)
				}
				if err := both.Send(packets(sizes...), both.NewRoute(local, source)); err != nil {
					t.Fatal(err)
				}
				if source, _, got = receiveSizes(t, c, len(sizes)); source != at {
					t.Errorf("the answer came from %s, want %s", source, at)
				}
				if diff := cmp.Diff(sizes, got); diff != "" {
					t.Errorf("back (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func receiveSizes(t *testing.T, c *Conn, n int) (source netip.AddrPort, local netip.Addr, sizes []int) {
	t.Helper()
	r, bufs := NewReader(c), packets(repeat(2000, BatchSize)...)
	for len(sizes) < n {
		messages, err := r.Read(bufs)
		if err != nil {
			t.Fatal(err)
		}
		for i := range messages {
			source, local = r.Source(i), r.Local(i)
			for data, segment := r.Message(i); data != nil; {
				var d []byte
				d, data = Cut(data, segment)
				sizes = append(sizes, len(d))
			}
		}
	}
	return source, local, sizes
}

// TestAdopt: a socket that was passed on brings what came while nobody had it, and works as one that was opened.
func TestAdopt(t *testing.T) {
	for _, offload := range []bool{true, false} {
		for network, addr := range map[string]string{"udp": "127.0.0.7", "udp4": "127.0.0.7", "udp6": "::1"} {
			t.Run(fmt.Sprint(network, " offloads ", offload), func(t *testing.T) {
				old, file := passed(t, network)
				old.Close()
				c, err := Listen("udp", ":0", Options{GSO: offload}) // a train that waits as one stays one
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				sizes := []int{1200, 1200, 300}
				at := netip.AddrPortFrom(netip.MustParseAddr(addr), old.Port())
				if err := c.Send(packets(sizes...), c.NewRoute(netip.Addr{}, at)); err != nil {
					t.Fatal(err)
				}
				s, err := Adopt(network, file, Options{GSO: offload, GRO: offload})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if s.Port() != old.Port() || s.Network() != network {
					t.Errorf("%s port %d, want %s port %d", s.Network(), s.Port(), network, old.Port())
				}
				source, local, got := receiveSizes(t, s, len(sizes))
				if diff := cmp.Diff(sizes, got); diff != "" || local != at.Addr() {
					t.Errorf("to %s (-want +got):\n%s", local, diff)
				}
				if err := c.Send(packets(sizes...), c.NewRoute(netip.Addr{}, at)); err != nil { // after GRO was set
					t.Fatal(err)
				}
				if _, _, got := receiveSizes(t, s, len(sizes)); cmp.Diff(sizes, got) != "" {
					t.Errorf("then came %v", got)
				}
				if err := s.Send(packets(sizes...), s.NewRoute(local, source)); err != nil {
					t.Fatal(err)
				}
				if source, _, got := receiveSizes(t, c, len(sizes)); source != at || cmp.Diff(sizes, got) != "" {
					t.Errorf("%v came back from %s", got, source)
				}
			})
		}
	}
}

// TestAdoptRefuses: what is of another kind than was asked for is not taken, and stays open. One of IPv4 alone is what udp is on a host without IPv6.
func TestAdoptRefuses(t *testing.T) {
	for network, others := range map[string][]string{"udp": {"udp6"}, "udp4": {"udp6"}, "udp6": {"udp", "udp4"}} {
		_, file := passed(t, network)
		for _, other := range others {
			if _, err := Adopt(other, file, Options{}); err == nil {
				t.Errorf("a socket of network %s was taken for %s", network, other)
			}
		}
		if _, err := file.Stat(); err != nil {
			t.Error(err)
		}
	}
	dialled, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	file, err := dialled.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := Adopt("udp4", file, Options{}); err == nil {
		t.Error("a connected socket was taken")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := Adopt("udp", r, Options{}); err == nil {
		t.Error("a pipe was taken for a socket")
	}
}

// passed gives a socket, and a file of it as another process gets it.
func passed(t *testing.T, network string) (*Conn, *os.File) {
	t.Helper()
	old, err := Listen(network, ":0", Options{GRO: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { old.Close() })
	file, err := old.UDPConn().File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return old, file
}
