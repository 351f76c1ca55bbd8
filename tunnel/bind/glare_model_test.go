package bind

import (
	"math/rand/v2"
	"testing"
	"time"

	"warren/internal/agenda"
)

// party is one side of a model of two WireGuards behind glares: as much of WireGuard as decides whether a handshake comes about.
type party struct {
	g       glare
	stands  bool
	began   int           // the call that it has made and not given up; 0: none
	last    int           // the last that it has made
	sent    time.Duration // when it last made a call or an answer; negative: never
	session int           // the call that its session is of; 0: there is none
	next    int           // the call of the peer's that it has answered
	other   *party
}

// model plays both parties in virtual time. A call carries its number.
type model struct {
	now       time.Duration
	plans     agenda.Agenda
	rand      *rand.Rand
	work, way time.Duration // the longest that a step takes on a host, and a message on its way
	calls     int
}

// after has do called when d has passed. The agenda's times count from the zero time.
func (m *model) after(d time.Duration, do func()) { m.plans.Plan(time.Time{}.Add(m.now+d), do) }

func (m *model) within(most time.Duration) time.Duration {
	return time.Duration(m.rand.Int64N(int64(most) + 1))
}

func (m *model) clock() int64 { return int64(m.now) + 1 }

// call is WireGuard making a call, unless it has a session or sent a handshake message lately.
func (m *model) call(p *party) {
	if p.session != 0 || p.sent >= 0 && m.now-p.sent < 5*time.Second {
		return
	}
	m.calls++
	n, kept := m.calls, new(call)
	kept[0], kept[1] = byte(n), byte(n>>8)
	p.began, p.last, p.sent = n, n, m.now
	m.after(m.within(m.work), func() {
		leave, later := p.g.leaves(kept, m.clock())
		switch {
		case leave:
			m.travel(p, kept)
		case later:
			m.after(answerWait, func() {
				if c := p.g.late(m.clock()); c != nil {
					m.travel(p, c)
				}
			})
		}
	})
	m.after(5*time.Second+m.within(333*time.Millisecond), func() {
		if p.last == n { // one timer, which a later call sets anew
			m.call(p)
		}
	})
}

// travel has a call come to the other side's glare.
func (m *model) travel(from *party, c *call) {
	m.after(m.within(m.way)+m.within(m.work), func() {
		p := from.other
		if deliver, wait := p.g.arrives(c, p.stands, m.clock()); deliver {
			m.answer(p, c)
		} else if wait > 0 {
			m.due(p, wait)
		}
	})
}

func (m *model) due(p *party, wait time.Duration) {
	m.after(wait, func() {
		if c, wait := p.g.due(m.clock()); c != nil {
			m.answer(p, c)
		} else if wait > 0 {
			m.due(p, wait)
		}
	})
}

// answer is WireGuard answering a call, for which it gives up its own.
func (m *model) answer(p *party, c *call) {
	n := int(c[0]) | int(c[1])<<8
	m.after(m.within(m.work), func() {
		p.began, p.next, p.sent = 0, n, m.now
		m.after(m.within(m.work), func() {
			if p.g.answers(m.clock()) {
				m.recall(p)
			}
			m.after(m.within(m.way), func() { m.answered(p.other, n) })
		})
	})
}

func (m *model) recall(p *party) {
	wait := recallAfter
	if !p.stands {
		wait += recallStagger
	}
	m.after(wait, func() {
		p.g.recalled()
		m.call(p)
	})
}

// answered has an answer come. If WireGuard still has the call, it has a session, and the other side has, with the first packet in it.
func (m *model) answered(p *party, n int) {
	p.g.answered(m.clock())
	m.after(m.within(m.work), func() {
		if p.began != n {
			return
		}
		p.began, p.session = 0, n
		m.after(m.within(m.way), func() {
			if p.other.next == n {
				p.other.session = n
			}
		})
	})
}

// meet has both want each other at about the same time, once, and tells when both had a session and how many calls it took.
func meet(seed uint64, work, way time.Duration) (took time.Duration, calls int) {
	m := &model{rand: rand.New(rand.NewPCG(seed, 1)), work: work, way: way}
	a, b := &party{stands: true, sent: -1}, &party{sent: -1}
	a.other, b.other = b, a
	for _, p := range []*party{a, b} {
		m.after(m.within(work), func() { m.call(p) })
	}
	for {
		at, do, ok := m.plans.Next(time.Time{}.Add(time.Hour))
		if !ok {
			return -1, m.calls
		}
		m.now = at.Sub(time.Time{})
		do()
		if a.session != 0 && b.session != 0 {
			return m.now, m.calls
		}
	}
}

// TestMeet: two that call each other at once have a session with the first calls wherever an answer comes within glareWait, and some time however
// slow hosts and ways are, as long as an answer comes well within Rekey-Timeout, though nothing makes them call but the first packets.
func TestMeet(t *testing.T) {
	for _, c := range []struct {
		work, way time.Duration
		at        time.Duration // by when
		calls     int           // at most
	}{
		{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, 2},
		{10 * time.Millisecond, 300 * time.Millisecond, 1500 * time.Millisecond, 2},
		{180 * time.Millisecond, 20 * time.Millisecond, 1500 * time.Millisecond, 2},
		{400 * time.Millisecond, 400 * time.Millisecond, 10 * time.Minute, 100},
		{600 * time.Millisecond, 600 * time.Millisecond, 10 * time.Minute, 100},
	} {
		slowest := time.Duration(0)
		for seed := range uint64(5000) {
			took, calls := meet(seed, c.work, c.way)
			if took < 0 || took > c.at || calls > c.calls {
				t.Fatalf("steps of %v, ways of %v, seed %d: after %v (-1ns: never), with %d calls", c.work, c.way, seed, took, calls)
			}
			slowest = max(slowest, took)
		}
		t.Logf("steps of %v, ways of %v: the slowest after %v", c.work, c.way, slowest)
	}
}
