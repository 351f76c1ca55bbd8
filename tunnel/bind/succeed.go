package bind

import (
	"bytes"
	"fmt"
	"net"
	"syscall"
	"time"

	"warren/internal/udpbatch"
	"warren/proto/key"
)

// A process that takes over from another gets its sockets (Config.Inherited) and the timestamps of its peers' last initiations (Stamps), so that a
// replay that the one before would have refused is refused still. Sessions do not come along: peers are called, and a call that leaves before there
// is a way to the peer is sent again as soon as there is one (Reconnected).

// StampSize is that of a timestamp, TAI64N, in bytes.
const StampSize = len(timestamp{})

// inherit takes over the socket of a network if there is one that fits.
func (b *Bind) inherit(network string, port uint16, o udpbatch.Options) *udpbatch.Conn {
	f := b.cfg.Inherited[network]
	if f == nil {
		return nil
	}
	s, err := udpbatch.Adopt(network, f, o)
	switch {
	case err != nil:
	case !s.UDPConn().LocalAddr().(*net.UDPAddr).IP.IsUnspecified():
		err = fmt.Errorf("it has the address %s, not any", s.UDPConn().LocalAddr())
		s.Close()
	case port != 0 && s.Port() != port:
		err = fmt.Errorf("it has port %d, and %d is asked for", s.Port(), port)
		s.Close()
	}
	if err != nil {
		b.log.Warn("a socket of the process before is not used", "network", network, "err", err)
		f.Close() // now: it may have the port that is asked for
		b.tellSocket(network, nil)
		delete(b.cfg.Inherited, network)
		return nil
	}
	return s
}

// dropInherited closes what nobody needs any more.
func (b *Bind) dropInherited() {
	for _, f := range b.cfg.Inherited {
		f.Close()
	}
	b.cfg.Inherited = nil
}

func (b *Bind) tellSocket(network string, c syscall.Conn) {
	if b.cfg.OnSocket != nil {
		b.cfg.OnSocket(network, c)
	}
}

// Stamps gives the timestamp of the last initiation of each peer that is allowed. From then on none is let in, lest the next process let it in once more.
func (b *Bind) Stamps() map[[key.Size]byte][StampSize]byte {
	a := &b.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	out := make(map[[key.Size]byte][StampSize]byte, len(a.last))
	for raw, t := range a.last {
		if k, err := key.NodePublicFromBytes(raw[:]); err == nil && b.allowed(k) {
			out[raw] = t
		}
	}
	return out
}

// RestoreStamps takes timestamps of a process before this one. Those of peers that are not allowed, and such as are older than what is known, are left
// out.
func (b *Bind) RestoreStamps(stamps map[[key.Size]byte][StampSize]byte) {
	a := &b.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	for raw, t := range stamps {
		k, err := key.NodePublicFromBytes(raw[:])
		if last := a.last[raw]; err == nil && b.allowed(k) && bytes.Compare(t[:], last[:]) > 0 {
			a.last[raw] = t
		}
	}
}

// callLife is how long a call is worth sending: then WireGuard makes another (Rekey-Timeout).
const callLife = int64(5 * time.Second)

// Reconnected says that there is a way to peers that could not be reached, such as a relay that is connected again: calls that did not leave are
// sent. WireGuard itself would try again after 5 s only.
func (b *Bind) Reconnected() {
	b.endpoints.mu.Lock()
	var waiting []*endpoint
	for _, e := range b.endpoints.byKey {
		if e.glare.stuck(b.now()) {
			waiting = append(waiting, e)
		}
	}
	b.endpoints.mu.Unlock()
	for _, e := range waiting {
		if m := e.glare.unstick(b.now()); m != nil {
			if err := b.sendCall(e, m[:]); err != nil {
				b.log.Debug("initiation not sent again", "peer", e.key.Short(), "err", err)
			}
		}
	}
}
