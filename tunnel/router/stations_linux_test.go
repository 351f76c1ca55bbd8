package router

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"warren/internal/netnstest"
)

// patience bounds what must happen, hurry what must not: nothing in these tests is further away than a system call.
const patience, hurry = 10 * time.Second, 300 * time.Millisecond

// station is a host in a network namespace of its own.
type station struct {
	t    *testing.T
	name string
	ns   netns.NsHandle
	// peers are those that a test may want to find by name.
	peers map[string]*station
}

func newStation(t *testing.T, name string) *station {
	t.Helper()
	s := &station{t: t, name: name}
	made := make(chan error)
	go func() {
		err := netnstest.Enter()
		if err == nil {
			s.ns, err = netns.Get()
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.ns.Close() })
	s.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(lo), s.set("net/ipv6/conf/default/accept_dad", "0"), s.set("net/ipv6/conf/all/accept_dad", "0"))
	})
	return s
}

// do runs f on the station, and fails the test with its error.
func (s *station) do(f func() error) {
	s.t.Helper()
	if err := s.try(f); err != nil {
		s.t.Fatalf("%s: %v", s.name, err)
	}
}

// try runs f in a thread that is on the station and ends with it.
func (s *station) try(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(s.ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func (s *station) set(path, value string) error {
	return os.WriteFile(sysctlRoot+path, []byte(value), 0)
}

func (s *station) sysctl(path, value string) {
	s.t.Helper()
	s.do(func() error { return s.set(path, value) })
}

func (s *station) sysctlIs(path, want string) {
	s.t.Helper()
	s.do(func() error {
		if got, err := readSysctl(path); err != nil || got != want {
			s.t.Errorf("%s: %s is %q, %v; want %q", s.name, path, got, err, want)
		}
		return nil
	})
}

// run is the output of a command.
func (s *station) run(args ...string) (out string) {
	s.t.Helper()
	s.do(func() error {
		b, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if out = string(b); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	})
	return out
}

// connect puts a cable between two stations. An end's name is that of the other; addresses are given with the length of the subnet.
func connect(a *station, onA []string, b *station, onB []string) {
	a.t.Helper()
	a.do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: b.name}, PeerName: a.name, PeerNamespace: netlink.NsFd(b.ns)})
	})
	for _, end := range []struct {
		at        *station
		link      string
		addresses []string
	}{{a, b.name, onA}, {b, a.name, onB}} {
		end.at.do(func() error {
			l, err := netlink.LinkByName(end.link)
			if err != nil {
				return err
			}
			errs := []error{netlink.LinkSetUp(l)}
			for _, text := range end.addresses {
				p := netip.MustParsePrefix(text)
				addr := &netlink.Addr{IPNet: netipx.PrefixIPNet(p)}
				if p.Addr().Is6() {
					addr.Flags = unix.IFA_F_NODAD
				}
				errs = append(errs, netlink.AddrAdd(l, addr))
			}
			return errors.Join(errs...)
		})
	}
	a.awaitLink(b.name)
	b.awaitLink(a.name)
}

// awaitLink waits until the kernel has done all that it does by itself, some time after a cable is plugged in: the link's carrier is known to
// the routes, and the link-local address and its route are there.
func (s *station) awaitLink(name string) {
	s.t.Helper()
	s.do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(patience); ; <-tick.C {
			done, err := settled(l)
			if done || err != nil {
				return err
			}
			if time.Now().After(end) {
				return fmt.Errorf("link %s has not come up", name)
			}
		}
	})
}

func settled(l netlink.Link) (bool, error) {
	addresses, err := netlink.AddrList(l, netlink.FAMILY_V6)
	if err != nil {
		return false, err
	}
	var own net.IP
	for _, a := range addresses {
		if a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
			own = a.IP
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: l.Attrs().Index, Table: unix.RT_TABLE_UNSPEC},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return false, err
	}
	local := false
	for _, r := range routes {
		if r.Flags&unix.RTNH_F_LINKDOWN != 0 {
			return false, nil
		}
		local = local || r.Type == unix.RTN_LOCAL && own != nil && r.Dst != nil && r.Dst.IP.Equal(own)
	}
	return local, nil
}

