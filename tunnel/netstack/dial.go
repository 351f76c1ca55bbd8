package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// DialTCP connects to an address and port until ctx ends. errors.Is knows the error's cause as it does of the net package: syscall.ECONNREFUSED,
// EHOSTUNREACH, ENETUNREACH, ETIMEDOUT. The connection can be closed for writing only.
func (s *Stack) DialTCP(ctx context.Context, to netip.AddrPort) (*gonet.TCPConn, error) {
	fail := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	if err := ctx.Err(); err != nil {
		return nil, fail(err)
	}
	wq := new(waiter.Queue)
	ep, failed := s.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(to.Addr()), wq)
	if failed != nil {
		return nil, fail(errorOf(failed))
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	failed = ep.Connect(fullAddress(to))
	if _, started := failed.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			ep.Close()
			return nil, fail(context.Cause(ctx))
		case <-ready:
		}
		failed = ep.LastError()
	}
	if failed != nil {
		ep.Close()
		return nil, fail(errorOf(failed))
	}
	return gonet.NewTCPConn(wq, ep), nil
}

// DialUDP gives a socket for datagrams to and from one address and port.
func (s *Stack) DialUDP(to netip.AddrPort) (net.Conn, error) {
	remote := fullAddress(to)
	return gonet.DialUDP(s.stack, nil, &remote, protocolOf(to.Addr()))
}

// ListenUDP gives a socket for datagrams to and from any address of a family, at a port that is free.
func (s *Stack) ListenUDP(v6 bool) (net.PacketConn, error) {
	own := netip.IPv4Unspecified()
	if v6 {
		own = netip.IPv6Unspecified()
	}
	return gonet.DialUDP(s.stack, &tcpip.FullAddress{NIC: nic}, nil, protocolOf(own))
}

// DialPing gives a socket for echo requests to one address. What is written and read are whole ICMP messages; the stack sets the identifier of
// requests, and gives only the answers that have it.
func (s *Stack) DialPing(to netip.Addr) (net.Conn, error) {
	proto := icmp.ProtocolNumber4
	if to.Is6() {
		proto = icmp.ProtocolNumber6
	}
	wq := new(waiter.Queue)
	ep, failed := s.stack.NewEndpoint(proto, protocolOf(to), wq)
	if failed == nil {
		if failed = ep.Connect(fullAddress(netip.AddrPortFrom(to, 0))); failed != nil {
			ep.Close()
		}
	}
	if failed != nil {
		return nil, &net.OpError{Op: "dial", Net: "icmp", Addr: &net.IPAddr{IP: to.AsSlice()}, Err: errorOf(failed)}
	}
	return gonet.NewUDPConn(wq, ep), nil
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}

// errorOf gives the error that a kernel would.
func errorOf(err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrConnectionRefused:
		return os.NewSyscallError("connect", syscall.ECONNREFUSED)
	case *tcpip.ErrHostUnreachable, *tcpip.ErrHostDown:
		return os.NewSyscallError("connect", syscall.EHOSTUNREACH)
	case *tcpip.ErrNetworkUnreachable, *tcpip.ErrBadLocalAddress:
		return os.NewSyscallError("connect", syscall.ENETUNREACH)
	case *tcpip.ErrTimeout:
		return os.NewSyscallError("connect", syscall.ETIMEDOUT)
	case *tcpip.ErrConnectionReset, *tcpip.ErrAborted, *tcpip.ErrConnectionAborted:
		return os.NewSyscallError("connect", syscall.ECONNRESET)
	case *tcpip.ErrClosedForSend, *tcpip.ErrInvalidEndpointState:
		return net.ErrClosed
	case nil:
		return nil
	}
	return fmt.Errorf("network stack: %w", errors.New(err.String()))
}
