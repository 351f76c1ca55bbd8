package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"warren/cmd/agent/internal/sitecheck"
)

// forwards reports whether the kernel forwards packets of a's family.
func forwards(a netip.Addr) (bool, error) {
	file := "/proc/sys/net/ipv4/ip_forward"
	if a.Is6() {
		file = "/proc/sys/net/ipv6/conf/all/forwarding"
	}
	b, err := os.ReadFile(file)
	return len(bytes.TrimSpace(b)) > 0 && b[0] != '0', err
}

// Headers that size counts, in bytes.
const (
	ipv4AndEcho = 20 + 8
	ipv6AndEcho = 40 + 8
)

// echoWhole sends an echo request of a size that the host does not cut into pieces, nor lets others do so, and waits for its answer.
func echoWhole(ctx context.Context, src, dst netip.Addr, size int, patience time.Duration) (out sitecheck.Sent) {
	network, level, discover, mtu, proto := "ip4:icmp", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU, 1
	m, reply, header := icmp.Message{Type: ipv4.ICMPTypeEcho}, icmp.Type(ipv4.ICMPTypeEchoReply), ipv4AndEcho
	if dst.Is6() {
		network, level, discover, mtu, proto = "ip6:ipv6-icmp", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU, 58
		m.Type, reply, header = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, ipv6AndEcho
	}
	c, err := net.DialIP(network, &net.IPAddr{IP: src.AsSlice()}, &net.IPAddr{IP: dst.AsSlice()})
	if err != nil {
		return sitecheck.Sent{Err: err}
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := onSocket(c, func(fd int) error { return unix.SetsockoptInt(fd, level, discover, unix.IP_PMTUDISC_DO) }); err != nil {
		return sitecheck.Sent{Err: err}
	}
	data := make([]byte, max(size-header, 8))
	rand.Read(data[:8])
	id := binary.BigEndian.Uint16(data)
	m.Body = &icmp.Echo{ID: int(id), Seq: 1, Data: data}
	b, err := m.Marshal(nil)
	if err != nil {
		return sitecheck.Sent{Err: err}
	}
	if _, out.Err = c.Write(b); out.Err == nil {
		out.Answered = awaitEcho(c, proto, reply, data, time.Now().Add(patience))
	}
	if !out.Answered && (out.Err == nil || errors.Is(out.Err, unix.EMSGSIZE)) {
		// Somebody on the way may have told the kernel.
		_ = onSocket(c, func(fd int) (err error) { out.Largest, err = unix.GetsockoptInt(fd, level, mtu); return err })
		if out.Largest >= size {
			out.Largest = 0
		} else {
			out.Err = nil
		}
	}
	return out
}

func onSocket(c *net.IPConn, do func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	return errors.Join(raw.Control(func(fd uintptr) { inner = do(int(fd)) }), inner)
}

// awaitEcho reports whether the answer with this data comes by then.
func awaitEcho(c *net.IPConn, proto int, reply icmp.Type, data []byte, by time.Time) bool {
	if c.SetReadDeadline(by) != nil {
		return false
	}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return false // such as EMSGSIZE: the kernel was told that the request is too long
		}
		m, err := icmp.ParseMessage(proto, buf[:n])
		if err != nil || m.Type != reply {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && bytes.Equal(e.Data, data) {
			return true
		}
	}
}
