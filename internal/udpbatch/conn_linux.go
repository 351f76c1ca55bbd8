package udpbatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// BatchSize is how many datagrams go through one system call at most.
const BatchSize = 128

// socketBuffer is what the kernel is asked to hold for us in each direction: 50 ms at 1 Gbit/s.
const socketBuffer = 7 << 20

// Conn is one UDP socket.
type Conn struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	network string
	port    uint16
	is6     bool
	mapped  bool // an IPv6 socket that carries IPv4 too
	gro     bool
	gso     atomic.Bool
	markErr error
	log     *slog.Logger

	sendmmsg, recvmmsg Syscall
}

// Syscall is sendmmsg or recvmmsg: it tells how many messages were dealt with.
type Syscall func(fd uintptr, m []unix.Mmsghdr) (int, syscall.Errno)

// Listen opens a socket; network is udp for both address families, udp4 or udp6.
func Listen(network, address string, o Options) (*Conn, error) {
	s := newConn(network, o)
	config := net.ListenConfig{Control: func(family, _ string, c syscall.RawConn) error {
		s.is6, s.mapped = family == "udp6", family == "udp6" && network == "udp"
		return withFD(c, func(fd int) error { return errors.Join(s.setFamilies(fd), s.setOptions(fd, o)) })
	}}
	c, err := config.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return s.with(c.(*net.UDPConn))
}

// Adopt makes a Conn of a bound socket that another process opened by Listen, with the same network, and that was passed on. It takes a copy of
// file, which stays the caller's.
func Adopt(network string, file *os.File, o Options) (*Conn, error) {
	c, err := net.FilePacketConn(file)
	if err != nil {
		return nil, err
	}
	udp, ok := c.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is a %T, not a UDP socket", file.Name(), c), c.Close())
	}
	raw, err := udp.SyscallConn()
	s := newConn(network, o)
	if err == nil {
		err = withFD(raw, func(fd int) error {
			if err := s.seeFamilies(fd); err != nil {
				return err
			}
			return s.setOptions(fd, o)
		})
	}
	if err != nil {
		return nil, errors.Join(err, udp.Close())
	}
	return s.with(udp)
}

func newConn(network string, o Options) *Conn {
	s := &Conn{network: network, log: o.Log, sendmmsg: Sendmmsg, recvmmsg: recvmmsg}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

func (s *Conn) with(c *net.UDPConn) (_ *Conn, err error) {
	s.conn = c
	s.port = uint16(c.LocalAddr().(*net.UDPAddr).Port)
	if s.raw, err = c.SyscallConn(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return s, nil
}

func withFD(c syscall.RawConn, do func(fd int) error) error {
	var done error
	err := c.Control(func(fd uintptr) { done = do(int(fd)) })
	return errors.Join(err, done)
}

// setFamilies says, before a socket is bound, whether an IPv6 one carries IPv4 too.
func (s *Conn) setFamilies(fd int) error {
	if !s.is6 {
		return nil
	}
	only := 1
	if s.mapped {
		only = 0
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only)
}

// seeFamilies finds what a bound socket carries, which has to be what the network's name says.
func (s *Conn) seeFamilies(fd int) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	s.is6 = domain == unix.AF_INET6
	if s.is6 {
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		s.mapped = only == 0
	}
	if _, err := unix.Getpeername(fd); err == nil {
		return errors.New("the socket that was passed on is connected to one peer")
	}
	if fits := map[string]bool{"udp": !s.is6 || s.mapped, "udp4": !s.is6, "udp6": s.is6 && !s.mapped}[s.network]; !fits {
		return fmt.Errorf("the socket that was passed on is not of network %s", s.network)
	}
	return nil
}

// SyscallConn is for options that are not set here.
func (s *Conn) SyscallConn() (syscall.RawConn, error) { return s.conn.SyscallConn() }

// Override puts other system calls in place of the kernel's, for tests with one that refuses; nil keeps what is there. It is called before
// the socket is used.
func (s *Conn) Override(send, receive Syscall) {
	if send != nil {
		s.sendmmsg = send
	}
	if receive != nil {
		s.recvmmsg = receive
	}
}

// setOptions fails only where the socket would be of no use.
func (s *Conn) setOptions(fd int, o Options) error {
	for force, plain := range map[int]int{unix.SO_RCVBUFFORCE: unix.SO_RCVBUF, unix.SO_SNDBUFFORCE: unix.SO_SNDBUF} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, socketBuffer) != nil { // needs CAP_NET_ADMIN
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, socketBuffer); err != nil {
				s.log.Debug("socket buffer not enlarged", "network", s.network, "err", err)
			}
		}
	}
	if o.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(o.Mark)); err != nil {
			s.markErr = fmt.Errorf("SO_MARK %#x: %w", o.Mark, err)
		}
	}
	if o.GSO {
		_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT) // Linux 4.18
		s.gso.Store(err == nil)
	}
	gro := 0 // one that was adopted may have had it
	if o.GRO {
		gro = 1
	}
	s.gro = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, gro) == nil && o.GRO // Linux 5.0
	if o.Whole {
		if err := s.setWhole(fd); err != nil {
			s.log.Debug("datagrams may be fragmented", "network", s.network, "err", err)
		}
	}
	if s.is6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

// setWhole has datagrams leave with DF set, whatever the kernel believes of the path's MTU.
func (s *Conn) setWhole(fd int) error {
	if !s.is6 || s.mapped {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE); err != nil {
			return err
		}
	}
	if !s.is6 {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
}

// UDPConn is the socket itself, for one datagram at a time; a Reader is not used beside it.
func (s *Conn) UDPConn() *net.UDPConn { return s.conn }

// SetMark changes the firewall mark.
func (s *Conn) SetMark(mark uint32) error {
	var optErr error
	err := s.raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	})
	if err = errors.Join(err, optErr); err != nil {
		return fmt.Errorf("SO_MARK %#x: %w", mark, err)
	}
	return nil
}

// Offloads tells which are in use.
func (s *Conn) Offloads() (gso, gro bool) { return s.gso.Load(), s.gro }

// Close closes the socket; a Reader waiting on it gets net.ErrClosed.
func (s *Conn) Close() error { return s.conn.Close() }

// WriteTo sends one datagram, from local unless that is zero; it is not for bulk.
func (s *Conn) WriteTo(local netip.Addr, remote netip.AddrPort, m []byte) error {
	return s.WriteFrom(Source{Local: local}, remote, m)
}

// WriteFrom is WriteTo with more to tell of the source.
func (s *Conn) WriteFrom(from Source, remote netip.AddrPort, m []byte) error {
	var oob [controlSize]byte
	n := putPktinfo(oob[:], from.unmap(), s.mapped)
	_, _, err := s.conn.WriteMsgUDPAddrPort(m, oob[:n], remote)
	return err
}
