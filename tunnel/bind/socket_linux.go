package bind

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// batchSize is how many packets go through one call of a receive function or Send.
const batchSize = 128

// socketBuffer is what the kernel is asked to hold for us in each direction: 50 ms at 1 Gbit/s.
const socketBuffer = 7 << 20

// socket is one UDP socket of the tunnel.
type socket struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	network string
	port    uint16
	is6     bool
	gro     bool
	gso     atomic.Bool
	markErr error
	log     *slog.Logger

	// The system calls, for tests to put others in their place.
	sendmmsg, recvmmsg func(fd uintptr, m []unix.Mmsghdr) (int, syscall.Errno)
}

func listenSocket(network string, port uint16, mark uint32, gso, gro bool, log *slog.Logger) (*socket, error) {
	s := &socket{network: network, is6: network == "udp6", log: log, sendmmsg: sendmmsg, recvmmsg: recvmmsg}
	var optErr error
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		err := c.Control(func(fd uintptr) { optErr = s.setOptions(int(fd), mark, gso, gro) })
		return errors.Join(err, optErr)
	}}
	c, err := config.ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	s.conn = c.(*net.UDPConn)
	s.port = uint16(s.conn.LocalAddr().(*net.UDPAddr).Port)
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.conn.Close())
	}
	return s, nil
}

// setOptions fails only where the socket would be of no use.
func (s *socket) setOptions(fd int, mark uint32, gso, gro bool) error {
	for force, plain := range map[int]int{unix.SO_RCVBUFFORCE: unix.SO_RCVBUF, unix.SO_SNDBUFFORCE: unix.SO_SNDBUF} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, socketBuffer) != nil { // needs CAP_NET_ADMIN
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, socketBuffer); err != nil {
				s.log.Debug("socket buffer not enlarged", "network", s.network, "err", err)
			}
		}
	}
	if mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
			s.markErr = fmt.Errorf("SO_MARK %#x: %w", mark, err)
		}
	}
	if gso {
		_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT) // Linux 4.18
		s.gso.Store(err == nil)
	}
	if gro {
		s.gro = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil // Linux 5.0
	}
	if s.is6 {
		return errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

func (s *socket) setMark(mark uint32) error {
	var optErr error
	err := s.raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	})
	if err = errors.Join(err, optErr); err != nil {
		return fmt.Errorf("SO_MARK %#x: %w", mark, err)
	}
	return nil
}

func (s *socket) offloads() (gso, gro bool) { return s.gso.Load(), s.gro }

func (s *socket) close() error { return s.conn.Close() }

// writeTo sends one datagram; it is not for bulk.
func (s *socket) writeTo(local netip.Addr, remote netip.AddrPort, m []byte) error {
	var oob [controlSize]byte
	n := putPktinfo(oob[:], local)
	_, _, err := s.conn.WriteMsgUDPAddrPort(m, oob[:n], remote)
	return err
}
