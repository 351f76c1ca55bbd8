package sim

import (
	"time"

	"warren/nat/path"
)

// flow is packets that a device sends to another every so often.
type flow struct {
	from, to *device
	every    time.Duration
	echo     bool // each comes back
	long     bool // as long as the path allows
	since    time.Time
	stopped  bool
}

// Sizes of packets inside the tunnel, and what WireGuard adds.
const (
	shortPacket = 100
	tunnelMTU   = path.DefaultMTU
	overhead    = 32
	engineIdle  = 5 * time.Minute // after which the engine removes a peer
)

// startFlow replaces the flow between two devices.
func (w *world) startFlow(f flow) {
	w.stopFlow(f.from, f.to)
	f.since = w.now
	one := &f
	w.flows = append(w.flows, one)
	var tick func()
	tick = func() {
		if one.stopped {
			return
		}
		if !f.from.down {
			size := shortPacket
			if f.long {
				size = tunnelMTU
			}
			f.from.data(f.to, size, f.echo)
		}
		w.after(f.every, tick)
	}
	tick()
}

func (w *world) stopFlow(from, to *device) {
	for i, f := range w.flows {
		if f.from == from && f.to == to {
			f.stopped = true
			w.flows = append(w.flows[:i:i], w.flows[i+1:]...)
			return
		}
	}
}

// data sends one packet of the tunnel.
func (d *device) data(to *device, size int, echo bool) {
	if mtu := d.link(to).path.MTU; size > shortPacket && mtu > 0 {
		size = min(size, mtu)
	}
	d.carry(to, size, func() {
		if echo {
			to.data(d, size, false)
		}
	})
}

// carry takes a packet of the tunnel along the published path, and judges what becomes of it. size is inside the tunnel.
func (d *device) carry(to *device, size int, arrive func()) {
	l := d.link(to)
	if !l.configured {
		d.activate(to)
	}
	l.sent = d.w.now
	sent, used := d.w.now, l.path
	switch used.Kind {
	case path.Direct:
		d.checkVerified(l)
		d.send(used.Pair, size+overhead, "data", func(got *device, _ uint16, _ *packet) {
			if got != to {
				d.judge(l, sent)
				return
			}
			d.delivered(l, size, true)
			arrive()
		}, func(f fate) {
			switch f {
			case byFault:
				d.judge(l, sent)
			case tooLong:
				d.judgeLong(l, sent)
			}
		})
	default: // the Bind has the relay try what has no path
		d.forward(to, func() { d.delivered(l, size, false); arrive() }, func() { d.judge(l, sent) })
	}
}

// delivered has arrived what was sent over l.
func (d *device) delivered(l *link, size int, direct bool) {
	to, now := l.peer, d.w.now
	l.lostSince = time.Time{}
	if size > shortPacket {
		l.longLost = time.Time{}
	}
	back := to.link(d)
	back.received = now
	if direct {
		back.direct = now
	}
	if !back.configured { // a handshake does that
		to.activate(d)
	}
}

// idle removes peers from the tunnel that have had no traffic for long, as the engine does.
func (d *device) idle() {
	if d.down {
		return
	}
	for _, peer := range d.w.devices {
		l := d.links[peer.id]
		if l == nil || !l.configured || d.w.now.Sub(later(l.sent, l.received)) < engineIdle {
			continue
		}
		l.configured = false
		d.handle(path.Deactivate{Peer: peer.id})
	}
}