// route has a prefix go to a next hop.
func (s *station) route(prefix, via string) {
	s.t.Helper()
	s.do(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: netipx.PrefixIPNet(netip.MustParsePrefix(prefix)), Gw: net.ParseIP(via)})
	})
}

// open makes a Router on the station.
func (s *station) open(c Config) (r *Router) {
	s.t.Helper()
	c.Name, c.MTU = name, 1420
	s.do(func() (err error) {
		r, err = Open(c)
		return err
	})
	s.t.Cleanup(func() { s.try(r.Close) })
	return r
}

func (s *station) apply(r *Router, state State) {
	s.t.Helper()
	s.do(func() error { return r.Apply(state) })
}

// tunnel has each of two routers' interfaces give the other what it takes from the kernel, as a tunnel with no filter would.
func tunnel(a, b *Router) {
	for _, pair := range [][2]*Router{{a, b}, {b, a}} {
		go func() {
			const offset = 16
			n := pair[0].tun.BatchSize()
			bufs, sizes := make([][]byte, n), make([]int, n)
			for i := range bufs {
				bufs[i] = make([]byte, offset+maxMTU)
			}
			for {
				n, err := pair[0].tun.Read(bufs, sizes, offset)
				if err != nil {
					return
				}
				for i := range n {
					// An interface that is down takes nothing, as no cable would.
					_, _ = pair[1].tun.Write([][]byte{bufs[i][:offset+sizes[i]]}, offset)
				}
			}
		}()
	}
}

// echo answers UDP and TCP at an address with whom it saw asking.
func (s *station) echo(address string, control ...func(fd uintptr)) {
	s.t.Helper()
	s.do(func() error {
		c := net.ListenConfig{Control: dialer(0, control...).Control}
		u, err := c.ListenPacket(s.t.Context(), "udp", address)
		if err != nil {
			return err
		}
		l, err := c.Listen(s.t.Context(), "tcp", address)
		if err != nil {
			return err
		}
		s.t.Cleanup(func() { u.Close(); l.Close() })
		go func() {
			for {
				b := make([]byte, 2000)
				_, who, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte(s.name+" saw "+hostOf(who)), who)
			}
		}()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte(s.name + " saw " + hostOf(c.RemoteAddr())))
				c.Close()
			}
		}()
		return nil
	})
}

func hostOf(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	return h
}

// ask is what echo at an address answers, or the error in words.
func (s *station) ask(network, address string, control ...func(fd uintptr)) (answer string) {
	s.t.Helper()
	err := s.try(func() error {
		c, err := dialer(hurry, control...).Dial(network, address)
		if err != nil {
			return err
		}
		defer c.Close()
		answer, err = askOver(c)
		return err
	})
	if err != nil {
		return err.Error()
	}
	return answer
}

// askOver asks over a connection that is there.
func askOver(c net.Conn) (string, error) {
	if err := c.SetDeadline(time.Now().Add(hurry)); err != nil {
		return "", err
	}
	if c.RemoteAddr().Network() == "udp" {
		if _, err := c.Write([]byte("who am I")); err != nil {
			return "", err
		}
	}
	b := make([]byte, 2000)
	n, err := c.Read(b)
	return string(b[:n]), err
}

// wantAnswer asks until the answer is the one that is wanted: links come up in their own time.
func (s *station) wantAnswer(network, address, want string, control ...func(fd uintptr)) {
	s.t.Helper()
	var got string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if got = s.ask(network, address, control...); got == want {
			return
		}
	}
	s.t.Errorf("%s asks %s over %s: %q; want %q", s.name, address, network, got, want)
}

// wantNone asks once and wants no answer; reason, if not empty, is in the error.
func (s *station) wantNone(network, address, reason string, control ...func(fd uintptr)) {
	s.t.Helper()
	if got := s.ask(network, address, control...); strings.Contains(got, " saw ") || !strings.Contains(got, reason) {
		s.t.Errorf("%s asks %s over %s: %q; want no answer, because of %q", s.name, address, network, got, reason)
	}
}
