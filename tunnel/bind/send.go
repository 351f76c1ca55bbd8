package bind

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"
)

// errNoWay says that a peer has no direct path and there is no relay to carry its packets.
var errNoWay = errors.New("no direct path and no relay")

// Send takes packets of one peer by its current path. WireGuard calls it, from one goroutine per peer and others.
func (b *Bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	e, ok := ep.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	b.noteSent(e, bufs)
	r := e.route.Load()
	if r == nil || r.Kind != Direct {
		if b.cfg.SendRelay == nil {
			return errNoWay
		}
		return b.cfg.SendRelay(e.key, bufs)
	}
	s := b.socketFor(r.Remote.Addr().Is6())
	if s == nil {
		return fmt.Errorf("sending to %s: %w", r.Remote, b.noSocket())
	}
	err := s.Send(bufs, r.on(s))
	if err != nil {
		b.counters.sendErrors.Add(1)
	}
	return err
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
	local, remote = local.Unmap(), netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	s := b.socketFor(remote.Addr().Is6())
	if s == nil {
		return fmt.Errorf("sending to %s: %w", remote, b.noSocket())
	}
	return s.WriteTo(local, remote, m)
}
