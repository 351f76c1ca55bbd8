// Package netstack ends the tunnel inside this process, for hosts that give it no interface: gVisor's TCP/IP stack behind a tun.Device. It
// needs no privilege and leaves nothing on the host.
//
// New makes a Stack, which is the tun.Device that package tundev wraps, so that lookup, packet filter and flow records are those of any other device.
// SetAddresses and SetMTU bring it into line with the network map. DialTCP, DialUDP, ListenUDP and DialPing are the ways out; what comes in is
// offered to Config.OnTCP and Config.OnUDP, and refused as a host without listeners refuses it where they do not take it. Echo requests are answered.
//
//	netstack.go the stack and its settings
//	device.go   the tun.Device: batches between the stack and WireGuard
//	link.go     the stack's side of it: a bounded queue
//	checksum.go what a card would look at in packets that come in
//	segment.go  TCP segments that the stack makes larger than the MTU, cut to size
//	dial.go     connections out, and errors that mean what the net package's mean
//	accept.go   connections in
package netstack

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// nic is the stack's only interface.
const nic = 1

// Bounds of what the other end of a TCP connection can have us keep, in bytes. Buffers begin at the default and grow up to the largest while the
// program on our side takes what comes.
const (
	leastBuffer   = 4 << 10
	defaultBuffer = 256 << 10
	largestBuffer = 4 << 20
)

// Config is what a Stack is made with.
type Config struct {
	// Name is what the device calls itself.
	Name string
	// MTU in bytes, 1280 to 65535.
	MTU int
	Log *slog.Logger
	// OnTCP decides about a connection that comes in: it has to call Accept or Refuse, in the end. It runs in a goroutine of its own, of which there are at
	// most MaxPending, and MaxPendingFrom for one address; more SYNs are dropped. nil refuses all.
	OnTCP func(*Request)
	// OnUDP decides about the first datagram between two ends. It gives what is to be done with the flow, which runs in a goroutine of its own
	// and closes the connection, or nil to have it answered as port unreachable. It must not block. nil refuses all.
	OnUDP func(to, from netip.AddrPort) func(net.Conn)
}

// Stack is a host of its own. It implements tun.Device.
type Stack struct {
	cfg     Config
	log     *slog.Logger
	stack   *stack.Stack
	link    *link
	events  chan tun.Event
	reader  reader
	mergers *sync.Pool
	pending pending
	// Packets in that were dropped, and connections in that were made.
	damaged, accepted atomic.Uint64

	mu        sync.Mutex
	addresses []netip.Addr
	closed    bool
}

// New makes a Stack without addresses. Close ends it.
func New(cfg Config) (*Stack, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := checkMTU(cfg.MTU); err != nil {
		return nil, err
	}
	s := &Stack{
		cfg: cfg, log: cfg.Log, link: newLink(uint32(cfg.MTU)), events: make(chan tun.Event, 4), mergers: newMergerPool(),
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
			HandleLocal:        true,
		}),
	}
	s.reader.init()
	s.pending.init()
	if err := s.setUp(); err != nil {
		s.stack.Destroy()
		return nil, err
	}
	s.events <- tun.EventUp
	return s, nil
}

func (s *Stack) setUp() error {
	// SACK is off unless asked for. RACK and CUBIC are not used: the former retransmits without need where acknowledgements come late (gVisor does
	// not hurry them), the latter's window arithmetic overflows (gvisor issue 11632).
	sack, recovery, reno := tcpip.TCPSACKEnabled(true), tcpip.TCPRecovery(0), tcpip.CongestionControlOption("reno")
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: leastBuffer, Default: defaultBuffer, Max: largestBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: leastBuffer, Default: defaultBuffer, Max: largestBuffer}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &reno, &receive, &send} {
		if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("TCP of the stack: option %T: %s", option, err)
		}
	}
	if err := s.stack.CreateNIC(nic, s.link); err != nil {
		return fmt.Errorf("interface of the stack: %s", err)
	}
	s.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	s.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s.stack, 0, MaxPending, s.onTCP).HandlePacket)
	s.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s.stack, s.onUDP).HandlePacket)
	return nil
}

// SetAddresses makes the list this host's addresses. Connections of addresses that it no longer has end by and by.
func (s *Stack) SetAddresses(list []netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	var errs []error
	for _, a := range s.addresses {
		if slices.Contains(list, a) {
			continue
		}
		if err := s.stack.RemoveAddress(nic, tcpip.AddrFromSlice(a.AsSlice())); err != nil {
			errs = append(errs, fmt.Errorf("address %s cannot be removed: %s", a, err))
		}
	}
	for _, a := range list {
		if slices.Contains(s.addresses, a) {
			continue
		}
		own := tcpip.ProtocolAddress{Protocol: protocolOf(a), AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix()}
		if err := s.stack.AddProtocolAddress(nic, own, stack.AddressProperties{}); err != nil {
			errs = append(errs, fmt.Errorf("address %s cannot be added: %s", a, err))
		}
	}
	s.addresses = slices.Clone(list)
	return errors.Join(errs...)
}

// Addresses are this host's.
func (s *Stack) Addresses() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.addresses)
}

// SetMTU changes the MTU, in bytes. Connections that are open keep their segment size where the new MTU is larger.
func (s *Stack) SetMTU(mtu int) error {
	if err := checkMTU(mtu); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if uint32(mtu) == s.link.MTU() {
		return nil
	}
	if err := s.stack.SetNICMTU(nic, uint32(mtu)); err != nil {
		return fmt.Errorf("MTU %d: %s", mtu, err)
	}
	select {
	case s.events <- tun.EventMTUUpdate:
	default: // whoever reads them asks for the MTU of then
	}
	return nil
}

func checkMTU(mtu int) error {
	if mtu < header.IPv6MinimumMTU || mtu > math.MaxUint16 {
		return fmt.Errorf("MTU %d: want %d to %d", mtu, header.IPv6MinimumMTU, math.MaxUint16)
	}
	return nil
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// Stats counts since the beginning.
type Stats struct {
	// Connections are the TCP connections that are established at present.
	Connections uint64
	// Opened and Accepted are TCP connections out and in that were established, Failed those out that were not.
	Opened, Accepted, Failed uint64
	// Retransmitted are TCP segments that were sent again.
	Retransmitted uint64
	// Damaged are packets in with a wrong length or checksum.
	Damaged uint64
	// QueueDropped are packets out for which there was no room.
	QueueDropped uint64
	// PendingDropped are SYNs that came while too many others waited.
	PendingDropped uint64
}

// Stats tells what the stack has done.
func (s *Stack) Stats() Stats {
	t := s.stack.Stats().TCP
	return Stats{
		Connections: t.CurrentEstablished.Value(), Opened: t.ActiveConnectionOpenings.Value(), Accepted: s.accepted.Load(),
		Failed: t.FailedConnectionAttempts.Value(), Retransmitted: t.Retransmits.Value(),
		Damaged: s.damaged.Load(), QueueDropped: s.link.dropped.Load(), PendingDropped: t.ForwardMaxInFlightDrop.Value() + s.pending.dropped.Load(),
	}
}
