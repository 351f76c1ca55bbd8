package traversal

import (
	"sync/atomic"
	"time"

	"warren/nat/path"
	"warren/proto/key"
)

// Stats counts since New.
type Stats struct {
	ChecksSent, Answers       uint64 // checks sent, and those of them that were answered
	Requests                  uint64 // checks of peers, each answered
	SignalsSent               uint64
	Refused                   uint64 // datagrams and signals that are malformed, not authentic, replayed or from nobody known
	Dropped                   uint64 // more came than could be looked at
	SendErrors                uint64
	ToNone, ToRelay, ToDirect uint64 // changes of path
	MTUReductions             uint64 // times that a path in use came to carry less
	// Causes are the changes of path by what made them; those that never did are left out.
	Causes map[path.Cause]uint64
}

type counters struct {
	checks, answers, requests, signals, refused, dropped, sendErrors atomic.Uint64
	to                                                               [3]atomic.Uint64
	mtuReductions                                                    atomic.Uint64
	causes                                                           [path.CauseMax + 1]atomic.Uint64
}

func (c *counters) count(k path.Kind, cause path.Cause) {
	c.to[k].Add(1)
	c.causes[cause].Add(1)
}

// Stats gives the counts so far.
func (t *Traversal) Stats() Stats {
	c := &t.counters
	s := Stats{
		ChecksSent: c.checks.Load(), Answers: c.answers.Load(), Requests: c.requests.Load(), SignalsSent: c.signals.Load(),
		Refused: c.refused.Load(), Dropped: c.dropped.Load(), SendErrors: c.sendErrors.Load(),
		ToNone: c.to[None].Load(), ToRelay: c.to[Relay].Load(), ToDirect: c.to[Direct].Load(),
		MTUReductions: c.mtuReductions.Load(), Causes: map[path.Cause]uint64{},
	}
	for _, cause := range path.Causes() {
		if n := c.causes[cause].Load(); n > 0 {
			s.Causes[cause] = n
		}
	}
	return s
}

// setPath reports whether the path is another than before.
func (t *Traversal) setPath(node [key.Size]byte, p Path) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.paths[node]
	t.paths[node] = p
	return old.Kind != p.Kind || old.Local != p.Local || old.Remote != p.Remote
}

func (t *Traversal) setRTT(node [key.Size]byte, rtt time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p, ok := t.paths[node]; ok {
		p.RTT = rtt
		t.paths[node] = p
	}
}

// setMTU gives the path as it is with another MTU.
func (t *Traversal) setMTU(node [key.Size]byte, mtu int) (Path, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.paths[node]
	if ok {
		if mtu < p.MTU {
			t.counters.mtuReductions.Add(1)
		}
		p.MTU = mtu
		t.paths[node] = p
	}
	return p, ok
}

func (t *Traversal) movePath(from, to [key.Size]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p, ok := t.paths[from]; ok {
		t.paths[to] = p
		delete(t.paths, from)
	}
	if h, ok := t.histories[from]; ok {
		t.histories[to] = h
		delete(t.histories, from)
	}
}

func (t *Traversal) removePath(node [key.Size]byte) {
	t.mu.Lock()
	delete(t.paths, node)
	t.mu.Unlock()
}

// forget drops what is kept of a peer as long as it is in the map.
func (t *Traversal) forget(node [key.Size]byte) {
	t.mu.Lock()
	delete(t.histories, node)
	t.mu.Unlock()
}
