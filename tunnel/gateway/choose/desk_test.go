package choose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/tunnel/gateway"
)

// desk is one core and the gateways that it talks to, which answer as they are told, in virtual time.
type desk struct {
	t         testing.TB
	core      *Core
	now, next time.Time
	gateways  map[ID]*peerSim
	later     []pending
	pings     []Send
	chosen    []string // what was told, in words
}

// peerSim is a gateway.
type peerSim struct {
	mute   bool
	rtt    time.Duration
	start  uint64
	seq    uint64
	health map[netip.Prefix]gateway.Health
	uses   map[netip.Prefix]ID // as last heard
}

type pending struct {
	at time.Time
	e  Event
}

const self = 's'

func id(b byte) ID {
	if b == 0 {
		return ID{}
	}
	return ID{b}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

var (
	lan  = prefix("10.1.0.0/16")
	wide = prefix("10.0.0.0/8")
	all4 = prefix("0.0.0.0/0")
	all6 = prefix("::/0")
)

// newDesk has the routes given as "PREFIX GATEWAY PRIORITY", the gateway being a letter.
func newDesk(t testing.TB, carried []netip.Prefix, routes ...string) *desk {
	d := &desk{t: t, core: New(Config{Self: id(self), Start: 77}), now: time.Unix(1000, 0), gateways: map[ID]*peerSim{}}
	d.set(carried, routes...)
	return d
}

func (d *desk) set(carried []netip.Prefix, routes ...string) {
	var out []Route
	for _, s := range routes {
		f := strings.Fields(s)
		r := Route{Prefix: prefix(f[0]), Gateway: id(f[1][0])}
		fmt.Sscan(f[2], &r.Priority)
		out = append(out, r)
		if d.gateways[r.Gateway] == nil {
			d.gateways[r.Gateway] = &peerSim{rtt: 20 * time.Millisecond, start: uint64(f[1][0]), health: map[netip.Prefix]gateway.Health{}, uses: map[netip.Prefix]ID{}}
		}
	}
	d.handle(SetRoutes{out, carried})
}

func (d *desk) g(b byte) *peerSim { return d.gateways[id(b)] }

func (d *desk) handle(e Event) {
	actions, next := d.core.Handle(d.now, e)
	if d.next = next; !next.IsZero() && !next.After(d.now) {
		d.t.Fatalf("wants to be called at %s, and it is %s", next, d.now)
	}
	for _, a := range actions {
		switch a := a.(type) {
		case Choose:
			d.chosen = append(d.chosen, strings.TrimRight(fmt.Sprintf("%s %c", a.Prefix, a.Gateway[0]), " \x00")+": "+a.Why.String())
		case Send:
			d.ping(a)
		}
	}
}

func (d *desk) ping(a Send) {
	d.pings = append(d.pings, a)
	g := d.gateways[a.To]
	if len(a.Ping.Uses) > gateway.MaxPrefixes {
		d.t.Fatalf("%d uses in one ping", len(a.Ping.Uses))
	}
	if g == nil || g.mute {
		return
	}
	for _, u := range a.Ping.Uses {
		g.uses[u.Prefix] = u.Gateway
	}
	g.seq++
	r := gateway.Report{Stamp: gateway.Stamp{Start: g.start, Sequence: g.seq}, Answers: a.Ping.Stamp}
	for _, u := range a.Ping.Uses {
		r.Health = append(r.Health, gateway.Told{Prefix: u.Prefix, Health: g.health[u.Prefix]})
	}
	d.later = append(d.later, pending{d.now.Add(g.rtt), Heard{a.To, r}})
}

// tell has a gateway send news.
func (d *desk) tell(b byte, p netip.Prefix, h gateway.Health) {
	g := d.g(b)
	g.health[p] = h
	g.seq++
	d.handle(Heard{id(b), gateway.Report{Stamp: gateway.Stamp{Start: g.start, Sequence: g.seq}, Health: []gateway.Told{{Prefix: p, Health: h}}}})
}

// run lets time pass. Busy are CIDRs for which packets are sent.
func (d *desk) run(wait time.Duration, busy ...netip.Prefix) {
	until := d.now.Add(wait)
	sent := d.now
	for {
		at, do := until, func() {}
		if len(busy) > 0 && sent.Before(at) {
			at, do = sent, func() {
				for _, p := range busy {
					d.handle(Sent{p})
				}
				sent = sent.Add(time.Second)
			}
		}
		for i, p := range d.later {
			if p.at.Before(at) {
				at, do = p.at, func() {
					d.later = slices.Delete(d.later, i, i+1)
					d.handle(p.e)
				}
			}
		}
		if !d.next.IsZero() && d.next.Before(at) {
			at, do = d.next, func() { d.handle(nil) }
		}
		d.now = at
		if at == until {
			return
		}
		do()
	}
}

// told checks what was chosen since the last time.
func (d *desk) told(want ...string) {
	d.t.Helper()
	if diff := cmp.Diff(want, d.chosen); diff != "" {
		d.t.Errorf("at %s: %s", d.now.Sub(time.Unix(1000, 0)), diff)
	}
	d.chosen = nil
}

// pinged counts the pings to a gateway since the last time.
func (d *desk) pinged(b byte) int {
	n := 0
	d.pings = slices.DeleteFunc(d.pings, func(s Send) bool {
		if s.To == id(b) {
			n++
			return true
		}
		return false
	})
	return n
}
