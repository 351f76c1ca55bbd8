package sim

import (
	"net/netip"
	"time"

	"warren/nat/path"
)

// What must hold. The bounds are those that nat/path promises, with the time that the simulated shell adds.
const (
	watchEvery = 100 * time.Millisecond
	restEvery  = 10 * time.Second // while there is no traffic

	contactBound = time.Second // from the first packet lost by a fault until the relay carries the traffic
	lossyContact = 4 * time.Second
	goneBound    = 5 * time.Second // a peer that is back at the relay still counts as gone, though there is data for it
	directQuick  = 1500 * time.Millisecond
	directSlow   = 75 * time.Second // of a change of which no device is told: rounds are backed off to a minute
	holeBound    = 3 * time.Second  // a black hole for long packets
	trust        = 6600 * time.Millisecond
	settled      = 80 * time.Second

	checksPerPeer = 64 + 40 + 20 + 20 + 50 // in a second: the peer's budget, the path in use, and what requests earn
	checksInHunt  = 500
	socketsMax    = 256
	signalsMax    = 21  // in a second and to each peer: a new one every 50 ms, whatever the reason
	runsMax       = 600 // calls of a core without an event, in a second and for each peer

	huntChecks   = 1100
	victimBurst  = 512 // checks to a third party that a peer names, as long as this device's network stays
	victimRate   = 2   // ... and more in a second
	flapsLossy   = 12  // changes of path in a minute
	betterStable = 3   // better paths found while nothing changes
)

// count is what a device has sent.
type count struct {
	checks, signals                         int
	second                                  int64
	inSecond, runsInSecond, signalsInSecond int
}

func (d *device) tick() {
	if s := d.w.now.Unix(); s != d.count.second {
		d.count.second, d.count.inSecond, d.count.runsInSecond, d.count.signalsInSecond = s, 0, 0, 0
	}
}

func (d *device) countRun(ev path.Event) {
	d.tick()
	if _, ok := ev.(path.NetworkChanged); ok {
		d.resets++
	}
	if ev != nil {
		return
	}
	if d.count.runsInSecond++; d.count.runsInSecond > runsMax*len(d.w.devices) {
		d.w.fail("%s is called %d times in a second: a busy loop", d.name, d.count.runsInSecond)
	}
}

func (d *device) countSignal() {
	d.tick()
	d.count.signals++
	if d.count.signalsInSecond++; d.count.signalsInSecond > signalsMax*(len(d.w.devices)-1) && !d.liar {
		d.w.fail("%s sends %d signals in a second", d.name, d.count.signalsInSecond)
	}
}

// victimKey is who sends to a third party.
type victimKey struct {
	from *device
	to   netip.Addr
}

func (d *device) countCheck(a path.SendCheck) {
	w := d.w
	d.tick()
	d.count.checks++
	limit := checksPerPeer * (len(w.devices) - 1)
	if w.hunting() {
		limit += checksInHunt
	}
	if d.count.inSecond++; d.count.inSecond > limit {
		w.fail("%s sends %d checks in a second", d.name, d.count.inSecond)
	}
	if a.Remote.Addr() == victim {
		k := victimKey{d, victim}
		w.victims[k]++
		each := d.resets*(victimBurst+huntChecks) + int(victimRate*w.now.Sub(w.lied).Seconds())
		allowed := (len(w.devices) - 1) * each
		if w.victims[k] > allowed {
			w.fail("%s has sent %d checks to a third party", d.name, w.victims[k])
		}
	}
}

// hunting reports whether birthday probing may be going on: a device may also be told that a peer does it.
func (w *world) hunting() bool { return w.stats.Hunts > 0 || !w.lied.IsZero() }

// checkVerified is called before data goes out directly.
func (d *device) checkVerified(l *link) {
	at := l.path.Pair
	last := l.answered()
	if last.IsZero() {
		d.w.fail("%s sends data for %s to %s, which never answered", d.name, l.peer.name, at.Remote)
	} else if age := d.w.now.Sub(last); age > trust {
		d.w.fail("%s sends data for %s to %s, which last answered %s ago", d.name, l.peer.name, at.Remote, age)
	}
}

// answered is when the peer last answered on the path in use; zero for never.
func (l *link) answered() (last time.Time) {
	at := l.path.Pair
	for k, t := range l.verified {
		if k.Remote == at.Remote && k.Socket == at.Socket && (k.Local == at.Local || !at.Local.IsValid()) {
			last = later(last, t)
		}
	}
	return last
}

