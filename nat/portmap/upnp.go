package portmap

import "time"

func (c *Core) found(now time.Time, ev Found) {
	k := &c.clients[UPnP]
	if ev.Op != k.op || k.state != asking {
		return
	}
	why := ev.Reason
	if why == NoReason {
		k.external = ev.External
		why = Useful(ev.External)
	}
	if why != NoReason {
		c.fail(now, k, why)
		return
	}
	k.state, k.answered, k.reason, k.resendAt, k.op = offering, true, NoReason, time.Time{}, 0
}

func (c *Core) added(now time.Time, ev Added) {
	k := &c.clients[UPnP]
	switch {
	case ev.Op != k.op || !k.busy():
	case c.stopping():
		if k.lease = ev.External; ev.Reason == NoReason {
			c.release(now, k)
		} else {
			k.released()
		}
	case ev.Reason == Conflict && k.conflicts < conflictTries:
		k.conflicts++
		c.wish = c.otherPort()
		c.request(now, k)
	case ev.Reason != NoReason:
		c.fail(now, k, ev.Reason)
	default:
		c.granted(now, k, ev.External, ev.Life)
	}
}

func (c *Core) deleted(ev Deleted) {
	if k := &c.clients[UPnP]; ev.Op == k.op && k.state == releasing {
		k.released()
	}
}
