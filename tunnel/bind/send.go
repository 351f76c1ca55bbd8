package bind

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"

	"warren/internal/udpbatch"
)

// errNoWay says that a peer has no direct path and there is no relay to carry its packets.
var errNoWay = errors.New("no direct path and no relay")

// Send takes packets of one peer by its current path. WireGuard calls it, from one goroutine per peer and others.
func (b *Bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	e, ok := ep.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	if len(bufs) == 1 && shapeOf(bufs[0]) == shapeInitiation {
		return b.sendCall(e, bufs[0])
	}
	return b.send(e, bufs)
}

func (b *Bind) send(e *endpoint, bufs [][]byte) error {
	b.noteSent(e, bufs)
	r := e.route.Load()
	if r == nil || r.Kind != Direct {
		return b.sendRelay(e, bufs)
	}
	s := r.extra
	if s == nil {
		s = b.socketFor(r.Remote.Addr().Is6())
	}
	if s == nil {
		return fmt.Errorf("sending to %s: %w", r.Remote, b.noSocket())
	}
	bufs, long := r.split(bufs)
	b.counters.sentDirect.Add(total(bufs))
	err := s.Send(bufs, b.on(r, s))
	if err == nil && long == nil {
		return nil
	}
	if tooLong := (*udpbatch.TooLongError)(nil); errors.As(err, &tooLong) {
		long, err = append(long, tooLong.Datagrams...), nil
	}
	if len(long) > 0 {
		err = errors.Join(err, b.sendLong(e, long))
	}
	if err != nil {
		b.counters.sendErrors.Add(1)
	}
	return err
}

// split takes out of bufs what is too long for the path. Mostly that is nothing.
func (r *route) split(bufs [][]byte) (short, long [][]byte) {
	if r.MTU == 0 || !r.anyTooLong(bufs) {
		return bufs, nil
	}
	for _, m := range bufs {
		if r.tooLong(m) {
			long = append(long, m)
		} else {
			short = append(short, m)
		}
	}
	return short, long
}

func (r *route) anyTooLong(bufs [][]byte) bool {
	for _, m := range bufs {
		if r.tooLong(m) {
			return true
		}
	}
	return false
}

func (r *route) tooLong(m []byte) bool { return len(m) > r.MTU+transportMin }

// sendLong has a relay carry what the direct path cannot.
func (b *Bind) sendLong(e *endpoint, bufs [][]byte) error {
	b.counters.long.Add(uint64(len(bufs)))
	return b.sendRelay(e, bufs)
}

func (b *Bind) sendRelay(e *endpoint, bufs [][]byte) error {
	if b.cfg.SendRelay == nil {
		return errNoWay
	}
	b.counters.sentRelay.Add(total(bufs))
	return b.cfg.SendRelay(e.key, bufs)
}

// total is how many bytes the messages have.
func total(bufs [][]byte) (n uint64) {
	for _, m := range bufs {
		n += uint64(len(m))
	}
	return n
}

// noSocket tells whether the Bind is closed or the host has no such address family.
func (b *Bind) noSocket() error {
	if b.v4.Load() == nil && b.v6.Load() == nil {
		return net.ErrClosed
	}
	return errors.New("no socket of this address family")
}

// noteSent learns the indices of handshake messages and notes when data was sent.
func (b *Bind) noteSent(e *endpoint, bufs [][]byte) {
	data := false
	for _, m := range bufs {
		switch len(m) {
		case initiationSize, responseSize:
			if s := shapeOf(m); s == shapeInitiation || s == shapeResponse {
				b.index.learn(senderIndex(m), e, b.now())
				if s == shapeResponse {
					b.noteAnswer(e)
				}
				continue
			}
		}
		if len(m) > transportMin && m[0] == 4 {
			data = true
		}
	}
	if data {
		e.lastSent.Store(b.now())
	}
}

// WriteTo sends one datagram that is not WireGuard's, from the given local address unless that is zero.
func (b *Bind) WriteTo(local netip.Addr, remote netip.AddrPort, m []byte) error {
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	s := b.socketFor(remote.Addr().Is6())
	if s == nil {
		return fmt.Errorf("sending to %s: %w", remote, b.noSocket())
	}
	return s.WriteFrom(b.source(local), remote, m)
}
