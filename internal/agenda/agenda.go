// Package agenda is what will happen in a simulation, in virtual time: Plan says what, Next gives what is due, and things planned for one
// moment happen in the order in which they were planned, so that the same seed gives the same run. Only tests and simulators use it.
package agenda

import (
	"container/heap"
	"time"
)

// Agenda is what will happen. The zero value is empty and ready.
type Agenda struct {
	events  events
	planned int
}

type event struct {
	at  time.Time
	seq int
	do  func()
}

// Plan has do called at a time.
func (a *Agenda) Plan(at time.Time, do func()) {
	a.planned++
	heap.Push(&a.events, event{at, a.planned, do})
}

// Due tells when the next thing happens; false means never.
func (a *Agenda) Due() (time.Time, bool) {
	if len(a.events) == 0 {
		return time.Time{}, false
	}
	return a.events[0].at, true
}

// Next takes the first thing off the agenda, if it happens by end.
func (a *Agenda) Next(end time.Time) (at time.Time, do func(), ok bool) {
	if at, ok = a.Due(); !ok || at.After(end) {
		return time.Time{}, nil, false
	}
	e := heap.Pop(&a.events).(event)
	return e.at, e.do, true
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	last := len(old) - 1
	x := old[last]
	old[last] = event{} // what it holds is free
	*e = old[:last]
	return x
}
