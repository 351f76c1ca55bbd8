package relay

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"warren/internal/udpbatch"
	"warren/nat/relay/carrier"
	"warren/nat/relay/datagram"
	"warren/proto/relayframe"
	pb "warren/proto/warrenv1"
)

// udpSession is what the relay has for one device's datagrams. It lives as long as the device's connection.
type udpSession struct {
	id     uint32
	opener *datagram.Opener // of ServeUDP's goroutine
	sealer *datagram.Sealer
	secret [32]byte // for cookies

	// route is where the device has shown that it receives; nil for nowhere yet.
	route atomic.Pointer[udpbatch.Route]

	mu       sync.Mutex
	downlink carrier.Downlink
	longest  int // payload of a ping that came
	peers    map[uint16]rawKey
	channels map[rawKey]uint16
}

// newUDPSession draws the keys and gives what the device is told of them.
func newUDPSession(id uint32) (*udpSession, *pb.RelayUDP, error) {
	u := &udpSession{id: id, peers: map[uint16]rawKey{}, channels: map[rawKey]uint16{}}
	offer := &pb.RelayUDP{Session: id, UpKey: make([]byte, datagram.KeySize), DownKey: make([]byte, datagram.KeySize)}
	rand.Read(offer.UpKey)
	rand.Read(offer.DownKey)
	rand.Read(u.secret[:])
	var err1, err2 error
	u.opener, err1 = datagram.NewOpener(id, offer.UpKey)
	u.sealer, err2 = datagram.NewSealer(id, offer.DownKey)
	return u, offer, errors.Join(err1, err2)
}

// cookie is what the device must return from an address to be sent anything there.
func (u *udpSession) cookie(local netip.Addr, remote netip.AddrPort) datagram.Cookie {
	h := sha256.New()
	h.Write(u.secret[:])
	l, r := local.As16(), remote.Addr().As16()
	h.Write(l[:])
	h.Write(r[:])
	h.Write(binary.BigEndian.AppendUint16(nil, remote.Port()))
	return datagram.Cookie(h.Sum(nil))
}

// isAt tells whether the device has shown that it receives at remote what is sent from local.
func (u *udpSession) isAt(local netip.Addr, remote netip.AddrPort) bool {
	r := u.route.Load()
	return r != nil && r.Remote == remote && r.Local == local
}

// bind gives a peer a channel, for both directions. A channel and a peer each have but one of the other.
func (u *udpSession) bind(channel uint16, peer rawKey) bool {
	if channel == 0 || channel > datagram.MaxChannel {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if old, ok := u.peers[channel]; ok {
		delete(u.channels, old)
	}
	if old, ok := u.channels[peer]; ok {
		delete(u.peers, old)
	}
	u.peers[channel], u.channels[peer] = peer, channel
	return true
}

func (u *udpSession) peer(channel uint16) (rawKey, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p, ok := u.peers[channel]
	return p, ok
}

func (u *udpSession) stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.downlink.Stop()
}

func (u *udpSession) pinged(using bool, size int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.downlink.Pinged(using)
	u.longest = max(u.longest, size)
}

// way tells how a peer's packets get to the device now: where to, on which channel and up to which size; nil for not over UDP.
func (u *udpSession) way(from rawKey, now int64) (route *udpbatch.Route, channel uint16, longest int) {
	if u == nil {
		return nil, 0, 0
	}
	if route = u.route.Load(); route == nil {
		return nil, 0, 0
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	channel, ok := u.channels[from]
	if !ok || !u.downlink.Send(now) {
		return nil, 0, 0
	}
	return route, channel, u.longest
}

// outgoing collects packets of one device for another, so that they leave together. It is for one goroutine.
type outgoing struct {
	*packer
	s    *Server
	conn *udpbatch.Conn

	from, to *serverConn
	queued   bool            // something waits in to's queue that its writer has not been told of
	route    *udpbatch.Route // nil: the queue
	channel  uint16
	longest  int
}

func (s *Server) newOutgoing() *outgoing { return &outgoing{packer: packers.Get().(*packer), s: s} }

// done sends what is left. Nothing may follow.
func (o *outgoing) done() {
	o.flush()
	packers.Put(o.packer)
	o.packer = nil
}

// begin makes what follows go from one device to another.
func (o *outgoing) begin(from, to *serverConn) {
	o.flush()
	o.from, o.to, o.route = from, to, nil
	if to == nil {
		return
	}
	if o.conn = o.s.udp.Load(); o.conn != nil {
		o.route, o.channel, o.longest = to.udp.way(from.raw, int64(time.Since(o.s.start)))
	}
}

// datagram takes one that came from the device, whose header and tag are replaced where they are.
func (o *outgoing) datagram(b []byte) {
	payload := b[datagram.HeaderSize : len(b)-datagram.TagSize]
	if o.route == nil || len(payload) > o.longest {
		o.queue(payload)
		return
	}
	if o.full() {
		o.flush()
	}
	o.add(o.to.udp.sealer.Seal(b[:len(b)-datagram.TagSize], datagram.Data, o.channel, &o.scratch))
}

// packet takes one that came over the WebSocket connection. It copies b.
func (o *outgoing) packet(b []byte) {
	if o.route == nil || len(b) > o.longest {
		o.queue(b)
		return
	}
	if !o.pack(o.to.udp.sealer, o.channel, b) {
		o.flush()
		if !o.pack(o.to.udp.sealer, o.channel, b) {
			o.queue(b)
		}
	}
}

func (o *outgoing) queue(b []byte) {
	o.s.metrics.overWebSocket.Inc()
	o.to.queue.put(relayframe.Frame{Type: relayframe.Data, Peer: o.from.raw, Payload: b})
	o.queued = true
}

// flush sends what was collected. A writer that is told only now finds all of it.
func (o *outgoing) flush() {
	if o.queued {
		o.queued = false
		o.to.queue.wake()
	}
	n, err := o.send(o.conn, o.route)
	if n > 0 {
		o.s.metrics.overUDP.Add(float64(n))
	}
	if err != nil {
		o.s.metrics.dropped.WithLabelValues("send error").Add(float64(n))
	}
}
