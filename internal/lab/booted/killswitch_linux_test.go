//go:build booted

package booted

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/internal/lab"
	"warren/internal/sim/natmodel"
)

// capture records what a machine sends by its cable.
type capture struct {
	w  *world
	fd int

	mu     sync.Mutex
	frames []frame
}

// frame is what is looked at of one packet.
type frame struct {
	kind     uint16 // ETH_P_*
	protocol byte
	to       netip.Addr
	port     uint16
}

func (f frame) String() string {
	return fmt.Sprintf("%#04x to %s, protocol %d, port %d", f.kind, f.to, f.protocol, f.port)
}

// capture begins to, at the router's end of the cable.
func (w *world) capture(m *machine) *capture {
	w.t.Helper()
	c := &capture{w: w}
	must(w.t, m.router.Do(func() (err error) {
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}); err != nil {
			return err
		}
		i, err := net.InterfaceByName(m.port())
		if err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		return unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	}))
	stop := make(chan struct{})
	var done sync.WaitGroup
	w.t.Cleanup(func() { close(stop); done.Wait(); unix.Close(c.fd) })
	done.Go(func() { c.read(stop) })
	return c
}

func (c *capture) read(stop chan struct{}) {
	b := make([]byte, 65536)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(c.fd, b, 0)
		if l, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && l.Pkttype != unix.PACKET_OUTGOING {
			f := parse(b[:n])
			f.kind = binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, l.Protocol))
			c.mu.Lock()
			c.frames = append(c.frames, f)
			c.mu.Unlock()
		}
	}
}

// parse reads IPv4; of other packets the kind says enough.
func parse(b []byte) (f frame) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return f
	}
	f.protocol = b[9]
	f.to, _ = netip.AddrFromSlice(b[16:20])
	if head := int(b[0]&15) * 4; len(b) >= head+4 {
		f.port = binary.BigEndian.Uint16(b[head+2:])
	}
	return f
}

// sofar gives what was sent up to now, and has it that nothing is missing.
func (c *capture) sofar() []frame {
	c.w.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || s.Drops > 0 {
		c.w.t.Fatalf("of the capture %d packets are missing: %v", s.Drops, err)
	}
	return append([]frame(nil), c.frames...)
}

// chatter is a service that sends from the first moment of a boot, to an address of the internet, and counts how often the system let it.
const chatter = `[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/bash -c 'n=0; while :; do n=$((n+1)); echo $n >/run/chatter; echo leak >/dev/udp/%[1]s/9999; echo leak >/dev/tcp/%[1]s/80 & sleep 0.005; wait; done' 2>/dev/null
StandardError=null
[Install]
WantedBy=sysinit.target
`

// TestKillSwitchAtBoot: from the moment that the network is up, and with the agent not there, nothing leaves a machine whose kill switch is on.
func TestKillSwitchAtBoot(t *testing.T) {
	w := newWorld(t)
	server, err := w.Lab.Host("server", lab.None)
	must(t, err)
	m, p := w.joined("laptop")
	must(t, m.Write("/etc/systemd/system/chatter.service", fmt.Sprintf(chatter, server.Addr)))
	m.must("systemctl", "enable", "chatter.service")
	m.must("systemctl", "disable", "warren.service")
	bad := func(f frame) bool { return f.kind != unix.ETH_P_ARP }
	// boot gives what left until the service had tried another so many times after the boot.
	boot := func() (leaks []frame) {
		t.Helper()
		must(t, m.PowerOff())
		must(t, m.PowerOn(w.ctx))
		c := w.capture(m)
		must(t, m.Plug())
		must(t, m.AwaitBooted(w.ctx))
		first := m.count("/run/chatter")
		m.until("chattering", func() (bool, string) { n := m.count("/run/chatter"); return n > first+100, fmt.Sprint(n) })
		for _, f := range c.sofar() {
			if bad(f) {
				leaks = append(leaks, f)
			}
		}
		t.Logf("the program on the machine has sent %d times; %d packets have left", m.count("/run/chatter"), len(leaks))
		return leaks
	}
	if len(boot()) < 20 {
		t.Fatal("without the kill switch hardly anything leaves: the test sees nothing")
	}
	m.must("systemctl", "start", "warren.service")
	m.must("warren", "up", "--kill-switch")
	if leaks := boot(); len(leaks) > 0 {
		t.Errorf("%d packets have left, the first: %s", len(leaks), leaks[0])
	}
	if got := m.unit("warren-killswitch.service", "ActiveState"); got != "active" {
		t.Errorf("warren-killswitch.service is %s", got)
	}
	m.must("systemctl", "start", "warren.service")
	w.reached(p, "with the kill switch on")

	// In the order in which systemd starts them by itself nothing leaves either.
	m.must("systemctl", "enable", "warren.service")
	bad = func(f frame) bool { return f.kind != unix.ETH_P_ARP && f.to == server.Addr }
	if leaks := boot(); len(leaks) > 0 {
		t.Errorf("with the agent %d packets have left, the first: %s", len(leaks), leaks[0])
	}
	w.reached(p, "after a boot with the kill switch on")
	m.must("systemctl", "stop", "warren.service")
	m.refused("ping", "-c1", "-W1", server.Addr.String())
	m.must("apt-get", "purge", "--quiet", "--yes", "warren")
	m.until("free of the kill switch", func() (bool, string) {
		out, err := m.Output(w.ctx, "ping", "-c1", "-W1", server.Addr.String())
		return err == nil, out
	})
}

// count reads a number from a file of the machine.
func (m *machine) count(file string) (n int) {
	out, err := m.Output(m.w.ctx, "cat", file)
	if err == nil {
		_, _ = fmt.Sscan(out, &n) // it may be empty at this moment
	}
	return n
}

// TestKillSwitchWithoutNFT: a machine without nft cannot load the kill switch before the network; the agent sets it when it starts.
func TestKillSwitchWithoutNFT(t *testing.T) {
	w := newWorld(t)
	server, err := w.Lab.Host("server", lab.None)
	must(t, err)
	m := w.machine("laptop", natmodel.Easy())
	must(t, m.Boot(w.ctx))
	m.install(*now, "warren")
	m.up()
	m.must("warren", "up", "--kill-switch")
	m.must("mv", "/usr/sbin/nft", "/usr/sbin/nft.away")
	must(t, m.Reboot(w.ctx))
	if got := m.unit("warren-killswitch.service", "ActiveState"); got != "failed" {
		t.Errorf("warren-killswitch.service is %s without nft", got)
	}
	m.address()
	m.refused("ping", "-c1", "-W1", server.Addr.String())
	began := time.Now()
	m.must("warren", "up", "--kill-switch=false")
	m.must("ping", "-c1", "-W1", server.Addr.String())
	t.Logf("lifted after %s", time.Since(began).Round(time.Millisecond))
}
