package bind

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"warren/proto/key"
)

const (
	// callsMax is how many initiations wait for Run to open them.
	callsMax = 512
	// heldMax and heldFor bound the initiations that wait for their peer to be configured. WireGuard sends a new one after 5 s.
	heldMax = 1024
	heldFor = int64(5 * time.Second)
	// straysMax is how many peers wait for Run to hear that they send in a forgotten session.
	straysMax = 64
	// stampsMin is how many timestamps are kept before anyone looks which peers are gone.
	stampsMin = 1024
)

// admission decides which handshake initiations reach the device. Receive functions check mac1 and the rate (queue); Run opens what is
// left, refuses unknown keys and replays, and hands it on, or holds it while its peer is not configured.
type admission struct {
	opener  *opener
	public  [key.Size]byte // ours
	err     error          // why there is no opener
	limiter limiter
	calls   chan [initiationSize]byte
	strays  chan key.NodePublic

	mu    sync.Mutex
	ended bool // none is let in any more
	held  map[*endpoint]heldCall
	last  map[[key.Size]byte]timestamp // of each peer, kept while it is allowed
	sweep int                          // size of last at which to look which peers are gone
}

type heldCall struct {
	message [initiationSize]byte
	at      int64
}

func (a *admission) init(private key.NodePrivate) {
	if a.opener, a.err = newOpener(private); a.err == nil {
		a.public = private.Public().Raw()
	}
	a.limiter.init()
	a.calls = make(chan [initiationSize]byte, callsMax)
	a.strays = make(chan key.NodePublic, straysMax)
	a.held = map[*endpoint]heldCall{}
	a.last = map[[key.Size]byte]timestamp{}
	a.sweep = stampsMin
}

// queueInitiation takes an initiation from a receive function. It never blocks.
func (b *Bind) queueInitiation(from source, m []byte) {
	a := &b.admission
	if a.opener == nil || !a.opener.checkMAC1(m) {
		b.counters.badInitiation.Add(1)
		return
	}
	if !a.limiter.allow(from, b.now()) {
		b.counters.limited.Add(1)
		return
	}
	select {
	case a.calls <- [initiationSize]byte(m):
	default:
		b.counters.limited.Add(1)
	}
}

func (b *Bind) runAdmission(ctx context.Context) error {
	if b.admission.err != nil {
		return b.admission.err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-b.admission.calls:
			b.admit(&m)
		case peer := <-b.admission.strays:
			if b.allowed(peer) && b.admission.unknown(b.endpoints.get(peer)) && b.cfg.OnInitiation != nil {
				b.cfg.OnInitiation(peer)
			}
		}
	}
}

// queueStray takes note of a peer, vouched for by a relay, that sends in a session which is not ours: we were started anew, or removed the
// peer as idle. It would notice after 15 s only. It never blocks.
func (b *Bind) queueStray(peer key.NodePublic) {
	if !b.admission.limiter.allow(source{relayed: true, id: peer.Raw()}, b.now()) {
		return
	}
	select {
	case b.admission.strays <- peer:
	default:
	}
}

// admit opens one initiation and hands it on.
func (b *Bind) admit(m *[initiationSize]byte) {
	peer, stamp, err := b.admission.opener.open(m[:], b.allowed)
	if err != nil {
		if errors.Is(err, errUnknownPeer) {
			b.counters.unknownPeer.Add(1)
		} else {
			b.counters.badInitiation.Add(1)
		}
		b.log.Debug("initiation refused", "err", err)
		return
	}
	e := b.endpoints.get(peer)
	now := b.now()
	if !b.admission.accept(e, stamp, b.allowed) {
		b.counters.replayed.Add(1)
		b.log.Debug("initiation not newer than the last; a replay, or the peer's clock went back", "peer", peer.Short())
		return
	}
	e.lastReceived.Store(now)
	if b.admission.hold(e, m, now) {
		if b.cfg.OnInitiation != nil {
			b.cfg.OnInitiation(peer)
		}
		return
	}
	b.deliverCall(e, *m)
}

// accept reports whether stamp is newer than the peer's last, and remembers it. After Stamps none is.
func (a *admission) accept(e *endpoint, stamp timestamp, allowed func(key.NodePublic) bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if last, ok := a.last[e.raw]; a.ended || ok && bytes.Compare(stamp[:], last[:]) <= 0 {
		return false
	}
	a.last[e.raw] = stamp
	if len(a.last) > a.sweep {
		for raw := range a.last {
			if k, err := key.NodePublicFromBytes(raw[:]); err != nil || !allowed(k) {
				delete(a.last, raw)
			}
		}
		a.sweep = max(stampsMin, 2*len(a.last))
	}
	return true
}

// hold keeps m if its peer is not configured. The newest of a peer counts; if too many peers call, the oldest call goes.
func (a *admission) hold(e *endpoint, m *[initiationSize]byte, now int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e.configured {
		return false
	}
	if _, again := a.held[e]; !again && len(a.held) >= heldMax {
		var oldest *endpoint
		for o, h := range a.held {
			if oldest == nil || h.at < a.held[oldest].at {
				oldest = o
			}
		}
		delete(a.held, oldest)
	}
	a.held[e] = heldCall{message: *m, at: now}
	return true
}

// release marks a peer configured and gives what was held for it.
func (a *admission) release(e *endpoint, now int64) (m [initiationSize]byte, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.configured = true
	h, ok := a.held[e]
	delete(a.held, e)
	return h.message, ok && now-h.at < heldFor
}

// unknown reports whether the device does not have the peer.
func (a *admission) unknown(e *endpoint) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !e.configured
}

func (a *admission) unconfigure(e *endpoint) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.configured = false
	delete(a.held, e)
}

// Release says that the device has the peer now: its initiations are delivered, first of all the one that was held. It reports whether
// there was one.
func (b *Bind) Release(peer key.NodePublic) (called bool) {
	e := b.endpoints.get(peer)
	m, called := b.admission.release(e, b.now())
	if called {
		b.deliverCall(e, m)
	}
	return called
}
