package server

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"warren/coord/domain"
	"warren/coord/store"
	"warren/proto/key"
)

const (
	// longestWait bounds how long a set clock can delay an expiry.
	longestWait = time.Minute
	// saveEvery is how much of when devices were last seen a crash can lose.
	saveEvery = 10 * time.Second
	// pruneEvery is how often what is too old to matter is forgotten.
	pruneEvery = 6 * time.Hour
	// pruneAfter is after how many lives of a map a tombstone is forgotten: by then no map and no relay ticket that knew the device is good.
	pruneAfter = 3
)

// Run does what happens by itself: devices expire, ephemeral ones that are away are removed, time windows of the policy open and close, a policy
// that nobody confirms is rolled back, what is old is forgotten.
func (s *Server) Run(ctx context.Context) error {
	s.commitMu.Lock()
	s.hub.announce()
	s.commitMu.Unlock()
	save, prune := time.NewTicker(saveEvery), time.NewTicker(pruneEvery)
	defer save.Stop()
	defer prune.Stop()
	for {
		changed := s.hub.changed.Next()
		wait := min(s.sweepNow(ctx), s.tendNow(ctx))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-changed:
		case <-timer.C:
		case <-save.C:
			s.report(ctx, "saving when devices were seen", s.saveSightings(ctx))
		case <-prune.C:
			s.report(ctx, "forgetting old tombstones", s.prune(ctx))
		}
		timer.Stop()
	}
}

// report logs the failure of something that is tried again later.
func (s *Server) report(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil {
		s.metrics.failures.Inc()
		s.log.Error(what+" failed; it is tried again", "err", err)
	}
}

// sweepNow sweeps, and tells how long until it is to be done again.
func (s *Server) sweepNow(ctx context.Context) time.Duration {
	next, err := s.sweep(ctx)
	return s.wait(ctx, "expiry of devices", next, err)
}

// tendNow does the same for the policy.
func (s *Server) tendNow(ctx context.Context) time.Duration {
	next, err := s.tendPolicy(ctx)
	return s.wait(ctx, "tending the policy", next, err)
}

// wait tells how long until something is to be done again that is due next, or failed.
func (s *Server) wait(ctx context.Context, what string, next time.Time, err error) time.Duration {
	s.report(ctx, what, err)
	switch {
	case err != nil:
		return time.Second
	case next.IsZero():
		return longestWait
	}
	return max(min(longestWait, next.Sub(s.cfg.Now())), 0)
}

// sweep expires and removes what is due, and tells when something is due next.
func (s *Server) sweep(ctx context.Context) (next time.Time, err error) {
	now := s.cfg.Now()
	due, next := s.hub.due(now, s.cfg.EphemeralAfter)
	if len(due) == 0 {
		return next, nil
	}
	return next, s.commit(ctx, func(b *batch) error {
		for _, k := range due {
			d, err := b.device(k)
			if err != nil {
				return err
			}
			if d == nil {
				continue
			}
			if err := b.end(d, now); err != nil {
				return err
			}
		}
		return nil
	})
}

// end does with d what is due now, which may be nothing any more.
func (b *batch) end(d *domain.Device, now time.Time) error {
	s := b.s
	if !d.Removed && s.hub.abandoned(d.Key, now, s.cfg.EphemeralAfter) {
		removed, err := domain.Remove(&s.network, d, now)
		if err != nil {
			return err
		}
		s.log.Info("ephemeral device removed", "device", d.Name)
		return b.put(removed)
	}
	next := domain.Lapse(&s.network, d, now)
	if next == d {
		return nil
	}
	s.log.Info("device expired", "device", d.Name)
	return b.put(next)
}

// saveSightings stores when devices were last seen.
func (s *Server) saveSightings(ctx context.Context) error {
	all, undo := s.hub.takeSightings()
	if len(all) == 0 {
		return nil
	}
	err := s.store.Update(ctx, func(tx store.Tx) error {
		for raw, seen := range all {
			k, err := key.DevicePublicFromBytes(raw[:])
			if err != nil {
				return err
			}
			if err := tx.Seen(k, seen); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		undo()
	}
	return err
}

func (s *Server) prune(ctx context.Context) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	before := s.cfg.Now().Add(-pruneAfter * s.cfg.MapMaxAge)
	var gone []key.DevicePublic
	err := s.store.Update(ctx, func(tx store.Tx) (err error) {
		gone, err = tx.Prune(before)
		return err
	})
	if err == nil {
		s.hub.forget(gone)
	}
	return err
}

// Restored is what AfterRestore did.
type Restored struct {
	// Generation is that of all records now.
	Generation uint64
	// Devices counts the members.
	Devices int
	// Revoked counts the join tokens for one device that were open: whether one was used after the backup was made, nobody knows any more.
	Revoked int
}

// AfterRestore is for when a backup was put back: all records get versions above any that the lost state may have given, and maps a new epoch. The
// generation is the time, in Unix seconds, so that one backup may be restored twice; in any case it is above the one given, which the lost state is
// known to have had. It is called between Open and serving.
func (s *Server) AfterRestore(ctx context.Context, above uint64) (done Restored, err error) {
	n := s.network
	n.Generation = max(n.Generation+1, above+1, uint64(max(s.cfg.Now().Unix(), 0)))
	n.Epoch = newEpoch()
	err = s.commit(ctx, func(b *batch) error {
		done = Restored{Generation: n.Generation}
		if err := store.WriteNetwork(b.tx, n, s.Authority()); err != nil {
			return err
		}
		all, err := b.tx.Devices()
		if err != nil {
			return err
		}
		for _, d := range all {
			if !d.Removed {
				done.Devices++
			}
			if err := b.put(domain.Restore(&n, &d.Device)); err != nil {
				return err
			}
		}
		done.Revoked, err = revokeOpen(b.tx, s.cfg.Now())
		return err
	})
	if err != nil {
		return done, fmt.Errorf("raising the generation: %w", err)
	}
	s.network = n
	s.log.Info("generation raised", "generation", n.Generation)
	return done, nil
}

// revokeOpen revokes the tokens for one device that could still be used.
func revokeOpen(tx store.Tx, now time.Time) (n int, err error) {
	all, err := tx.Tokens()
	if err != nil {
		return 0, err
	}
	for _, t := range all {
		if t.Reusable || t.Uses > 0 || t.Revoked || !now.Before(t.ExpiresAt) {
			continue
		}
		t.Revoked = true
		if err := tx.PutToken(t); err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// newEpoch draws an epoch: never 0, which means none.
func newEpoch() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])>>1 | 1
}
