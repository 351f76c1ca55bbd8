package gateway

import "time"

// Stall is how much later than it asked a core may be called without taking it for a sleep of the whole device.
const Stall = 2 * time.Second

// Clock is a core's own time, which stands still while nobody calls the core: what a device did not do while it slept, or while its clock was set, is no
// silence of others. The zero value has not begun.
type Clock struct{ real, own, next time.Time }

// Set gives the core's time at now. Jumped says that the time in between is not known.
func (c *Clock) Set(now time.Time) (own time.Time, jumped bool) {
	step := now.Sub(c.real)
	switch due := c.next.Sub(c.own); {
	case c.real.IsZero():
		c.own, step = now, 0
	case step < 0:
		jumped, step = true, 0
	case !c.next.IsZero() && step > due+Stall:
		jumped, step = true, max(due, 0)
	}
	c.real, c.own = now, c.own.Add(step)
	return c.own, jumped
}

// Next takes when the core wants to be called, in its own time, and gives it in the caller's. Zero is never.
func (c *Clock) Next(own time.Time) time.Time {
	c.next = own
	return c.Real(own)
}

// Real gives the caller's time for the core's. Zero stays zero.
func (c *Clock) Real(own time.Time) time.Time {
	if own.IsZero() {
		return own
	}
	return c.real.Add(own.Sub(c.own))
}
