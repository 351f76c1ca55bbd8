package bind

import (
	"bytes"
	"sync"
	"time"
)

const (
	// glareWait is how long a call of the peer's waits for the answer to ours: longer than a round trip by satellite takes, or by an idle path to a host that
	// is far too busy, and no longer than TCP waits before its second try (RFC 6298, section 2.1).
	glareWait = time.Second
	// answerWait is how long a call of ours waits while WireGuard answers the peer's. It is shorter, so that who keeps the peer's call gets the answer first.
	answerWait = 800 * time.Millisecond
	// behindWait is how long after an answer there may still be a call that had crossed it, the peer's in our queue or ours in WireGuard's hands.
	behindWait = 250 * time.Millisecond
	// recallAfter is when WireGuard may call again after it has answered (Rekey-Timeout); the side whose call does not stand waits longer by recallStagger.
	recallAfter, recallStagger = 5 * time.Second, time.Second
)

type call = [initiationSize]byte

// glare settles what happens when two peers call each other at once. WireGuard has one handshake with a peer at a time, whoever began it, so of
// two calls that cross neither answer finds its handshake, and both sides are silent for the 5 s until the next try. Here the call of
// the peer with the larger public key stands: it keeps the other's back until its own is answered, or has gone unanswered for a while.
// And no call leaves while WireGuard has one of the peer's to answer. What crossed ours and was kept is dropped with the answer to ours; what comes
// behind that may be of a peer that has just been started anew, and waits.
//
// Where all this took longer than we wait, both calls are lost, and maybe for good: WireGuard counts an answer that it has sent as a try, and its next try,
// which was set for 5 s after the call, is then left out if it comes less than 5 s after that answer. So when we have answered while a call of ours was
// out, WireGuard is asked for another when it may make one. If there is a session by then, it makes none.
type glare struct {
	mu      sync.Mutex
	calling int64 // when our last call left, in time since Bind.start; 0: never
	met     int64 // when it was answered; 0: it was not
	theirs  *call // kept back
	called  int64 // when WireGuard got the peer's last call; 0: never
	answer  int64 // when it was answered; 0: it was not
	ours    *call // kept back
	unsent  *call // of ours, since there was no way to the peer
	stuckAt int64 // since when
	recalls bool  // WireGuard is about to be asked for another call
}

// leaves asks whether a call of ours may leave. If not, and later is true, look with late after answerWait.
func (g *glare) leaves(m *call, now int64) (leave, later bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unsent = nil
	switch {
	case g.called == 0,
		g.answer == 0 && now-g.called >= int64(answerWait),
		g.answer != 0 && now-g.answer >= int64(behindWait):
		g.calling, g.met = now, 0
		return true, false
	case g.answer != 0:
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
	g.calling, g.met, g.unsent, g.stuckAt = 0, 0, m, now
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
		g.calling, g.met = now, 0
	}
	return m
}

// crossing gives for how long from now a call of the peer's may be one that crossed ours.
func (g *glare) crossing(now int64) time.Duration {
	end := g.calling + int64(glareWait)
	switch {
	case g.calling == 0:
		return 0
	case g.met != 0:
		end = g.met + int64(behindWait)
	}
	return time.Duration(max(end-now, 0))
}

// arrives asks whether a call of the peer's may go to WireGuard. If not, look with due after wait, unless that is 0.
func (g *glare) arrives(m *call, stands bool, now int64) (deliver bool, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if rest := g.crossing(now); stands && rest > 0 {
		if g.theirs == nil {
			wait = rest
		}
		g.theirs = m
		return false, wait
	}
	g.called, g.answer, g.theirs, g.unsent = now, 0, nil, nil
	return true, 0
}

// due gives the call of the peer's that was kept back, if ours has not been answered. If it is too early, look again after wait.
func (g *glare) due(now int64) (m *call, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.theirs == nil {
		return nil, 0
	}
	if rest := g.crossing(now); rest > 0 {
		return nil, rest
	}
	m, g.theirs = g.theirs, nil
	g.called, g.answer = now, 0
	return m, 0
}

// answered says that the peer has answered our call.
func (g *glare) answered(now int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.met, g.theirs = now, nil
}

// answers says that WireGuard answers the peer's call. If recall is true, WireGuard may have to be asked for a call: say recalled when that is done.
func (g *glare) answers(now int64) (recall bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answer, g.ours = now, nil
	recall = g.calling != 0 && g.met == 0 && now-g.calling < int64(callLife) && !g.recalls
	g.recalls = g.recalls || recall
	return recall
}

func (g *glare) recalled() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.recalls = false
}

// forget says that the device does not have the peer any more.
func (g *glare) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calling, g.met, g.theirs, g.called, g.answer, g.ours, g.unsent = 0, 0, nil, 0, 0, nil, nil
}

// stands reports whether our call stands against the peer's.
func (b *Bind) stands(e *endpoint) bool { return bytes.Compare(b.admission.public[:], e.raw[:]) > 0 }

// deliverCall hands a call to WireGuard, at once or after ours.
func (b *Bind) deliverCall(e *endpoint, m call) {
	deliver, wait := e.glare.arrives(&m, b.stands(e), b.now())
	switch {
	case deliver:
		b.deliver(e, m[:])
	case wait > 0:
		b.deliverDue(e, wait)
	}
}

// deliverDue hands the call that is kept back to WireGuard after a while.
func (b *Bind) deliverDue(e *endpoint, wait time.Duration) {
	time.AfterFunc(wait, func() {
		m, wait := e.glare.due(b.now())
		switch {
		case m != nil:
			b.deliver(e, m[:])
		case wait > 0:
			b.deliverDue(e, wait)
		}
	})
}

// noteAnswer is for an answer of WireGuard's on its way out.
func (b *Bind) noteAnswer(e *endpoint) {
	if !e.glare.answers(b.now()) {
		return
	}
	wait := recallAfter
	if !b.stands(e) {
		wait += recallStagger
	}
	time.AfterFunc(wait, func() {
		e.glare.recalled()
		if b.cfg.OnCrossed != nil {
			b.cfg.OnCrossed(e.key)
		}
	})
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
