// Package udpbatch sends and receives UDP datagrams many at a time: sendmmsg and recvmmsg, and trains of datagrams that the kernel or the
// card cuts and joins (GSO, GRO), with a fallback for each socket or path where an offload is refused.
//
// Listen opens a Conn, and Adopt makes one of a socket that another process opened. Conn.Send takes datagrams for one destination, a Route made by
// NewRoute; a Reader, made by NewReader for one goroutine, brings what came, and Cut takes its trains apart. Systems other than Linux have one
// system call a datagram.
package udpbatch

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
)

// Options are what a socket is opened with.
type Options struct {
	// Mark is the firewall mark (SO_MARK); 0 sets none. Where the kernel refuses it, Conn.MarkErr says why and the socket works without.
	Mark uint32
	// GSO and GRO ask for the offloads, which are used where the kernel has them.
	GSO, GRO bool
	// Whole asks that no datagram be fragmented, here or on its way: what is too long for a path is lost, or comes back as TooLongError. Who
	// asks for it must find out by itself what gets through (RFC 8899).
	Whole bool
	Log   *slog.Logger
}

// TooLongError holds the datagrams of a Send that are longer than the MTU of the interface that they were to leave by. The others were sent.
type TooLongError struct{ Datagrams [][]byte }

// Error implements error.
func (e *TooLongError) Error() string {
	return fmt.Sprintf("%d datagrams are too long for the interface, the first with %d bytes", len(e.Datagrams), len(e.Datagrams[0]))
}

// Source is where datagrams are to leave from.
type Source struct {
	// Local pins the source address; zero leaves it to the kernel.
	Local netip.Addr
	// Interface is the index of the interface to leave by, which must have a route of its own to the destination; 0 leaves it to the kernel, which
	// goes by the destination alone: with several uplinks, what has the address of one may leave by another. It counts only with an address; with one of IPv6, for which the
	// kernel obeys either but not both, the kernel chooses the source address among those of the interface.
	Interface int
}

func (s Source) unmap() Source { return Source{s.Local.Unmap(), s.Interface} }

// Route is one destination with what sending to it needs worked out. It belongs to the Conn that made it.
type Route struct {
	Source
	Remote netip.AddrPort
	wire   wireAddr
	// noGSO: trains of datagrams are too large for this path, single ones may be fragmented.
	noGSO atomic.Bool
}

// NewRoute works a destination out, with addresses unmapped. A local address that is zero leaves the source to the kernel.
func (s *Conn) NewRoute(local netip.Addr, remote netip.AddrPort) *Route {
	return s.NewRouteFrom(Source{Local: local}, remote)
}

// NewRouteFrom is NewRoute with more to tell of the source.
func (s *Conn) NewRouteFrom(from Source, remote netip.AddrPort) *Route {
	from, remote = from.unmap(), netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	return &Route{Source: from, Remote: remote, wire: newWireAddr(from, remote, s.mapped)}
}

// Port is the socket's own port.
func (s *Conn) Port() uint16 { return s.port }

// Network is udp, udp4 or udp6, as given to Listen.
func (s *Conn) Network() string { return s.network }

// MarkErr says why the firewall mark could not be set; nil if it was, or none was asked for.
func (s *Conn) MarkErr() error { return s.markErr }
