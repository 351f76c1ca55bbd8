package path_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/nat/path"
)

// TestHours: in an hour nothing demotes a healthy path, though one datagram in a hundred is lost: not a stream that is never answered, not load in
// both directions, not traffic so rare that each packet is distress for a moment.
func TestHours(t *testing.T) {
	for name, flow := range map[string]func(a, b *node){
		"one-way stream":  func(a, b *node) { a.flow(b, 25*time.Millisecond, false) },
		"load":            func(a, b *node) { a.flow(b, 25*time.Millisecond, true); b.flow(a, 40*time.Millisecond, true) },
		"a packet a time": func(a, b *node) { a.flow(b, 20*time.Second, false) },
	} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprint(name, seed), func(t *testing.T) {
				s := newSim(t, seed)
				s.trace = false
				s.net.Loss = 0.01
				a, b := s.add(easy), s.add(easy)
				s.run(time.Second)
				flow(a, b)
				s.until("direct", func() bool { return kinds(a, b) == bothDirect })
				s.run(time.Second)
				before := [2]int{len(a.link(b.id).history), len(b.link(a.id).history)}
				s.run(time.Hour)
				after := [2]int{len(a.link(b.id).history), len(b.link(a.id).history)}
				if after != before || kinds(a, b) != bothDirect {
					t.Errorf("paths %v, changes %v and %v", kinds(a, b), a.link(b.id).history[before[0]:], b.link(a.id).history[before[1]:])
				}
			})
		}
	}
}

// TestIdleHour: without traffic a session goes to sleep, once, and does nothing more for the rest of the hour.
func TestIdleHour(t *testing.T) {
	for seed := range uint64(3) {
		s := newSim(t, seed)
		a, b := s.add(easy), s.add(easy)
		s.run(time.Second)
		stop := a.flow(b, 20*time.Millisecond, true)
		s.until("direct", func() bool { return kinds(a, b) == bothDirect })
		s.run(time.Second)
		stop()
		before := len(a.link(b.id).history)
		s.run(2 * time.Minute)
		checks := a.checks + b.checks
		s.run(time.Hour)
		if diff := cmp.Diff([]string{path.Relay.String()}, a.link(b.id).history[before:]); diff != "" {
			t.Errorf("seed %d: %s", seed, diff)
		}
		if a.core.Explain(b.id).Cause != path.Idle || a.checks+b.checks != checks {
			t.Errorf("seed %d: relayed by %s, %d checks while idle", seed, a.core.Explain(b.id).Cause, a.checks+b.checks-checks)
		}
	}
}

// TestStopped: a program that was stopped for longer than NATs remember, and whose clock went on, has its packets carried by the relay from the
// first one, and finds the direct path again.
func TestStopped(t *testing.T) {
	for seed := range uint64(10) {
		s, a, b, _ := pairOf(t)
		a.host.Down = true // neither its timers nor its packets
		a.host.Box.Forget()
		s.run(30*time.Second + time.Duration(seed)*77*time.Millisecond)
		a.host.Down = false
		a.handle(path.NetworkChanged{})
		a.gather()
		if kinds(a, b)[0] != path.Relay {
			t.Errorf("seed %d: on waking the path is %v, want relay", seed, kinds(a, b)[0])
		}
		if took := s.until("direct", func() bool { return kinds(a, b) == bothDirect }); took > time.Second {
			t.Errorf("seed %d: direct after %s", seed, took)
		}
	}
}