// judge hears of a packet that a fault has lost, and holds the core to its word: while both reach a relay, data gets there.
func (d *device) judge(l *link, sent time.Time) {
	w := d.w
	if l.lostSince.IsZero() || sent.Before(l.lostSince) {
		l.lostSince = sent
	}
	relayed := bothRelayed(d, l.peer)
	if relayed.IsZero() {
		return
	}
	bound := contactBound
	if w.lossy() {
		bound = lossyContact
	}
	if lost := sent.Sub(later(l.lostSince, relayed)); lost > bound {
		w.fail("%s has sent to %s into the void for %s, while both reach a relay", d.name, l.peer.name, lost)
	}
}

// judgeLong hears of a packet that was too long for the path. If nothing at all gets through, that is a fault like another, and only a relay can
// help.
func (d *device) judgeLong(l *link, sent time.Time) {
	w := d.w
	if l.longLost.IsZero() {
		l.longLost = sent
	}
	since := later(l.longLost, l.path.Since)
	if !l.answered().After(since) {
		relayed := bothRelayed(d, l.peer)
		if relayed.IsZero() {
			return
		}
		since = later(since, relayed)
	}
	if hole := sent.Sub(since); hole > holeBound && !w.lossy() {
		w.fail("%s has sent long packets to %s into a black hole for %s", d.name, l.peer.name, hole)
	}
}

// setPath takes a published path.
func (d *device) setPath(a path.SetPath) {
	w := d.w
	peer := w.device(a.Peer)
	l := d.link(peer)
	w.note(d, "path to %s: %s %s (%s)", peer.name, a.Path.Kind, a.Path.Remote, a.Reason)
	if a.Cause.Demotion() {
		w.stats.Demotions++
	}
	l.path = a.Path
	if a.Cause < path.Found || w.now.Sub(later(w.calm, later(d.goodSince, peer.goodSince))) < settled {
		l.better, l.flaps = 0, nil
		return
	}
	if a.Path.Kind == path.Direct && w.prospect(d, peer) == no {
		w.fail("%s has a direct path to %s, which the model thinks impossible", d.name, peer.name)
	}
	if !w.lossy() {
		switch {
		case a.Cause.Demotion():
			w.fail("%s gives its path to %s up, though nothing has changed for %s: %s", d.name, peer.name, w.now.Sub(w.calm), a.Reason)
		case a.Cause == path.Better || a.Cause == path.Replaced:
			if l.better++; l.better > betterStable {
				w.fail("%s and %s flap between paths though nothing changes", d.name, peer.name)
			}
		}
		return
	}
	l.flaps = append(l.flaps, w.now)
	for len(l.flaps) > 0 && w.now.Sub(l.flaps[0]) > time.Minute {
		l.flaps = l.flaps[1:]
	}
	if len(l.flaps) > flapsLossy {
		w.fail("%s and %s flap: %d changes in a minute", d.name, peer.name, len(l.flaps))
	}
}

// watch looks at everything that must hold always.
func (w *world) watch() {
	for _, d := range w.devices {
		d.idle()
		if n := len(d.extra); n > socketsMax+len(w.devices) {
			w.fail("%s has %d extra sockets", d.name, n)
		}
		if n := d.core.Sessions(); n >= len(w.devices) {
			w.fail("%s has %d sessions", d.name, n)
		}
	}
	for _, f := range w.flows {
		w.watchDirect(f, f.from, f.to)
		if f.echo {
			w.watchDirect(f, f.to, f.from)
		}
	}
	every := watchEvery
	if len(w.flows) == 0 {
		every = restEvery
	}
	w.after(every, w.watch)
}

// watchDirect wants a direct path where one has been possible for long enough.
func (w *world) watchDirect(f *flow, a, b *device) {
	relayed := bothRelayed(a, b)
	if f.every > time.Second || relayed.IsZero() || a.link(b).path.Kind == path.Direct {
		return
	}
	if long := w.now.Sub(later(f.since, later(relayed, later(a.upSince, b.upSince)))); a.link(b).path.Kind == path.None && long > goneBound {
		w.fail("%s has no path to %s, though both have reached a relay for %s", a.name, b.name, long)
	}
	if w.prospect(a, b) != yes {
		return
	}
	since := later(later(w.changed, f.since), later(relayed, later(a.upSince, b.upSince)))
	bound := directSlow
	if p := a.link(b).path; since.Sub(w.silent) > directSlow && !w.lossy() && p.Kind == path.Relay {
		since, bound = later(since, p.Since), directQuick
	}
	if took := w.now.Sub(since); took > bound {
		w.fail("%s has no direct path to %s, which has been possible for %s", a.name, b.name, took)
	}
}
