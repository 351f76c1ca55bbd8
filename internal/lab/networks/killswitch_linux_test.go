package networks

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"warren/internal/capture"
	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/internal/sim/natmodel"
)

// traffic is what programs on a host send all the time, by all the ways that they could think of.
type traffic struct {
	host *lab.Host
	lan  netip.Addr // a neighbour of the uplink
	// old are flows that were opened before.
	old  []net.Conn
	pace time.Duration
}

// run sends until stop is closed.
func (f *traffic) run(stop <-chan struct{}) error {
	return f.host.Do(func() error {
		ping4, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
		if err != nil {
			return err
		}
		defer ping4.Close()
		ping6, err := icmp.ListenPacket("ip6:ipv6-icmp", "::")
		if err != nil {
			return err
		}
		defer ping6.Close()
		tick := time.NewTicker(f.pace)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return nil
			case <-tick.C:
			}
			f.round(ping4, ping6, n)
		}
	})
}

func (f *traffic) round(ping4, ping6 *icmp.PacketConn, n int) {
	for _, c := range f.old {
		_ = c.SetDeadline(time.Now().Add(time.Millisecond))
		_, _ = c.Write([]byte("old"))
	}
	bound := func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.BindToDevice(int(fd), "eth0") })
	}
	for _, control := range []func(string, string, syscall.RawConn) error{nil, bound} {
		d := net.Dialer{Timeout: 2 * time.Millisecond, FallbackDelay: -1, Control: control}
		for _, to := range []netip.AddrPort{
			netip.AddrPortFrom(public4, 9999), netip.AddrPortFrom(public6, 9999), netip.AddrPortFrom(f.lan, 9999), netip.AddrPortFrom(f.lan, 53),
			netip.MustParseAddrPort("9.9.9.9:53"), netip.MustParseAddrPort("[2620:fe::fe]:53"), netip.MustParseAddrPort("224.0.0.251:5353"),
		} {
			if c, err := d.Dial("udp", to.String()); err == nil {
				_, _ = c.Write([]byte("leak"))
				c.Close()
			}
		}
		for i, to := range []netip.AddrPort{netip.AddrPortFrom(public4, 80), netip.AddrPortFrom(public6, 80), netip.AddrPortFrom(f.lan, 80)} {
			if n%3 != i { // they take their time
				continue
			}
			if c, err := d.Dial("tcp", to.String()); err == nil {
				_, _ = c.Write([]byte("leak"))
				c.Close()
			}
		}
	}
	for _, p := range []struct {
		conn *icmp.PacketConn
		kind icmp.Type
		to   netip.Addr
	}{{ping4, ipv4.ICMPTypeEcho, public4}, {ping6, ipv6.ICMPTypeEchoRequest, public6}} {
		m := icmp.Message{Type: p.kind, Body: &icmp.Echo{ID: 77, Seq: n & 0xffff, Data: []byte("leak")}}
		if b, err := m.Marshal(nil); err == nil {
			_, _ = p.conn.WriteTo(b, &net.IPAddr{IP: p.to.AsSlice()})
		}
	}
}

// agentPort is the UDP port of a device's tunnel.
func agentPort(t *testing.T, d *warrennet.Device) uint16 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.Dir(), "state.json"))
	must(t, err)
	var s struct{ Port uint16 }
	must(t, json.Unmarshal(b, &s))
	if s.Port == 0 {
		t.Fatal("the device has no port yet")
	}
	return s.Port
}

// Ports of agents' sockets on other hosts: the coordinator with its relay and STUN server, and routers that map ports.
const (
	portHTTPS, portSTUN        = 443, 3478
	portMapping, portDiscovery = 5351, 1900
)

// leaks reports whether a packet is none of those that may leave: the agent's own, ARP, neighbour discovery and DHCP.
func (a *abroad) leaks(agent uint16) func(capture.Frame) bool {
	coordinators := []netip.Addr{a.Coordinator.Addr, a.Coordinator.Addr6}
	return func(f capture.Frame) bool {
		toCoordinator := f.To == coordinators[0] || f.To == coordinators[1]
		toExit := f.To == a.exit.Public || f.To == a.exit.Addr6
		switch {
		case f.Kind == unix.ETH_P_ARP:
			return false
		case f.Protocol == unix.IPPROTO_UDP && f.Source == agent, f.Protocol == unix.IPPROTO_UDP && f.Later && (toCoordinator || toExit):
			return false
		case f.Protocol == unix.IPPROTO_UDP && (f.Port == portMapping || f.Port == portDiscovery || toCoordinator && f.Port == portSTUN):
			return false
		case f.Protocol == unix.IPPROTO_TCP && toCoordinator && f.Port == portHTTPS:
			return false
		case f.Protocol == unix.IPPROTO_UDP && f.Source == 68 && f.Port == 67, f.Protocol == unix.IPPROTO_UDP && f.Source == 546 && f.Port == 547:
			return false
		case f.Protocol == unix.IPPROTO_ICMPV6 && f.Hops == 255:
			kind := f.Source >> 8
			return kind != 133 && kind != 135 && kind != 136
		case f.Protocol == 0 && f.To.Is6() && f.To.IsMulticast() && f.Hops == 1: // a report of groups, with a hop-by-hop option
			return false
		}
		return true
	}
}

