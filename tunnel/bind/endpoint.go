package bind

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"warren/internal/udpbatch"
	"warren/proto/key"
)

// Kind is how a peer is reached.
type Kind uint8

// Kinds of path. None is treated as Relay, so that a peer can be reached before anyone has chosen a path.
const (
	None Kind = iota
	Relay
	Direct
)

// Path is how a peer's packets travel now.
type Path struct {
	Kind Kind
	// Local pins the source address of a direct path; zero leaves it to the kernel.
	Local netip.Addr
	// Socket is the extra socket that a direct path uses; 0 for the tunnel's own.
	Socket uint16
	// Remote is the peer's address on a direct path.
	Remote netip.AddrPort
	// MTU is the largest packet inside the tunnel that a direct path carries, in bytes; longer ones go by the relay. 0: there is no limit.
	MTU int
	// RelayAddr is the relay's address, for show only.
	RelayAddr netip.AddrPort
}

// endpoint is the one virtual endpoint of a peer. WireGuard may hold it for as long as the peer is configured, and packets on their way
// for longer: it stays the same object while the peer is allowed.
type endpoint struct {
	key key.NodePublic
	raw [key.Size]byte

	// route is an immutable snapshot, so SetPath never races a Send.
	route atomic.Pointer[route]
	// lastSent, lastReceived and lastDirect are nanoseconds since Bind.start; 0 is never.
	lastSent, lastReceived, lastDirect atomic.Int64

	glare      glare
	configured bool          // guarded by admission.mu
	indices    []*indexEntry // guarded by indexTable.mu
}

// route is a Path with what sending needs worked out.
type route struct {
	Path
	extra *udpbatch.Conn // of Path.Socket
	wire  atomic.Pointer[wire]
}

// wire is the destination as one socket wants it; one that was reopened makes its own, and so do other uplinks.
type wire struct {
	sock    *udpbatch.Conn
	uplinks *map[netip.Addr]int
	to      *udpbatch.Route
}

// on gives the destination for a socket.
func (b *Bind) on(r *route, s *udpbatch.Conn) *udpbatch.Route {
	w, uplinks := r.wire.Load(), b.uplinks.Load()
	if w == nil || w.sock != s || w.uplinks != uplinks {
		w = &wire{s, uplinks, s.NewRouteFrom(b.source(r.Local), r.Remote)}
		r.wire.Store(w)
	}
	return w.to
}

// SetUplinks tells by which interface, given by its index, what is pinned to an address is to leave; addresses that are not in it leave as the
// kernel finds by the destination alone. The map must not be changed afterwards.
func (b *Bind) SetUplinks(byAddr map[netip.Addr]int) { b.uplinks.Store(&byAddr) }

func (b *Bind) source(local netip.Addr) udpbatch.Source {
	from := udpbatch.Source{Local: local.Unmap()}
	if p := b.uplinks.Load(); p != nil {
		from.Interface = (*p)[from.Local]
	}
	return from
}

var _ conn.Endpoint = (*endpoint)(nil)

// ClearSrc does nothing: the path says what the source address is.
func (e *endpoint) ClearSrc() {}

// SrcToString is the pinned source address, if any.
func (e *endpoint) SrcToString() string {
	if r := e.route.Load(); r != nil && r.Local.IsValid() {
		return r.Local.String()
	}
	return ""
}

// DstToString is the address of the current path, a relay's own if it is relayed, and 0.0.0.0:0 while there is none: wg and wgctrl
// read nothing but address and port.
func (e *endpoint) DstToString() string {
	if r := e.route.Load(); r != nil {
		switch {
		case r.Kind == Direct:
			return r.Remote.String()
		case r.RelayAddr.IsValid():
			return r.RelayAddr.String()
		}
	}
	return "0.0.0.0:0"
}

// DstToBytes is what WireGuard binds its cookies to: the peer, since its address may change between two packets.
func (e *endpoint) DstToBytes() []byte { return e.raw[:] }

// DstIP tells peers apart for WireGuard's own rate limit, which would treat all that share a relay as one. It is no address.
func (e *endpoint) DstIP() netip.Addr { return netip.AddrFrom16([16]byte(e.raw[:16])) }

