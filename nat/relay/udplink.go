package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"warren/internal/udpbatch"
	"warren/nat/relay/carrier"
	"warren/nat/relay/datagram"
	"warren/proto/relayframe"
	pb "warren/proto/warrenv1"
)

const (
	// LongestUDP is the longest packet that goes over UDP by default, in bytes: WireGuard's of a tunnel with an MTU of 1420.
	LongestUDP = 1452
	// maxAddresses bounds the relay's addresses that are tried.
	maxAddresses = 8
	// eventQueue is how many events wait for the core; what does not fit is told again soon.
	eventQueue = 64
	// tellTraffic is how often the core hears of packets.
	tellTraffic = 200 * time.Millisecond
	// askAgain is when a channel is asked for once more.
	askAgain = 3 * time.Second
)

// udpLink is the UDP side of a client, for as long as one connection stands.
type udpLink struct {
	cfg     *ClientConfig
	log     *slog.Logger
	conn    *udpbatch.Conn
	sealer  *datagram.Sealer
	opener  *datagram.Opener // of receive's goroutine
	queue   *queue
	port    uint16 // of the relay
	events  chan carrier.Event
	start   time.Time
	traffic atomic.Int64 // when the core was last told, since start
	active  atomic.Pointer[udpbatch.Route]

	// run's goroutine sets routes before it starts receive; cookies belong to both.
	routes  []*udpbatch.Route
	cookies []atomic.Pointer[datagram.Cookie]

	mu    sync.RWMutex
	lanes map[rawKey]*udpLane
	peers []rawKey // by channel
}

// udpLane is the channel of one peer.
type udpLane struct {
	channel uint16
	bound   atomic.Bool
	asked   atomic.Int64 // since start
}

// newUDPLink makes the link of a session that the relay offers.
func newUDPLink(cfg *ClientConfig, offer *pb.RelayUDP, q *queue) (*udpLink, error) {
	sealer, err1 := datagram.NewSealer(offer.GetSession(), offer.GetUpKey())
	opener, err2 := datagram.NewOpener(offer.GetSession(), offer.GetDownKey())
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	conn, err := cfg.ListenUDP()
	if err != nil {
		return nil, err
	}
	return &udpLink{
		cfg: cfg, log: cfg.Log, conn: conn, sealer: sealer, opener: opener, queue: q, port: uint16(offer.GetPort()), events: make(chan carrier.Event, eventQueue),
		start: time.Now(), lanes: map[rawKey]*udpLane{}, peers: make([]rawKey, 1),
	}, nil
}

// run decides by what packets go until ctx ends. What is wrong with UDP harms nothing else.
func (l *udpLink) run(ctx context.Context) {
	defer l.conn.Close()
	for _, a := range l.resolve(ctx) {
		l.routes = append(l.routes, l.conn.NewRoute(netip.Addr{}, a))
	}
	if len(l.routes) == 0 || ctx.Err() != nil {
		return
	}
	l.cookies = make([]atomic.Pointer[datagram.Cookie], len(l.routes))
	stop := context.AfterFunc(ctx, func() { l.conn.Close() })
	defer stop()
	var group errgroup.Group
	group.Go(func() error { return l.receive(ctx) })
	l.decide(ctx)
	if err := group.Wait(); ctx.Err() == nil {
		l.log.Info("relay's datagrams are not received any more", "relay", l.cfg.Relay.GetName(), "err", err)
	}
}

// resolve finds the relay's addresses.
func (l *udpLink) resolve(ctx context.Context) []netip.AddrPort {
	var out []netip.AddrPort
	for _, at := range l.cfg.Relay.GetStun() {
		host, port, err := net.SplitHostPort(at)
		if err != nil || port != strconv.Itoa(int(l.port)) { // on another port only STUN is served
			continue
		}
		addrs, err := l.cfg.Resolve(ctx, host)
		if err != nil {
			l.log.Debug("relay's name not resolved", "name", host, "err", err)
		}
		for _, a := range addrs {
			if ap := netip.AddrPortFrom(a.Unmap(), l.port); !slices.Contains(out, ap) && len(out) < maxAddresses {
				out = append(out, ap)
			}
		}
	}
	return out
}

// decide runs the core.
func (l *udpLink) decide(ctx context.Context) {
	core := carrier.NewDevice(rand.Uint64())
	timer := time.NewTimer(0)
	defer timer.Stop()
	var event carrier.Event = carrier.Offered{Addresses: len(l.routes)}
	for {
		actions, next := core.Handle(time.Now(), event)
		for _, a := range actions {
			l.do(a)
		}
		timer.Reset(time.Until(next))
		event = nil
		select {
		case <-ctx.Done():
			l.active.Store(nil)
			return
		case event = <-l.events:
		case <-timer.C:
		}
	}
}

func (l *udpLink) do(a carrier.Action) {
	switch a := a.(type) {
	case carrier.SendPing:
		l.ping(a)
	case carrier.Doubt:
		l.queue.push(relayframe.Frame{Type: relayframe.Ping, Payload: make([]byte, 8)})
	case carrier.RTT:
		if l.cfg.OnRTT != nil {
			l.cfg.OnRTT(a.RTT)
		}
	case carrier.Use:
		r := l.routes[a.Address]
		if a.UDP {
			l.active.Store(r)
		} else {
			l.active.Store(nil)
			l.queue.push(relayframe.Frame{Type: relayframe.Stop})
		}
		l.log.Info("relay's transport", "relay", l.cfg.Relay.GetName(), "udp", a.UDP, "address", r.Remote, "reason", a.Reason)
		if l.cfg.OnUDP != nil {
			l.cfg.OnUDP(a.UDP, r.Remote)
		}
	}
}

