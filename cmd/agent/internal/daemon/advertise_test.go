package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/coord/client"
	"warren/internal/broadcast"
	"warren/proto/cidr"
)

// board is a coordinator that keeps what it is told, as text, with an advertiser that runs against it.
type board struct {
	*advertiser
	t       *testing.T
	changes broadcast.Broadcast
	up      bool
	routes  []cidrRoute
	rank    uint8
	parse   error // of wanted
	carries bool
	answer  error
	told    []string
	wakes   int
	passes  atomic.Int32 // of time: the race detector does not know that what is written before is read after
}

// runBoard does what it is given while an advertiser runs, in fake time.
func runBoard(t *testing.T, do func(*board)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &board{t: t, up: true, rank: 100}
		b.advertiser = &advertiser{
			tell: func(_ context.Context, routes []cidrRoute, rank uint8) error {
				b.passes.Load()
				b.told = append(b.told, fmt.Sprint(routes, " ", rank))
				return b.answer
			},
			connected: func() bool { return b.up }, changed: b.changes.Next, told: func() { b.wakes++ },
			wanted:  func() ([]cidrRoute, uint8, error) { return slices.Clone(b.routes), b.rank, b.parse },
			carried: func() bool { return b.carries },
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.run(ctx) }()
		synctest.Wait()
		do(b)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// wants changes what the settings say.
func (b *board) wants(texts ...string) {
	b.routes = nil
	for _, p := range prefixes(texts...) {
		b.routes = append(b.routes, cidrRoute{Kind: cidr.Site, Prefix: p, LAN: p})
	}
	b.wake()
}

func (b *board) connect(up bool) {
	b.up = up
	b.wake()
}

func (b *board) wake() {
	b.changes.Wake()
	synctest.Wait()
}

// pass lets time pass.
func (b *board) pass(d time.Duration) {
	b.passes.Add(1)
	<-time.After(d)
	synctest.Wait()
}

// check compares what the coordinator was told since the last time.
func (b *board) check(want ...string) {
	b.t.Helper()
	if diff := cmp.Diff(want, b.told); diff != "" {
		b.t.Errorf("told (-want +got):\n%s", diff)
	}
	b.told = nil
}

func TestAdvertiseOnce(t *testing.T) {
	runBoard(t, func(b *board) {
		b.check() // a device that never advertised tells nothing
		b.wants("10.1.0.0/16")
		b.check("[10.1.0.0/16] 100")
		if b.wakes != 1 {
			t.Errorf("%d were told of the answer", b.wakes)
		}
		b.wake()
		b.pass(time.Hour)
		b.check()
		b.rank = 200
		b.wake()
		b.check("[10.1.0.0/16] 200")
		b.wants("10.1.0.0/16", "10.2.0.0/16")
		b.check("[10.1.0.0/16 10.2.0.0/16] 200")
		b.wants()
		b.check("[] 200")
		b.wake()
		b.check()
	})
}

// TestAdvertiseReconnect: the coordinator may be another one, or an older one, whenever it comes back.
func TestAdvertiseReconnect(t *testing.T) {
	runBoard(t, func(b *board) {
		b.wants("10.1.0.0/16")
		b.check("[10.1.0.0/16] 100")
		b.connect(false)
		b.wants("10.2.0.0/16") // while it is away
		b.check()
		b.connect(true)
		b.check("[10.2.0.0/16] 100")
		b.connect(false)
		b.connect(true)
		b.check("[10.2.0.0/16] 100")
		b.connect(false)
		b.wants()
		b.carries = true // it still believes something of this device
		b.connect(true)
		b.check("[] 100")
		b.connect(false)
		b.carries = false
		b.connect(true)
		b.check()
	})
}

func TestAdvertiseRefused(t *testing.T) {
	for name, answer := range map[string]error{"refused": client.ErrRefused, "old coordinator": client.ErrOldCoordinator} {
		t.Run(name, func(t *testing.T) {
			runBoard(t, func(b *board) {
				b.answer = fmt.Errorf("%w: for a reason", answer)
				b.wants("10.1.0.0/16")
				b.check("[10.1.0.0/16] 100")
				if err := b.problem(); !errors.Is(err, answer) || b.wakes != 1 {
					t.Errorf("problem %v, %d were told", err, b.wakes)
				}
				b.wake()
				b.pass(time.Hour)
				b.check() // not again by the same connection
				b.connect(false)
				if err := b.problem(); err != nil {
					t.Errorf("nobody is there to refuse, but: %v", err)
				}
				b.connect(true)
				b.check("[10.1.0.0/16] 100")
				b.answer = nil
				b.wants("10.2.0.0/16")
				b.check("[10.2.0.0/16] 100")
				if err := b.problem(); err != nil {
					t.Errorf("%v, after it was accepted", err)
				}
			})
		})
	}
}

// TestAdvertiseRefusedAway: what was refused is no problem any more once nobody wants it.
func TestAdvertiseRefusedAway(t *testing.T) {
	runBoard(t, func(b *board) {
		b.answer = client.ErrRefused
		b.wants("10.1.0.0/16")
		b.connect(false)
		b.wants()
		b.connect(true)
		b.check("[10.1.0.0/16] 100")
		if err := b.problem(); err != nil {
			t.Errorf("problem %v", err)
		}
	})
}

// TestAdvertiseAgain: an attempt that came to nothing is repeated in its time, however much else changes.
func TestAdvertiseAgain(t *testing.T) {
	runBoard(t, func(b *board) {
		b.answer = client.ErrUnreachable
		b.wants("10.1.0.0/16")
		for range 20 {
			b.wake()
		}
		b.check("[10.1.0.0/16] 100")
		if b.problem() != nil || b.wakes != 0 {
			t.Errorf("nobody has answered: problem %v, %d were told", b.problem(), b.wakes)
		}
		b.pass(advertiseAgain)
		b.check("[10.1.0.0/16] 100")
		b.answer = nil
		b.pass(advertiseAgain)
		b.check("[10.1.0.0/16] 100")
		b.pass(time.Hour)
		b.check()
		b.answer = client.ErrUnreachable
		b.wants("10.2.0.0/16")
		b.connect(false)
		b.answer = nil
		b.connect(true) // a new connection need not wait
		b.check("[10.2.0.0/16] 100", "[10.2.0.0/16] 100")
	})
}

// TestAdvertiseNonsense: what cannot be carried is not told.
func TestAdvertiseNonsense(t *testing.T) {
	runBoard(t, func(b *board) {
		b.parse = errors.New("overlaps the network")
		b.wants("100.64.0.0/16")
		b.pass(time.Hour)
		b.check()
		if err := b.attempt(t.Context()); err != nil {
			t.Error(err)
		}
		b.check()
	})
}

// TestAdvertiseKept: what was told is compared with what is wanted by value.
func TestAdvertiseKept(t *testing.T) {
	runBoard(t, func(b *board) {
		b.wants("10.1.0.0/16")
		b.routes[0].LAN = netip.MustParsePrefix("192.168.0.0/16")
		b.wake()
		b.check("[10.1.0.0/16] 100", "[10.1.0.0/16] 100")
	})
}