// SrcIP is the pinned source address, if any.
func (e *endpoint) SrcIP() netip.Addr {
	if r := e.route.Load(); r != nil {
		return r.Local
	}
	return netip.Addr{}
}

// endpoints finds endpoints by public key. Packets do not pass here: they come with the endpoint or with an index.
type endpoints struct {
	mu    sync.Mutex
	byKey map[[key.Size]byte]*endpoint
}

func (t *endpoints) init() { t.byKey = map[[key.Size]byte]*endpoint{} }

// get gives the endpoint of a peer, and makes it if need be.
func (t *endpoints) get(peer key.NodePublic) *endpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	raw := peer.Raw()
	e := t.byKey[raw]
	if e == nil {
		e = &endpoint{key: peer, raw: raw}
		t.byKey[raw] = e
	}
	return e
}

// find gives the endpoint of a peer, or nil.
func (t *endpoints) find(peer key.NodePublic) *endpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byKey[peer.Raw()]
}

func (t *endpoints) remove(peer key.NodePublic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byKey, peer.Raw())
}

// ParseEndpoint gives the virtual endpoint of the peer whose public key s is, in base64.
func (b *Bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	peer, err := key.ParseNodePublic(s)
	if err != nil {
		return nil, fmt.Errorf("endpoint %.60q: not a peer's public key: %w", s, err)
	}
	return b.endpoints.get(peer), nil
}

// SetPath publishes how a peer is reached from now on. A direct path without a remote address counts as none. A peer that is no longer
// allowed gets no path: whoever chose one may not have heard yet.
func (b *Bind) SetPath(peer key.NodePublic, p Path) {
	if p.Kind == Direct && !p.Remote.IsValid() {
		b.log.Warn("direct path without an address; using the relay", "peer", peer.Short())
		p.Kind = None
	}
	p.Local = p.Local.Unmap()
	p.Remote = netip.AddrPortFrom(p.Remote.Addr().Unmap(), p.Remote.Port())
	if (p.Kind == None || !b.allowed(peer)) && b.endpoints.find(peer) == nil {
		return
	}
	r := &route{Path: p}
	if p.Kind == Direct && p.Socket != 0 {
		x := b.extras.find(p.Socket)
		if x == nil {
			b.log.Warn("direct path from a socket that is closed; using the relay", "peer", peer.Short(), "socket", p.Socket)
			r = &route{Path: Path{RelayAddr: p.RelayAddr}}
		} else {
			r.extra = x.conn
		}
	}
	b.endpoints.get(peer).route.Store(r)
}

// Forget says that the device no longer has the peer: its indices, held packets and path are dropped, and its next initiation is held
// again. If the peer is no longer allowed, its endpoint goes too. The time of its last initiation stays known while it is allowed.
func (b *Bind) Forget(peer key.NodePublic) {
	e := b.endpoints.find(peer)
	if e == nil {
		return
	}
	b.admission.unconfigure(e)
	e.glare.forget()
	b.index.removeAll(e)
	e.route.Store(nil)
	if !b.allowed(peer) {
		b.endpoints.remove(peer)
	}
}

func (b *Bind) allowed(peer key.NodePublic) bool { return b.cfg.Allowed == nil || b.cfg.Allowed(peer) }

// Traffic tells when transport data last went to a peer (keepalives, which ask for no answer, do not count) and when any WireGuard
// message last came from it, with monotonic readings; zero for never.
func (b *Bind) Traffic(peer key.NodePublic) (lastSent, lastReceived time.Time) {
	e := b.endpoints.find(peer)
	if e == nil {
		return time.Time{}, time.Time{}
	}
	return b.at(e.lastSent.Load()), b.at(e.lastReceived.Load())
}

// LastDirect tells when any WireGuard message last came from a peer to our own sockets, and not by a relay; zero for never.
func (b *Bind) LastDirect(peer key.NodePublic) time.Time {
	e := b.endpoints.find(peer)
	if e == nil {
		return time.Time{}
	}
	return b.at(e.lastDirect.Load())
}

func (b *Bind) at(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return b.start.Add(time.Duration(ns))
}
