package carry

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/tunnel/gateway"
)

// office is one core and the hosts behind it, in virtual time.
type office struct {
	t         testing.TB
	core      *Core
	now, next time.Time
	up        map[netip.Addr]bool // hosts that answer
	cut       bool                // nobody is reached
	rtt       time.Duration
	later     []pending
	probes    map[netip.Addr]int
	health    []string // what was told, in words
	hands     []string
	sent      []Send
}

type pending struct {
	at time.Time
	e  Event
}

const self = 's'

var begin = time.Unix(1000, 0)

func id(b byte) ID {
	if b == 0 {
		return ID{}
	}
	return ID{b}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

var lan = prefix("10.1.0.0/16")

// newOffice carries CIDRs, in which the hosts answer that are given.
func newOffice(t testing.TB, up []netip.Addr, cidrs ...CIDR) *office {
	o := &office{t: t, core: New(Config{Self: id(self), Start: 55}), now: begin, up: map[netip.Addr]bool{}, rtt: 2 * time.Millisecond, probes: map[netip.Addr]int{}}
	for _, a := range up {
		o.up[a] = true
	}
	o.handle(SetCarried{cidrs})
	return o
}

func (o *office) handle(e Event) {
	actions, next := o.core.Handle(o.now, e)
	if o.next = next; !next.IsZero() && !next.After(o.now) {
		o.t.Fatalf("wants to be called at %s, and it is %s", next, o.now)
	}
	for _, a := range actions {
		switch a := a.(type) {
		case Probe:
			o.probes[a.Target]++
			if o.up[a.Target] && !o.cut {
				o.later = append(o.later, pending{o.now.Add(o.rtt), Echoed(a)})
			}
		case Health:
			o.health = append(o.health, fmt.Sprintf("%s %s", a.Prefix, a.Health))
		case HandOver:
			o.hands = append(o.hands, fmt.Sprintf("%s for %c to %c", a.Prefix, a.Device[0], a.To[0]))
		case Send:
			if _, err := gateway.Append(nil, a.Report); err != nil {
				o.t.Fatal(err)
			}
			o.sent = append(o.sent, a)
		}
	}
}

// run lets time pass, until the time has come or done says so.
func (o *office) run(wait time.Duration, done ...func() bool) {
	until := o.now.Add(wait)
	for {
		at, do := until, func() {}
		for i, p := range o.later {
			if p.at.Before(at) {
				at, do = p.at, func() {
					o.later = slices.Delete(o.later, i, i+1)
					o.handle(p.e)
				}
			}
		}
		if !o.next.IsZero() && o.next.Before(at) {
			at, do = o.next, func() { o.handle(nil) }
		}
		o.now = at
		if at == until {
			return
		}
		do()
		if len(done) > 0 && done[0]() {
			return
		}
	}
}

// ping is from a device that is named by a letter. Uses are of the given gateway.
func (o *office) ping(device byte, seq uint64, to byte, active bool, prefixes ...netip.Prefix) {
	p := gateway.Ping{Stamp: gateway.Stamp{Start: uint64(device), Sequence: seq}}
	for _, q := range prefixes {
		p.Uses = append(p.Uses, gateway.Use{Prefix: q, Gateway: id(to), Active: active})
	}
	o.handle(Heard{id(device), p})
}

// busy lets time pass while a device uses the LAN.
func (o *office) busy(wait time.Duration, done ...func() bool) {
	for end := o.now.Add(wait); o.now.Before(end) && (len(done) == 0 || !done[0]()); {
		o.core.sequence++ // as if there were others
		o.ping('d', o.core.sequence, self, true, lan)
		o.run(min(500*time.Millisecond, end.Sub(o.now)), done...)
	}
}

// told checks what was told of health since the last time.
func (o *office) told(want ...string) {
	o.t.Helper()
	if diff := cmp.Diff(want, o.health); diff != "" {
		o.t.Errorf("at %s: %s", o.now.Sub(begin), diff)
	}
	o.health = nil
}

func (o *office) changed() bool { return len(o.health) > 0 }

// learn has hosts of the LAN seen.
func (o *office) learn(hosts ...string) {
	for _, a := range addrs(hosts...) {
		o.handle(SeenHost{a})
	}
}