// TestKillSwitchHolds: whatever is sent, and whenever the agent is killed and started again, no packet leaves the host outside of the tunnel while
// the kill switch is on. Programs on the laptop, and a phone behind it, send all the time.
func TestKillSwitchHolds(t *testing.T) {
	a := newAbroad(t, lab.Access{NAT: natmodel.Easy(), IPv6: lab.OpenIPv6})
	n := warrennet.Amount(t, "WARREN_LEAK_KILLS", 8)
	a.extend(time.Duration(n) * 10 * time.Second)
	laptop := a.laptop.Host
	lan, err := a.Lab.LAN("phones", netip.MustParsePrefix("10.42.0.0/24"), netip.MustParsePrefix("2001:db8:42::/64"))
	must(t, err)
	must(t, lan.Plug(laptop, "eth1", 1))
	phone := a.host(lan.Host("phone", 2, 1))
	must(t, laptop.Sysctl("ipv4/ip_forward", "1"))
	must(t, laptop.Sysctl("ipv6/conf/all/forwarding", "1"))
	var old []net.Conn
	for _, to := range []string{"udp " + public4.String() + ":9999", "udp [" + public6.String() + "]:9999", "tcp " + public4.String() + ":80"} {
		var network, at string
		_, err := fmt.Sscan(to, &network, &at)
		must(t, err)
		c, err := laptop.Dial(a.ctx, network, at)
		must(t, err)
		defer c.Close()
		old = append(old, c)
	}

	wire := a.capture(laptop, "eth0")
	leaks := a.leaks(agentPort(t, a.laptop))
	stop := make(chan struct{})
	var sending sync.WaitGroup
	for _, f := range []*traffic{
		{host: laptop, lan: a.printer.Addr, old: old, pace: 5 * time.Millisecond}, {host: phone, lan: a.printer.Addr, pace: 5 * time.Millisecond},
	} {
		sending.Go(func() {
			if err := f.run(stop); err != nil {
				t.Error(err)
			}
		})
	}
	defer sending.Wait()
	defer close(stop)
	a.wantLeaks(wire, leaks)

	must(t, a.laptop.Warren(a.ctx, nil, "set", "--exit-node", "exit", "--kill-switch"))
	a.awaitExit("exit")
	wire.sofar()
	a.replaced(wire, leaks)
	rng := rand.New(rand.NewPCG(13, uint64(n)))
	for i := range n {
		a.killRound(rng, i)
		wire.none(leaks)
		if t.Failed() {
			t.Fatalf("in round %d", i)
		}
		if i%4 == 3 || i == n-1 {
			a.awaitExit("exit")
			a.seenAs(fmt.Sprintf("after round %d", i), a.exit.Public, a.exit.Addr6)
		}
	}
	if err := a.laptop.Warren(a.ctx, nil, "down"); err == nil {
		t.Error("down lifts the kill switch without a question")
	}
	must(t, a.laptop.Daemon().Signal(syscall.SIGTERM))
	wire.sofar()
	a.refused(public4)
	a.refused(public6)
	wire.none(leaks)

	// It ends when it is told so, and not before.
	must(t, a.laptop.StartDaemon(a.ctx))
	must(t, a.laptop.Warren(a.ctx, nil, "up", "--kill-switch=false", "--exit-node", ""))
	a.awaitExit("")
	a.seenAs("afterwards", laptop.Public, laptop.Addr6)
	a.wantLeaks(wire, leaks)
	must(t, a.laptop.Warren(a.ctx, nil, "up", "--kill-switch"))
	a.refused(public4)
	must(t, a.laptop.Warren(a.ctx, nil, "down", "--yes"))
	if _, seen := a.call(laptop, netip.AddrPortFrom(public4, 80)); seen != laptop.Public.String() {
		t.Errorf("after down, the laptop is seen as %s", seen)
	}
	if err := a.laptop.Warren(a.ctx, nil, "set", "--kill-switch"); err == nil {
		t.Error("the kill switch is set while the tunnel is down")
	}
}

