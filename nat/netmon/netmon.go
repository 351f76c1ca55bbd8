// Package netmon notices that the host's network changed: addresses, links and routes come and go, or the machine slept, or the program itself
// was stopped for long, as by SIGSTOP, a debugger or a virtual machine's pause, which is the same to those that wait for it. A Monitor is a task
// that calls OnEvent once things have settled for a moment. The system announces more than matters, such as an address that has passed
// its duplicate detection; what counts is whether addresses and routes differ afterwards.
package netmon

import (
	"context"
	"log/slog"
	"time"
)

// Event says what happened, in words for a log.
type Event struct {
	// Woke says that the machine slept or the program was stopped: every NAT mapping and connection may be gone.
	Woke bool
	// Changed says that addresses, links or routes changed.
	Changed bool
}

// String is for logs.
func (e Event) String() string {
	switch {
	case e.Woke:
		return "woke from sleep or a stop"
	case e.Changed:
		return "addresses, links or routes changed"
	}
	return "nothing"
}

const (
	// settle is how long the system must be quiet: one change of network is a burst of messages.
	settle = 100 * time.Millisecond
	// longestSettle bounds that when messages never cease.
	longestSettle = time.Second
	// sleepCheck is how often the clocks are compared, and sleepGap what counts as sleep. A comparison that comes later than due by sleepGap
	// tells that the program was stopped: both clocks go on then.
	sleepCheck = 2 * time.Second
	sleepGap   = 3 * time.Second
)

// Config is what a Monitor is made with.
type Config struct {
	Log *slog.Logger
	// Ignore is the tunnel's own interface.
	Ignore string
	// OnEvent is called from Run.
	OnEvent func(Event)
}

// source delivers a word for each change that counts, until ctx ends.
type source func(ctx context.Context, ignore string, changed chan<- struct{}) error

// Monitor is the task.
type Monitor struct {
	cfg    Config
	source source
	// look describes the network as far as it matters.
	look func(ignore string) string
	// asleep is how long the machine has slept since it was started.
	asleep func() time.Duration
	// ticks delivers a word every so often, until ctx ends. Where the system can, the time that the machine sleeps counts too, so that a word
	// is there as soon as it wakes.
	ticks func(ctx context.Context, every time.Duration, tick chan<- struct{})
}

// New makes a Monitor.
func New(cfg Config) *Monitor {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Monitor{cfg: cfg, source: watch, look: look, asleep: asleep, ticks: ticks}
}

// Run watches until ctx ends. A source that fails is opened again, and the network then counts as changed.
func (m *Monitor) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	go m.keepWatching(ctx, changed)
	tick := make(chan struct{}, 1)
	go m.ticks(ctx, sleepCheck, tick)
	slept, known, ticked := m.asleep(), m.look(m.cfg.Ignore), time.Now()
	var quiet <-chan time.Time
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			now := time.Now()
			if quiet == nil {
				since = now
			}
			quiet = time.After(min(settle, max(0, longestSettle-now.Sub(since))))
		case <-quiet:
			quiet = nil
			now := m.look(m.cfg.Ignore)
			if now == known {
				continue
			}
			known = now
			m.cfg.OnEvent(Event{Changed: true})
		case <-tick:
			asleep, now := m.asleep(), time.Now()
			if asleep-slept > sleepGap || now.Sub(ticked) > sleepCheck+sleepGap {
				m.cfg.OnEvent(Event{Woke: true})
				slept = asleep
			}
			slept, ticked = max(slept, asleep), time.Now() // what OnEvent takes is no sleep
		}
	}
}

// reopen is how long to wait before a failed source is opened again.
const reopen = time.Second

func (m *Monitor) keepWatching(ctx context.Context, changed chan<- struct{}) {
	for ctx.Err() == nil {
		err := m.source(ctx, m.cfg.Ignore, changed)
		if ctx.Err() != nil {
			return
		}
		m.cfg.Log.Warn("the network monitor starts again", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(reopen):
		}
		notify(changed)
	}
}

// notify leaves a word without waiting: one is as good as many.
func notify(changed chan<- struct{}) {
	select {
	case changed <- struct{}{}:
	default:
	}
}

// tickMonotonic is ticks by the clock that stands still while the machine sleeps.
func tickMonotonic(ctx context.Context, every time.Duration, tick chan<- struct{}) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			notify(tick)
		}
	}
}
