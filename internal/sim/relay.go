package sim

import (
	"time"

	"warren/nat/path"
)

// relay carries signals and data between devices that are connected to some relay.
type relay struct {
	name  string
	up    bool
	delay time.Duration // one way, from a device to it
}

const (
	noticeTime  = 400 * time.Millisecond // until a device notices that its relay is gone
	connectTime = 150 * time.Millisecond
	silentTime  = 30 * time.Second // until a relay gives up a connection on which nothing answers
)

// reaches reports whether the device's packets get to a relay: by TCP, which every NAT lets out.
func (d *device) reaches(r *relay) bool {
	for _, at := range d.ifaces {
		if online(at.box, d.w.root) {
			return !d.down && r.up
		}
	}
	return false
}

func online(b, root *box) bool {
	for ; b != root; b = b.parent {
		if b.off {
			return false
		}
	}
	return true
}

// settleRelay notices whether the relay can be reached, in truth, and has the device leave or join one a moment later.
func (d *device) settleRelay() {
	w, starts, home := d.w, d.starts, d.home
	good := home != nil && d.reaches(home)
	if good != d.good {
		d.good, d.goodSince = good, w.now
	}
	switch {
	case good || d.down:
	case home != nil:
		w.after(noticeTime, func() {
			if d.starts == starts && d.home == home && !d.reaches(home) {
				d.setHome(nil)
			}
		})
	default:
		w.after(connectTime, func() {
			for _, r := range w.relays {
				if d.starts == starts && d.home == nil && d.reaches(r) {
					d.setHome(r)
				}
			}
		})
	}
}

func (d *device) setHome(r *relay) {
	d.home = r
	if r == nil {
		d.w.note(d, "relay is lost")
	} else {
		d.w.note(d, "relay %s", r.name)
	}
	d.handle(path.SetRelay{Up: r != nil})
	d.settleRelay()
}

// settleRelays is for when a relay or a link has changed.
func (w *world) settleRelays() {
	for _, d := range w.devices {
		d.settleRelay()
	}
}

// forward carries something to another device by its relay. Otherwise the relay tells the sender that it has no connection to that one; but it
// does not know yet of one that has just fallen silent.
func (d *device) forward(to *device, arrive func(), lost func()) {
	w := d.w
	if !d.good {
		lost()
		return
	}
	home := d.home
	w.after(home.delay, func() {
		if to.good {
			w.after(to.home.delay, func() {
				if to.good {
					arrive()
				} else {
					lost()
				}
			})
			return
		}
		lost()
		if w.now.Sub(to.goodSince) < silentTime && to.home != nil {
			return
		}
		w.after(home.delay, func() {
			if d.good && d.home == home {
				d.handle(path.PeerGone{Peer: to.id})
			}
		})
	})
}

func (d *device) signal(a path.SendSignal) {
	to := d.w.device(a.Peer)
	d.countSignal()
	e := path.Signal{Peer: d.id, Candidates: a.Candidates, Call: a.Call, NAT: a.NAT, Step: a.Step, Lost: a.Lost}
	if d.liar {
		e.Candidates = d.lies()
	}
	what := "signal"
	if a.Call {
		what = "call"
	}
	sent := d.w.now
	d.forward(to, func() {
		d.w.diagram.add(entry{at: d.w.now, sent: sent, from: d, to: to, what: what, note: "by relay"})
		to.handle(e)
	}, func() {
		d.w.diagram.add(entry{at: d.w.now, sent: sent, from: d, what: what, note: to.name + " is not at the relay"})
	})
}
