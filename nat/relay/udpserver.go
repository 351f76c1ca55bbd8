package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"warren/internal/udpbatch"
	"warren/nat/relay/datagram"
)

// receiveSize is room for any datagram that a reader without buffers of its own brings.
const receiveSize = 1 << 16

// ServeUDP serves devices' datagrams on c until ctx ends, and closes c. Only while it runs are devices offered UDP. What is not of this
// protocol goes to other, whose answer, if any, is sent; b is valid during the call only. Nothing is answered that does not verify.
func (s *Server) ServeUDP(ctx context.Context, c *udpbatch.Conn, other func(b []byte, from netip.AddrPort) []byte) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	s.udp.Store(c)
	defer s.udp.CompareAndSwap(c, nil)
	r := &udpReceiver{s: s, conn: c, rx: udpbatch.NewReader(c), other: other, out: s.newOutgoing()}
	bufs := r.rx.Own()
	if bufs == nil {
		for range udpbatch.BatchSize {
			bufs = append(bufs, make([]byte, receiveSize))
		}
	}
	for {
		n, err := r.rx.Read(bufs)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			continue // such as an ICMP error of an earlier datagram
		}
		r.batch(n)
	}
}

// udpReceiver is the state of ServeUDP's goroutine.
type udpReceiver struct {
	s       *Server
	conn    *udpbatch.Conn
	rx      *udpbatch.Reader
	other   func(b []byte, from netip.AddrPort) []byte
	scratch datagram.Scratch
	out     *outgoing

	// Where the last datagram of this batch went: most go the same way.
	from    *serverConn
	channel uint16
	to      *serverConn
	bytes   int
}

func (r *udpReceiver) batch(messages int) {
	r.from, r.channel, r.to = nil, 0, nil
	for i := range messages {
		for data, segment := r.rx.Message(i); data != nil; {
			var d []byte
			d, data = udpbatch.Cut(data, segment)
			r.datagram(i, d)
		}
	}
	r.out.begin(nil, nil)
	r.s.metrics.bytes.Add(float64(r.bytes))
	r.bytes = 0
}

func (r *udpReceiver) ignore(reason string) { r.s.metrics.ignored.WithLabelValues(reason).Inc() }

func (r *udpReceiver) datagram(i int, b []byte) {
	if !datagram.Looks(b) {
		from := r.rx.Source(i)
		if answer := r.other(b, from); answer != nil {
			r.conn.WriteTo(r.rx.Local(i), from, answer)
		}
		return
	}
	id, err := datagram.SessionOf(b)
	if err != nil {
		r.ignore("malformed")
		return
	}
	c := r.from
	if c == nil || c.udp.id != id {
		if c = r.s.session(id); c == nil {
			r.ignore("no session")
			return
		}
	}
	d, err := c.udp.opener.Open(b, &r.scratch)
	switch {
	case errors.Is(err, datagram.ErrReplay):
		r.ignore("replayed")
	case err != nil:
		r.ignore("forged")
	case d.Kind == datagram.Data:
		r.bytes += len(d.Payload)
		r.data(c, d, b)
	case d.Kind == datagram.Ping:
		r.ping(c, d, b, r.rx.Local(i), r.rx.Source(i))
	default:
		r.ignore("malformed")
	}
}

// data forwards a packet in the buffer that it came in.
func (r *udpReceiver) data(c *serverConn, d datagram.Datagram, b []byte) {
	if !c.allow(r.s.cfg.Now, len(d.Payload)) {
		r.s.metrics.dropped.WithLabelValues("rate").Inc()
		return
	}
	if r.from != c || r.channel != d.Channel {
		r.from, r.channel, r.to = c, d.Channel, nil
		if peer, ok := c.udp.peer(d.Channel); ok {
			if r.to = r.s.find(peer); r.to == nil {
				r.s.tellGone(c, peer)
			}
		}
		r.out.begin(c, r.to)
	}
	if r.to == nil {
		r.s.metrics.dropped.WithLabelValues("absent").Inc()
		return
	}
	r.out.datagram(b)
}

// ping answers a ping. A source at which the device has not shown that it receives gets a cookie, and nothing else is sent there.
func (r *udpReceiver) ping(c *serverConn, d datagram.Datagram, b []byte, local netip.Addr, source netip.AddrPort) {
	u := c.udp
	p, err := datagram.ParseProbe(d.Payload)
	if err != nil || !d.Newest {
		r.ignore("malformed")
		return
	}
	answer := datagram.Probe{ID: p.ID}
	if !u.isAt(local, source) {
		if answer.Cookie = u.cookie(local, source); p.Cookie != answer.Cookie {
			answer.Moved = true
		} else {
			u.route.Store(r.conn.NewRoute(local, source))
		}
	}
	if !answer.Moved {
		u.pinged(p.Using, len(d.Payload))
	}
	out := answer.Append(b[:datagram.HeaderSize], len(d.Payload))
	r.conn.WriteTo(local, source, u.sealer.Seal(out, datagram.Pong, 0, &r.scratch))
}

// session finds the connection that a datagram belongs to.
func (s *Server) session(id uint32) *serverConn {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sessions[id]
}

// allow applies the device's rate.
func (c *serverConn) allow(now func() time.Time, bytes int) bool {
	return c.rate == nil || c.rate.AllowN(now(), bytes)
}
