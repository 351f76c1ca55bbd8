package gather

import (
	"net/netip"
	"slices"
	"time"
)

// Requests go out again until answered, like RFC 8489 section 6.2.1 but sooner: a lost first request delays the first direct path.
const (
	firstRetry = 100 * time.Millisecond
	maxRetry   = 1600 * time.Millisecond
	tries      = 6
	// enough is how many tries others must leave unanswered, at first, until servers that agree are believed: 300 ms.
	enough = 2
	// uplinkServers is how many servers are asked from an uplink that the system does not prefer: only to learn its address outside.
	uplinkServers = 2
)

// round is one round of questions.
type round struct {
	waiting map[question]bool // not answered yet
	asked   bool              // anything was
	n       int               // tries so far
	wait    time.Duration     // until the next
	retry   *time.Timer
	names   chan named
	lookups int // that names still owes
}

// questions are all that is to be asked, in an order of its own: first what leaves as the system prefers.
func (s *state) questions() (out []question) {
	for _, t := range s.targets {
		out = append(out, question{server: t.addr})
	}
	for _, local := range s.uplinks {
		n := 0
		for _, t := range s.targets {
			if n < uplinkServers && t.addr.Addr().Is4() == local.Is4() && !slices.ContainsFunc(out[len(s.targets):], func(q question) bool {
				return q.local == local && q.server.Addr() == t.addr.Addr() // another of its ports tells nothing new
			}) {
				out = append(out, question{local, t.addr})
				n++
			}
		}
	}
	return out
}

// ask begins to ask what was not asked in this round.
func (g *Gatherer) ask(s *state, r *round) {
	for _, q := range s.questions() {
		if !r.waiting[q] && s.mapped[q].at.Before(s.began) {
			r.waiting[q], r.asked = true, true
			g.send(q)
		}
	}
	r.n, r.wait = 1, firstRetry
	r.retry.Reset(r.wait)
}

// again repeats what was not answered.
func (g *Gatherer) again(s *state, r *round) {
	r.n++
	g.settle(s, r)
	g.tell(s)
	if r.n > tries || len(r.waiting) == 0 {
		return
	}
	for _, q := range s.questions() {
		if r.waiting[q] {
			g.send(q)
		}
	}
	r.wait = min(2*r.wait, maxRetry)
	r.retry.Reset(r.wait)
}

// settle finds the mapping behaviour from this round's answers: once all that were asked have answered or had their time, and for the first time
// in a network as soon as the answers tell it. A server that is down, or one of a family that leads nowhere, keeps nobody waiting.
func (g *Gatherer) settle(s *state, r *round) {
	if !r.asked {
		return
	}
	over := r.n > tries
	open := func(is4 bool) bool {
		for q := range r.waiting {
			if !q.local.IsValid() && q.server.Addr().Is4() == is4 {
				return true
			}
		}
		return r.lookups > 0
	}
	for _, f := range []struct {
		is4 bool
		m   *Mapping
	}{{true, &s.v4}, {false, &s.v6}} {
		switch m := g.compare(s, f.is4); {
		case over || !open(f.is4):
			*f.m = m
		case f.m.Behaviour != Unknown: // the whole round will tell whether it has changed
		case m.Behaviour.Dependent(), m.Behaviour == NoNAT, m.Behaviour == EndpointIndependent && r.n > enough:
			*f.m = m
		}
	}
	s.whole = s.whole || over || !open(true) && !open(false)
}

// compare finds the mapping behaviour in a family, as far as this round's answers tell it.
func (g *Gatherer) compare(s *state, is4 bool) Mapping {
	port := g.cfg.Port()
	own := func(a netip.AddrPort) bool { return a.Port() == port && slices.Contains(s.local, a.Addr()) }
	var views []View
	for _, t := range s.targets {
		m := s.mapped[question{server: t.addr}]
		if t.addr.Addr().Is4() == is4 && !m.at.Before(s.began) && m.addr.IsValid() {
			views = append(views, View{t.addr, m.addr})
		}
	}
	return Compare(views, own)
}
