package backoff

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPauses(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name string
		do   func(*Backoff) time.Duration
		want []time.Duration
	}{
		{"failures, unlucky", (*Backoff).Failed, []time.Duration{124 * ms, 249 * ms, 499 * ms, 999 * ms, 1249 * ms, 1249 * ms}},
		{"losses", func(b *Backoff) time.Duration { return b.Lost(time.Hour, 0) }, []time.Duration{99 * ms, 99 * ms}},
		{"a small server's losses", func(b *Backoff) time.Duration { return b.Lost(time.Hour, 50*ms) }, []time.Duration{99 * ms}},
		{"a large server's losses", func(b *Backoff) time.Duration { return b.Lost(time.Hour, 9*time.Second) }, []time.Duration{8999 * ms}},
		{"a server that asks for too much", func(b *Backoff) time.Duration { return b.Lost(time.Hour, math.MaxInt64) }, []time.Duration{59999 * ms}},
		{"a server that asks for nonsense", func(b *Backoff) time.Duration { return b.Lost(time.Hour, -time.Hour) }, []time.Duration{99 * ms}},
		{"reset", func(b *Backoff) time.Duration { defer b.Reset(); return b.Failed() }, []time.Duration{124 * ms, 124 * ms}},
		{"connections that do not last", func(b *Backoff) time.Duration { return b.Lost(9*ms, 0) }, []time.Duration{223 * ms, 348 * ms, 598 * ms, 1098 * ms}},
		{"lost and failed", func(b *Backoff) time.Duration { b.Failed(); b.Lost(time.Hour, 0); return b.Failed() }, []time.Duration{124 * ms, 124 * ms}},
	} {
		b := &Backoff{First: 100 * ms, Longest: time.Second, Steady: 10 * ms, Rand: func(n time.Duration) time.Duration { return n - ms }}
		var got []time.Duration
		for range test.want {
			got = append(got, test.do(b))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		n, rate int
		want    time.Duration
	}{{0, 1000, 0}, {1, 1000, time.Millisecond}, {10_000, 1000, 10 * time.Second}, {30_000, 1000, 30 * time.Second}, {math.MaxInt, 1000, 30 * time.Second}} {
		if got := Spread(test.n, test.rate, 30*time.Second); got != test.want {
			t.Errorf("%d clients: %s, want %s", test.n, got, test.want)
		}
	}
}

// crowd is what came of many clients that lost one server at once.
type crowd struct {
	busiest  int           // the most attempts within 100 ms, of those that reach the server
	attempts int           // for each client, on the average, in hundredths
	last     time.Duration // when the last client was back
}

// comeBack plays a server that is away for a while and then takes perSecond clients; the others are refused when they come.
func comeBack(seed uint64, clients, perSecond int, first, away, within time.Duration) (c crowd) {
	r := rand.New(rand.NewPCG(seed, 0))
	draw := func(n time.Duration) time.Duration { return time.Duration(r.Int64N(int64(n))) }
	const slot = 100 * time.Millisecond
	due := map[int][]*Backoff{} // by slot
	at := func(d time.Duration) int { return int(d / slot) }
	for range clients {
		b := &Backoff{First: first, Longest: 30 * time.Second, Rand: draw}
		i := at(b.Lost(time.Hour, within))
		due[i] = append(due[i], b)
	}
	for i, left := 0, clients; left > 0; i++ {
		c.attempts += len(due[i])
		room := 0
		if time.Duration(i)*slot >= away {
			c.busiest = max(c.busiest, len(due[i]))
			room = perSecond / int(time.Second/slot)
		}
		r.Shuffle(len(due[i]), func(a, b int) { due[i][a], due[i][b] = due[i][b], due[i][a] })
		for _, b := range due[i] {
			if room > 0 {
				room, left = room-1, left-1
				continue
			}
			next := i + max(1, at(b.Failed()))
			due[next] = append(due[next], b)
		}
		delete(due, i)
		c.last = time.Duration(i) * slot
	}
	c.attempts = c.attempts * 100 / clients
	return c
}

// TestManyComeBack: ten thousand devices that lose a coordinator which takes a thousand a second come at hardly more than that rate, and most are
// served at their first attempt. Those that are not spread are the proof that it matters.
func TestManyComeBack(t *testing.T) {
	const clients, rate, first = 10_000, 1000, 200 * time.Millisecond
	for seed := range uint64(5) {
		spread := comeBack(seed, clients, rate, first, 0, Spread(clients, rate, 30*time.Second))
		if spread.busiest > 2*rate/10 || spread.attempts > 150 || spread.last > 25*time.Second {
			t.Errorf("spread: %+v", spread)
		}
		if together := comeBack(seed, clients, rate, first, 0, 0); together.busiest < clients/3 || together.attempts < 2*spread.attempts {
			t.Errorf("together: %+v, hardly worse than %+v", together, spread)
		}
		// Away for long, all have failed several times, at times of their own.
		late := comeBack(seed, clients, rate, first, time.Minute, Spread(clients, rate, 30*time.Second))
		if late.busiest > clients/20 || late.last > 2*time.Minute {
			t.Errorf("after a minute: %+v", late)
		}
	}
}

// TestFewComeBackSoon: where few devices are, each is back soon, even if they were refused for half a second.
func TestFewComeBackSoon(t *testing.T) {
	for seed := range uint64(20) {
		got := comeBack(seed, 50, 1000, 100*time.Millisecond, 500*time.Millisecond, Spread(50, 1000, 30*time.Second))
		if got.last > 2*time.Second {
			t.Errorf("the last was back after %s", got.last)
		}
	}
}
