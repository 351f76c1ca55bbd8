package daemon

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"warren/nat/traversal"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// Bounds on what a caller may ask of Ping.
const (
	minPingInterval = 10 * time.Millisecond
	maxPingTimeout  = time.Minute
)

// Ping implements LocalService.
func (a *api) Ping(ctx context.Context, req *connect.Request[pb.PingRequest], out *connect.ServerStream[pb.PingResponse]) error {
	if _, err := a.admit(ctx); err != nil {
		return err
	}
	a.d.mu.Lock()
	s := a.d.session
	a.d.mu.Unlock()
	if s == nil {
		return connect.NewError(connect.CodeFailedPrecondition, errors.New("the tunnel is down; run \"warren up\" first"))
	}
	peer, addr, err := s.known.Load().find(req.Msg.GetPeer())
	if behind, parseErr := netip.ParseAddr(req.Msg.GetPeer()); err != nil && parseErr == nil {
		if gateway := s.networks.gatewayOf(behind); gateway != nil {
			peer, addr, err = gateway, behind, nil
		}
	}
	if err != nil {
		return connect.NewError(connect.CodeNotFound, err)
	}
	p, err := s.newPinger(addr)
	if err != nil {
		return connect.NewError(connect.CodeInternal, fmt.Errorf("cannot send ICMP: %w", err))
	}
	defer p.close()
	interval := max(req.Msg.GetInterval().AsDuration(), minPingInterval)
	timeout := min(max(req.Msg.GetTimeout().AsDuration(), time.Millisecond), maxPingTimeout)
	for n := uint32(1); ; n++ {
		started := time.Now()
		rtt, err := p.once(ctx, uint16(n), timeout)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		path := s.traversal.Paths()[peer.NodeKey.Raw()]
		answer := &pb.PingResponse{Sequence: n, Answered: err == nil, Address: addr.String(), Path: pathStatus(path)}
		answer.RttMs = float64(rtt) / float64(time.Millisecond)
		if err := out.Send(answer); err != nil {
			return err
		}
		direct := err == nil && path.Kind == traversal.Direct
		if n == req.Msg.GetCount() || (direct && !req.Msg.GetGoOn()) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(started.Add(interval))):
		}
	}
}

// find looks a peer up by name, address or node key.
func (k *known) find(text string) (*record.Device, netip.Addr, error) {
	node, keyErr := key.ParseNodePublic(text)
	addr, addrErr := netip.ParseAddr(text)
	if k.m == nil {
		return nil, netip.Addr{}, errors.New("no network map yet; see \"warren status\"")
	}
	for _, p := range k.m.Peers {
		switch {
		case p.Name == text, keyErr == nil && p.NodeKey.Equal(node):
			return p, p.Addresses[0], nil
		case addrErr == nil:
			for _, own := range p.Addresses {
				if own == addr {
					return p, addr, nil
				}
			}
		}
	}
	return nil, netip.Addr{}, fmt.Errorf("no peer has the name, address or node key %.80q; \"warren status\" lists them", text)
}

// pinger sends ICMP echo requests to one address and takes only answers with its own random payload.
type pinger struct {
	conn   echoConn
	to     netip.Addr
	id     uint16
	secret [8]byte
}

// echoConn carries ICMP messages to and from one address. What is read may come from elsewhere.
type echoConn interface {
	Write(b []byte) (int, error)
	ReadFrom(b []byte) (int, netip.Addr, error)
	SetReadDeadline(t time.Time) error
	Close() error
	// SetsID says that the identifiers of requests are not those that they are written with, and that only answers to them are read.
	SetsID() bool
}

// hostEcho is a raw socket of this host.
type hostEcho struct {
	*icmp.PacketConn
	to netip.Addr
}

func (h hostEcho) SetsID() bool                { return false }
func (h hostEcho) Write(b []byte) (int, error) { return h.WriteTo(b, &net.IPAddr{IP: h.to.AsSlice()}) }

func (h hostEcho) ReadFrom(b []byte) (int, netip.Addr, error) {
	n, from, err := h.PacketConn.ReadFrom(b)
	ip, ok := from.(*net.IPAddr)
	if err != nil || !ok {
		return n, netip.Addr{}, err
	}
	a, _ := netip.AddrFromSlice(ip.IP)
	return n, a.Unmap(), nil
}

// stackEcho is a socket of a tunnel without an interface.
type stackEcho struct {
	net.Conn
	to netip.Addr
}

func (s stackEcho) SetsID() bool { return true }

func (s stackEcho) ReadFrom(b []byte) (int, netip.Addr, error) {
	n, err := s.Read(b)
	return n, s.to, err
}

func (s *session) openEcho(to netip.Addr) (echoConn, error) {
	if h, ok := s.router.(*userspaceHost); ok {
		c, err := h.stack.DialPing(to)
		return stackEcho{c, to}, err
	}
	network, any := "ip4:icmp", "0.0.0.0"
	if to.Is6() {
		network, any = "ip6:ipv6-icmp", "::"
	}
	c, err := icmp.ListenPacket(network, any)
	return hostEcho{c, to}, err
}

func (s *session) newPinger(to netip.Addr) (*pinger, error) {
	c, err := s.openEcho(to)
	if err != nil {
		return nil, err
	}
	p := &pinger{conn: c, to: to}
	rand.Read(p.secret[:])
	p.id = binary.BigEndian.Uint16(p.secret[:])
	return p, nil
}

func (p *pinger) close() { p.conn.Close() }

// once sends one request and waits for its answer.
func (p *pinger) once(ctx context.Context, seq uint16, timeout time.Duration) (time.Duration, error) {
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(p.id), Seq: int(seq), Data: p.secret[:]}}
	if p.to.Is6() {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	b, err := m.Marshal(nil)
	if err != nil {
		return 0, err
	}
	started := time.Now()
	if err := p.conn.SetReadDeadline(started.Add(timeout)); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { p.conn.SetReadDeadline(time.Now()) })
	defer stop()
	if _, err := p.conn.Write(b); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := p.conn.ReadFrom(buf)
		if err != nil {
			return 0, err
		}
		if p.isAnswer(from, buf[:n], seq) {
			return time.Since(started), nil
		}
	}
}

func (p *pinger) isAnswer(from netip.Addr, b []byte, seq uint16) bool {
	proto := 1 // IANA protocol number of ICMP
	if p.to.Is6() {
		proto = 58
	}
	m, err := icmp.ParseMessage(proto, b)
	if err != nil || from != p.to {
		return false
	}
	if m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply {
		return false
	}
	e, ok := m.Body.(*icmp.Echo)
	return ok && (p.conn.SetsID() || uint16(e.ID) == p.id) && uint16(e.Seq) == seq && string(e.Data) == string(p.secret[:])
}