func (l *udpLink) ping(a carrier.SendPing) {
	p, size := datagram.Probe{ID: a.ID, Using: a.Using}, 0
	if c := l.cookies[a.Address].Load(); c != nil {
		p.Cookie = *c
	}
	if a.Long {
		size = l.cfg.LongestUDP
	}
	b := p.Append(make([]byte, datagram.HeaderSize, datagram.Overhead+max(size, datagram.ProbeSize)), size)
	d := l.sealer.Seal(b, datagram.Ping, 0, new(datagram.Scratch))
	if err := l.conn.Send([][]byte{d}, l.routes[a.Address]); err != nil {
		l.log.Debug("ping of the relay not sent", "address", l.routes[a.Address].Remote, "err", err)
	}
}

// tell passes an event to the core, unless too many wait.
func (l *udpLink) tell(e carrier.Event) {
	select {
	case l.events <- e:
	default:
	}
}

// noteTraffic tells the core of packets, now and then.
func (l *udpLink) noteTraffic() {
	now := int64(time.Since(l.start))
	if last := l.traffic.Load(); (now-last > int64(tellTraffic) || last == 0) && l.traffic.CompareAndSwap(last, now) {
		l.tell(carrier.Traffic{})
	}
}

// lane gives the channel of a peer, or nil where there is none yet; then it is asked for.
func (l *udpLink) lane(peer rawKey) *udpLane {
	l.mu.RLock()
	lane := l.lanes[peer]
	l.mu.RUnlock()
	if lane == nil {
		if lane = l.addLane(peer); lane == nil {
			return nil
		}
	}
	if lane.bound.Load() {
		return lane
	}
	now := int64(time.Since(l.start)) + 1
	if asked := lane.asked.Load(); (asked == 0 || now-asked > int64(askAgain)) && lane.asked.CompareAndSwap(asked, now) {
		l.queue.push(relayframe.Frame{Type: relayframe.Bind, Peer: peer, Payload: binary.BigEndian.AppendUint16(nil, lane.channel)})
	}
	return nil
}

func (l *udpLink) addLane(peer rawKey) *udpLane {
	if l.cfg.Known != nil && !l.cfg.Known(peer) {
		return nil // a relay must not use our channels up
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	lane := l.lanes[peer]
	if lane == nil && len(l.peers) <= datagram.MaxChannel {
		lane = &udpLane{channel: uint16(len(l.peers))}
		l.peers = append(l.peers, peer)
		l.lanes[peer] = lane
	}
	return lane
}

// bound takes the relay's word that a channel may be used.
func (l *udpLink) bound(peer rawKey, payload []byte) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if lane := l.lanes[peer]; lane != nil && len(payload) == 2 && binary.BigEndian.Uint16(payload) == lane.channel {
		lane.bound.Store(true)
	}
}

// send sends packets to a peer if they can go over UDP now.
func (l *udpLink) send(to rawKey, bufs [][]byte) bool {
	l.noteTraffic()
	lane, route := l.lane(to), l.active.Load()
	if lane == nil || route == nil || slices.ContainsFunc(bufs, func(b []byte) bool { return len(b) > l.cfg.LongestUDP }) {
		return false
	}
	p := packers.Get().(*packer)
	defer packers.Put(p)
	var err error
	for _, b := range bufs {
		if !p.pack(l.sealer, lane.channel, b) {
			_, err = p.send(l.conn, route)
			p.pack(l.sealer, lane.channel, b)
		}
	}
	if _, last := p.send(l.conn, route); last != nil {
		err = last
	}
	if err != nil {
		l.log.Debug("not sent to the relay", "address", route.Remote, "err", err) // the pings will tell whether that lasts
	}
	return true
}

// receive takes datagrams until ctx ends.
func (l *udpLink) receive(ctx context.Context) error {
	rx := udpbatch.NewReader(l.conn)
	bufs := rx.Own()
	if bufs == nil {
		for range udpbatch.BatchSize {
			bufs = append(bufs, make([]byte, receiveSize))
		}
	}
	scratch, together := new(datagram.Scratch), &run{deliver: l.overUDP}
	for {
		n, err := rx.Read(bufs)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			continue // such as an ICMP error of an earlier datagram
		}
		for i := range n {
			for data, segment := rx.Message(i); data != nil; {
				var b []byte
				b, data = udpbatch.Cut(data, segment)
				if d, err := l.opener.Open(b, scratch); err == nil {
					l.opened(d, together, rx, i)
				}
			}
		}
		together.end()
	}
}

// overUDP takes packets that came over UDP.
func (l *udpLink) overUDP(from rawKey, packets [][]byte) {
	l.noteTraffic()
	l.cfg.OnData(from, packets)
}

// peer gives whose a channel is.
func (l *udpLink) peer(channel uint16) (rawKey, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if channel == 0 || int(channel) >= len(l.peers) {
		return rawKey{}, false
	}
	return l.peers[channel], true
}

func (l *udpLink) opened(d datagram.Datagram, together *run, rx *udpbatch.Reader, i int) {
	switch d.Kind {
	case datagram.Data:
		if from, ok := l.peer(d.Channel); ok {
			together.add(from, d.Payload)
		}
	case datagram.Pong:
		p, err := datagram.ParseProbe(d.Payload)
		if err != nil {
			return
		}
		if !p.Moved {
			l.tell(carrier.Answered{ID: p.ID})
			return
		}
		source := rx.Source(i)
		if a := slices.IndexFunc(l.routes, func(r *udpbatch.Route) bool { return r.Remote == source }); a >= 0 {
			l.cookies[a].Store(&p.Cookie)
			l.tell(carrier.Challenged{ID: p.ID})
		}
	}
}
