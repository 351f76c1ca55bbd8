package warrennet

import (
	"context"
	"sync"
	"time"

	"warren/internal/lab"
)

// Meter pings an address a thousand times a second and notes when answers came.
type Meter struct {
	p      *Pinger
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu   sync.Mutex
	last time.Time
	gaps []gap
}

// gap is a time without answers.
type gap struct {
	from time.Time
	long time.Duration
}

// meterEvery is between pings, longestBreath what is no gap.
const (
	meterEvery    = time.Millisecond
	longestBreath = 20 * time.Millisecond
)

// NewMeter begins to ping from a host.
func NewMeter(ctx context.Context, from *lab.Host, to string) (*Meter, error) {
	p, err := NewPinger(from, to)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	m := &Meter{p: p, cancel: cancel, last: time.Now()}
	m.done.Go(func() {
		tick := time.NewTicker(meterEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			_ = p.send() // there may be no route for a while
		}
	})
	m.done.Go(func() {
		for p.receive(-1) == nil {
			m.answered(time.Now())
		}
	})
	return m, nil
}

func (m *Meter) answered(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if long := now.Sub(m.last); long > longestBreath {
		m.gaps = append(m.gaps, gap{m.last, long})
	}
	m.last = now
}

// Longest is the longest time without an answer that began after since, or goes on.
func (m *Meter) Longest(since time.Time) (long time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.gaps {
		if end := g.from.Add(g.long); end.After(since) {
			long = max(long, g.long)
		}
	}
	return max(long, time.Since(m.last))
}

// Close ends it.
func (m *Meter) Close() {
	m.cancel()
	m.p.Close()
	m.done.Wait()
}