// replaced has daemons of the laptop and of the exit node replaced by others, under a thousand pings a second through both. No packet leaves outside
// of the tunnel, and the pings hardly notice.
func (a *abroad) replaced(w *wire, leaks func(capture.Frame) bool) {
	a.t.Helper()
	m, err := warrennet.NewMeter(a.ctx, a.laptop.Host, public4.String())
	must(a.t, err)
	defer m.Close()
	for _, d := range []*warrennet.Device{a.laptop, a.exit} {
		began := time.Now()
		must(a.t, d.Warren(a.ctx, nil, "restart"))
		select { // the gap ends, and is counted
		case <-time.After(500 * time.Millisecond):
		case <-a.ctx.Done():
		}
		long := m.Longest(began)
		a.t.Logf("%s replaced: %s without an answer", d.Name, long.Round(time.Millisecond))
		if long > time.Second {
			a.t.Errorf("%s replaced: %s without an answer", d.Name, long)
		}
		w.none(leaks)
	}
}

// wantLeaks waits until everything is seen to leave that must not later: so the capture, and those who send, work.
func (a *abroad) wantLeaks(w *wire, leaks func(capture.Frame) bool) {
	a.t.Helper()
	want := map[string]func(capture.Frame) bool{
		"UDP":           func(f capture.Frame) bool { return f.Protocol == unix.IPPROTO_UDP && f.To == public4 },
		"UDP over IPv6": func(f capture.Frame) bool { return f.Protocol == unix.IPPROTO_UDP && f.To == public6 },
		"TCP":           func(f capture.Frame) bool { return f.Protocol == unix.IPPROTO_TCP && f.To == public4 },
		"TCP over IPv6": func(f capture.Frame) bool { return f.Protocol == unix.IPPROTO_TCP && f.To == public6 },
		"ICMP":          func(f capture.Frame) bool { return f.Protocol == unix.IPPROTO_ICMP && f.To == public4 },
		"ICMPv6":        func(f capture.Frame) bool { return f.Protocol == unix.IPPROTO_ICMPV6 && f.To == public6 },
		"questions":     func(f capture.Frame) bool { return f.Port == 53 },
		"mDNS":          func(f capture.Frame) bool { return f.Port == 5353 },
		"to the LAN":    func(f capture.Frame) bool { return f.To == a.printer.Addr },
		"forwarded": func(f capture.Frame) bool {
			return f.From.Is4() && netip.MustParsePrefix("10.42.0.0/24").Contains(f.From)
		},
	}
	for len(want) > 0 {
		for _, f := range w.sofar() {
			for name, is := range want {
				if is(f) && leaks(f) {
					delete(want, name)
				}
			}
		}
		if a.ctx.Err() != nil {
			a.t.Fatalf("never seen to leave without the kill switch: %v", want)
		}
	}
}

// killRound kills the laptop's daemon at a random moment of its start, its run, or of what it is told, and starts it again.
func (a *abroad) killRound(rng *rand.Rand, round int) {
	a.t.Helper()
	d := a.laptop
	soon := func(mean time.Duration) <-chan time.Time {
		return time.After(time.Duration(rng.ExpFloat64() * float64(mean)))
	}
	commands := [][]string{{"set", "--exit-node", "exit"}, {"set", "--exit-node", "auto"}, {"set", "--exit-node", ""}, {"set", "--accept-routes=false"}}
	switch round % 4 {
	case 0: // it runs
		<-soon(500 * time.Millisecond)
		_ = d.Daemon().Signal(syscall.SIGKILL)
	case 1: // it starts
		_ = d.Daemon().Signal(syscall.SIGKILL)
		must(a.t, d.AwaitUnlocked(a.ctx))
		running, err := warrennet.Start(d.Host, filepath.Join(bin, "warren"), "daemon", "--state", d.Dir(), "--socket", filepath.Join(d.Dir(), "sock"))
		must(a.t, err)
		<-soon(150 * time.Millisecond)
		_ = running.Signal(syscall.SIGKILL)
	case 2: // it is told something
		var telling sync.WaitGroup
		telling.Go(func() { _, _ = d.Text(a.ctx, commands[rng.IntN(len(commands))]...) })
		<-soon(60 * time.Millisecond)
		_ = d.Daemon().Signal(syscall.SIGKILL)
		telling.Wait()
	case 3: // it is stopped
		must(a.t, d.Daemon().Signal(syscall.SIGTERM))
	}
	<-soon(100 * time.Millisecond)
	must(a.t, d.AwaitUnlocked(a.ctx))
	must(a.t, d.StartDaemon(a.ctx))
	must(a.t, d.Warren(a.ctx, nil, "set", "--exit-node", "exit", "--accept-routes"))
	st, err := d.Status(a.ctx)
	must(a.t, err)
	if !st.KillSwitch {
		a.t.Errorf("round %d: the kill switch is off: %+v", round, st)
	}
}
