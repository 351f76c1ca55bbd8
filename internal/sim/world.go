// Package sim is a simulator of whole worlds: two to six devices, each with a real path core (nat/path), behind chains of modelled NATs
// (natmodel) and links (linkmodel), with relays that can die, in virtual time. Run plays one program of bytes, from a fuzzer or from Random
// with a seed, and gives the first violation of what the path core promises, with a drawing of the last packets. Same bytes, same run.
//
//	world.go       time, and the queue of what is to happen
//	topology.go    boxes: routers, CGNATs and firewalls; how a datagram passes them
//	device.go      a device around its core, and what the core's actions do
//	relay.go       relays: signals, and data that has no direct path
//	traffic.go     flows of data
//	program.go     from bytes to a world and what befalls it
//	model.go       the ground truth: who can reach whom in principle, and since when
//	invariants.go  what must hold on every step
//	diagram.go     the drawing
package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"warren/internal/agenda"
)

// world is everything there is. It is deterministic: nothing in it depends on the clock, on map order or on chance but by seed.
type world struct {
	begin, now time.Time
	plans      agenda.Agenda
	rand       *rand.Rand
	seed       uint64

	root    *box // the internet
	boxes   []*box
	cuts    map[[2]*box]bool // from the first site to the second nothing gets through directly
	relays  []*relay
	devices []*device

	flows []*flow

	changed time.Time // when the truth last changed
	silent  time.Time // when it last did without a device being told
	calm    time.Time // since when nothing has happened at all
	lied    time.Time // since when a device has told lies
	victims map[victimKey]int

	lossyUntil time.Time
	diagram    diagram
	failure    error
	stats      Stats
}

// Stats is what happened in a run.
type Stats struct {
	// Direct and Relayed count pairs with traffic at the end, by path; Possible those that the model says can be direct.
	Direct, Relayed, Possible int
	// Hunts counts birthday attempts, Won those that ended with a direct path.
	Hunts int
	// Packets counts datagrams, checks and data.
	Packets int
	// Demotions counts direct paths that were given up without a better one.
	Demotions int
}

func newWorld(begin time.Time, seed uint64) *world {
	w := &world{
		begin: begin, now: begin, changed: begin, calm: begin, seed: seed, rand: rand.New(rand.NewPCG(seed, 0x776f726c64)), cuts: map[[2]*box]bool{},
		victims: map[victimKey]int{},
	}
	w.silent = begin.Add(-directSlow - time.Hour)
	w.root = &box{name: "internet", hosts: hosts{}, below: boxes{}}
	w.after(watchEvery, w.watch)
	return w
}

// fail records the first violation, with the drawing; the world stands still from then on.
func (w *world) fail(format string, args ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf("%.3f s: %s\n%s", w.now.Sub(w.begin).Seconds(), fmt.Sprintf(format, args...), w.drawing())
	}
}

// after has do called when d has passed.
func (w *world) after(d time.Duration, do func()) {
	w.plans.Plan(w.now.Add(d), do)
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); w.step(end); {
	}
}

// step does the next thing that is due by end, or else goes to end and gives false.
func (w *world) step(end time.Time) bool {
	if w.failure != nil {
		return false
	}
	at, due := end, (*device)(nil)
	for _, d := range w.devices {
		if !d.next.IsZero() && !d.down && d.next.Before(at) {
			at, due = d.next, d
		}
	}
	if planned, do, ok := w.plans.Next(at); ok {
		w.now = later(w.now, planned)
		do()
		return true
	}
	w.now = later(w.now, at)
	if due == nil {
		return false
	}
	due.handle(nil)
	return true
}

// due is when something happens next.
func (w *world) due() time.Time {
	at := w.now.Add(watchEvery)
	if planned, ok := w.plans.Due(); ok {
		at = planned
	}
	for _, d := range w.devices {
		if !d.next.IsZero() && !d.down && d.next.Before(at) {
			at = d.next
		}
	}
	return at
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
