package daemon

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"warren/coord/client"
)

// advertiser tells the coordinator what this device offers to carry, whenever that has changed and on each new connection, since the coordinator may
// have been restored from a backup. What it refuses is not repeated on the same connection.
type advertiser struct {
	tell func(context.Context, []cidrRoute, uint8) error
	// connected reports whether the coordinator is there; changed is closed when that, or anything of what follows, may be otherwise.
	connected func() bool
	changed   func() <-chan struct{}
	// wanted is what the settings say, carried whether the coordinator believes anything of this device.
	wanted  func() ([]cidrRoute, uint8, error)
	carried func() bool
	// told is called when the coordinator has answered.
	told func()

	mu      sync.Mutex
	last    []cidrRoute // what the coordinator has been told, with which rank
	rank    uint8
	known   bool
	refused error
}

// advertiseAgain is how long to wait after an attempt that came to nothing.
const advertiseAgain = 2 * time.Second

func (a *advertiser) run(ctx context.Context) error {
	var again <-chan time.Time // not nil while an attempt that came to nothing is not long ago
	for ctx.Err() == nil {
		changed := a.changed()
		if !a.connected() {
			a.forget()
			again = nil
		} else if again == nil && !a.settled() && a.attempt(ctx) != nil {
			again = time.After(advertiseAgain)
		}
		select {
		case <-ctx.Done():
		case <-changed: // by much that does not matter here
		case <-again:
			again = nil
		}
	}
	return nil
}

func (a *advertiser) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known, a.refused = false, nil
}

// settled reports whether the coordinator has answered to what is wanted, or there is nothing to tell.
func (a *advertiser) settled() bool {
	routes, rank, err := a.wanted()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
		return true
	case a.known:
		return slices.Equal(routes, a.last) && rank == a.rank
	}
	return len(routes) == 0 && !a.carried()
}

func (a *advertiser) attempt(ctx context.Context) error {
	routes, rank, err := a.wanted()
	if err != nil {
		return nil // told as a warning by networks
	}
	err = a.tell(ctx, routes, rank)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refused = nil
	final := errors.Is(err, client.ErrRefused) || errors.Is(err, client.ErrOldCoordinator)
	if final {
		a.refused = err
	}
	if err == nil || final {
		a.last, a.rank, a.known = routes, rank, true
		a.told()
		return nil
	}
	return err
}

// problem is why the coordinator does not have what is advertised, if it said so.
func (a *advertiser) problem() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused
}

// newAdvertiser makes that of a session.
func newAdvertiser(s *session) *advertiser {
	return &advertiser{
		tell: s.client.Advertise, connected: func() bool { return s.control.Load().Connected }, changed: s.changed.Next, told: s.changed.Wake,
		wanted: func() ([]cidrRoute, uint8, error) {
			r := s.networks.settings()
			routes, err := r.Routes(nil)
			return routes, r.Rank(), err
		},
		carried: func() bool {
			m := s.known.Load().m
			return m != nil && (m.Self != nil && len(m.Self.Routes) > 0 || len(m.Statement.Waiting) > 0)
		},
	}
}
