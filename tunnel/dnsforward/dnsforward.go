// Package dnsforward answers the questions for names of those who use this device as their exit node: it listens on the device's own addresses in
// the network, and asks the resolvers that the host itself uses. New makes a Forwarder, Set says where it listens, Run serves until its context
// ends.
//
// It is no resolver and has no cache: a question goes to a resolver of the host as it came, under an identifier and from a port that are random,
// and the answer goes back as it came. What a client can make it do is bounded: how many questions wait, of all and of each, how long they do,
// how long they are, and what an answer that does not fit into the client's datagram becomes (RFC 1035, section 4.2.1: it asks again by TCP).
package dnsforward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Port is where a forwarder listens.
const Port = 53

// Config is what a Forwarder is made with.
type Config struct {
	// Control is called for each socket that clients send to, before it is bound. Nil does nothing.
	Control func(network, address string, c syscall.RawConn) error
	// Dial connects to a resolver of the host: udp or tcp.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolvers are those of the host, best first.
	Resolvers func() []netip.AddrPort
	// Allowed says who is answered; others are refused.
	Allowed func(netip.Addr) bool
	Log     *slog.Logger

	port     uint16        // 0: Port
	patience time.Duration // 0: tryTimeout
	limits   limits        // zero: defaultLimits
	retry    time.Duration // 0: retryPause
}

// Bounds.
const (
	// tryTimeout is how long one resolver has. With maxTries it stays below the five seconds after which usual clients ask again.
	tryTimeout = 1500 * time.Millisecond
	maxTries   = 3
	// maxQuestion is in bytes: a question is a name of 255 at most, and options.
	maxQuestion = 4096
	// idleTimeout is how long a TCP connection waits for a question (RFC 7766, section 6.2.3, asks for some seconds).
	idleTimeout = 10 * time.Second
	// retryPause is how long an address that another program has taken is left to it.
	retryPause = 5 * time.Second
)

// Stats are counts since the start. A question is in one of them once it is done with.
type Stats struct {
	// Answered by a resolver, Refused because the client may not ask or asks for what is not forwarded, Failed without an answer, Malformed, and
	// Dropped because too many waited.
	Answered, Refused, Failed, Malformed, Dropped uint64
}

// Forwarder forwards questions.
type Forwarder struct {
	cfg     Config
	log     *slog.Logger
	limiter *limiter
	wake    chan struct{}

	mu      sync.Mutex
	want    []netip.Addr
	problem error
	stats   Stats
}

// New makes a Forwarder that listens nowhere yet.
func New(cfg Config) *Forwarder {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.port == 0 {
		cfg.port = Port
	}
	if cfg.patience == 0 {
		cfg.patience = tryTimeout
	}
	if cfg.retry == 0 {
		cfg.retry = retryPause
	}
	if cfg.limits == (limits{}) {
		cfg.limits = defaultLimits
	}
	return &Forwarder{cfg: cfg, log: cfg.Log, limiter: newLimiter(cfg.limits), wake: make(chan struct{}, 1)}
}

// Set has it listen at these addresses and no others, soon.
func (f *Forwarder) Set(addrs []netip.Addr) {
	f.mu.Lock()
	same := slices.Equal(f.want, addrs)
	f.want = slices.Clone(addrs)
	f.mu.Unlock()
	if same {
		return
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Problem is why it does not listen everywhere that it was told to, or nil.
func (f *Forwarder) Problem() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.problem
}

// Stats gives the counts.
func (f *Forwarder) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

func (f *Forwarder) count(of func(*Stats) *uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*of(&f.stats)++
}

// Run serves until ctx ends. An address that cannot be taken is tried again.
func (f *Forwarder) Run(ctx context.Context) error {
	open := map[netip.Addr]*listener{}
	defer func() {
		for _, l := range open {
			l.close()
		}
	}()
	retry := time.NewTicker(f.cfg.retry)
	defer retry.Stop()
	for {
		f.listen(ctx, open)
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		case <-retry.C:
		}
	}
}

// listen brings what is open into line with what is wanted.
func (f *Forwarder) listen(ctx context.Context, open map[netip.Addr]*listener) {
	f.mu.Lock()
	want := f.want
	f.mu.Unlock()
	for a, l := range open {
		if !slices.Contains(want, a) {
			l.close()
			delete(open, a)
		}
	}
	var errs []error
	for _, a := range want {
		if open[a] != nil {
			continue
		}
		l, err := f.open(ctx, a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		open[a] = l
		f.log.Info("answering questions for names", "at", a)
	}
	problem := errors.Join(errs...)
	f.mu.Lock()
	before := f.problem
	f.problem = problem
	f.mu.Unlock()
	if problem != nil && (before == nil || before.Error() != problem.Error()) {
		f.log.Warn("users of this exit node get no names resolved", "err", problem)
	}
}

// explain says what a person can do.
func explain(a netip.AddrPort, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("DNS forwarder: another program has taken %s; have it listen at other addresses, by name instead of at all", a)
	}
	return fmt.Errorf("DNS forwarder: %w", err)
}
