package leak

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// tap sees what leaves by a link, below any firewall.
type tap struct {
	link string
	fd   int
}

func openTap(link string) (*tap, error) {
	i, err := net.InterfaceByName(link)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// Beside a busy tunnel our few packets must not be lost.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &tap{link, fd}, nil
}

func (t *tap) close() { unix.Close(t.fd) }

// await waits until a tap has something, and reports whether one has, for so long.
func await(taps []*tap, patience time.Duration) bool {
	fds := make([]unix.PollFd, len(taps))
	for i, t := range taps {
		fds[i] = unix.PollFd{Fd: int32(t.fd), Events: unix.POLLIN}
	}
	for end := time.Now().Add(patience); ; {
		n, err := unix.Poll(fds, int(max(0, time.Until(end)).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// seen gives the protocols of packets to an address that have left since the last time.
func (t *tap) seen(to netip.Addr) (protocols []string) {
	b := make([]byte, 128)
	for {
		n, from, err := unix.Recvfrom(t.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return protocols
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING {
			if protocol, dst := protocolOf(b[:n]); dst == to {
				protocols = append(protocols, protocol)
			}
		}
	}
}

// protocolOf reads a packet's header.
func protocolOf(b []byte) (name string, to netip.Addr) {
	number := byte(0)
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		number = b[9]
		to, _ = netip.AddrFromSlice(b[16:20])
	case len(b) >= 40 && b[0]>>4 == 6:
		number = b[6]
		to, _ = netip.AddrFromSlice(b[24:40])
	}
	switch number {
	case unix.IPPROTO_UDP:
		return "UDP", to
	case unix.IPPROTO_TCP:
		return "TCP", to
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "ICMP", to
	}
	return "another protocol", to
}

// discard is the port that probes go to (RFC 863).
const discard = 9

// send tries to get a packet of each protocol to nobody, by a link unless that is empty. Whether it fails does not matter: what counts is what a tap
// sees.
func (f family) send(link string) {
	echo := []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}
	domain, icmp := unix.AF_INET, unix.IPPROTO_ICMP
	if !f.is4 {
		domain, icmp, echo[0] = unix.AF_INET6, unix.IPPROTO_ICMPV6, 128
	}
	for _, p := range []struct {
		kind, protocol int
		payload        []byte
	}{{unix.SOCK_DGRAM, unix.IPPROTO_UDP, []byte("leaktest")}, {unix.SOCK_STREAM, unix.IPPROTO_TCP, nil}, {unix.SOCK_RAW, icmp, echo}} {
		fd, err := unix.Socket(domain, p.kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, p.protocol)
		if err != nil {
			continue
		}
		f.sendOne(fd, link, p.payload)
		unix.Close(fd)
	}
}

func (f family) sendOne(fd int, link string, payload []byte) {
	if link != "" && unix.BindToDevice(fd, link) != nil {
		return
	}
	if err := unix.Connect(fd, f.at(discard)); err == nil && payload != nil {
		_, _ = unix.Write(fd, payload)
	}
}

func (f family) at(port int) unix.Sockaddr {
	if f.is4 {
		return &unix.SockaddrInet4{Port: port, Addr: f.nobody.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: f.nobody.As16()}
}
