package bind

import (
	"bytes"
	"sync"
	"time"
)

const (
	// glareWait is how long a call of the peer's waits for the answer to ours: longer than most round trips, shorter than what a person notices.
	glareWait = 250 * time.Millisecond
	// answerWait is how long a call of ours waits while WireGuard answers the peer's.
	answerWait = 200 * time.Millisecond
)

type call = [initiationSize]byte

// glare settles what happens when two peers call each other at once. WireGuard has one handshake with a peer at a time, whoever began it, so of
// two calls that cross neither answer finds its handshake, and both sides are silent for the 5 s until the next try. Here the call of
// the peer with the larger public key stands: it keeps the other's back until its own is answered, or has gone unanswered for a while.
// And no call leaves while WireGuard has one of the peer's to answer. What crossed ours and was kept is dropped with the answer to ours; what comes
// behind that may be of a peer that has just been started anew, and waits.
type glare struct {
	mu      sync.Mutex
	calling int64 // when our last call left, in time since Bind.start; 0: never
	theirs  *call // kept back
	called  int64 // when WireGuard got the peer's last call; 0: never
	answer  bool  // it has been answered
	ours    *call // kept back
	unsent  *call // of ours, since there was no way to the peer
	stuckAt int64 // since when
}

// leaves asks whether a call of ours may leave. If not, and later is true, look with late after answerWait.
func (g *glare) leaves(m *call, now int64) (leave, later bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unsent = nil
	if g.called == 0 || now-g.called >= int64(answerWait) {
		g.calling = now
		return true, false
	}
	if g.answer {
		return false, false
	}
	later = g.ours == nil
	g.ours = m
	return false, later
}

// failed says that our call did not leave after all, so that nothing can answer it.
func (g *glare) failed(m *call, now int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calling, g.unsent, g.stuckAt = 0, m, now
}

// stuck reports whether there is a call of ours that did not leave and is still good.
func (g *glare) stuck(now int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.unsent != nil && now-g.stuckAt < callLife
}

// unstick gives that call.
func (g *glare) unstick(now int64) (m *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m, g.unsent = g.unsent, nil; now-g.stuckAt >= callLife {
		return nil
	}
	return m
}

// late gives the call of ours that was kept back, if WireGuard has not answered the peer's.
func (g *glare) late(now int64) (m *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m, g.ours = g.ours, nil; m != nil {
		g.calling = now
	}
	return m
}

// arrives asks whether a call of the peer's may go to WireGuard. If not, and later is true, look with due after glareWait.
func (g *glare) arrives(m *call, stands bool, now int64) (deliver, later bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if stands && g.calling != 0 && now-g.calling < int64(glareWait) {
		later = g.theirs == nil
		g.theirs = m
		return false, later
	}
	g.called, g.answer, g.theirs, g.unsent = now, false, nil, nil
	return true, false
}

// due gives the call of the peer's that was kept back, if ours has not been answered.
func (g *glare) due(now int64) (m *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m, g.theirs = g.theirs, nil; m != nil {
		g.called, g.answer = now, false
	}
	return m
}

// answered says that the peer has answered our call.
func (g *glare) answered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.theirs = nil
}

// answers says that WireGuard answers the peer's call.
func (g *glare) answers() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answer, g.ours = true, nil
}

// forget says that the device does not have the peer any more.
func (g *glare) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calling, g.theirs, g.called, g.answer, g.ours, g.unsent = 0, nil, 0, false, nil, nil
}

// deliverCall hands a call to WireGuard, at once or after ours.
func (b *Bind) deliverCall(e *endpoint, m call) {
	stands := bytes.Compare(b.admission.public[:], e.raw[:]) > 0
	deliver, later := e.glare.arrives(&m, stands, b.now())
	switch {
	case deliver:
		b.deliver(e, m[:])
	case later:
		time.AfterFunc(glareWait, func() {
			if m := e.glare.due(b.now()); m != nil {
				b.deliver(e, m[:])
			}
		})
	}
}

// sendCall sends a call of ours, at once or after WireGuard had time to answer the peer's.
func (b *Bind) sendCall(e *endpoint, m []byte) error {
	kept := call(m)
	leave, later := e.glare.leaves(&kept, b.now())
	switch {
	case leave:
		err := b.send(e, [][]byte{m})
		if err != nil {
			e.glare.failed(&kept, b.now())
		}
		return err
	case later:
		time.AfterFunc(answerWait, func() {
			if m := e.glare.late(b.now()); m != nil {
				if err := b.send(e, [][]byte{m[:]}); err != nil {
					e.glare.failed(m, b.now())
					b.log.Debug("late initiation not sent", "peer", e.key.Short(), "err", err)
				}
			}
		})
	}
	return nil
}
