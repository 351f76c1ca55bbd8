package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"warren/coord/domain"
	"warren/coord/policy"
	"warren/coord/store"
)

// Bounds on what a person says of a policy.
const (
	maxReason        = 500 // bytes
	MinConfirmWithin = 10 * time.Second
	MaxConfirmWithin = 7 * 24 * time.Hour
)

// ownName is the author of what the coordinator does to the policy by itself.
const ownName = "warren-coordinator"

// errPolicy is wrapped by refusals of a change of the policy for what stands in the database, not for what the document says.
var errPolicy = errors.New("policy")

// FirstPolicy says which policy Open wrote, because the network had none.
type FirstPolicy int

// What Open can have written.
const (
	// NoFirstPolicy: there was one.
	NoFirstPolicy FirstPolicy = iota
	// StarterPolicy is of a new network: devices of one user reach each other.
	StarterPolicy
	// BuiltInPolicy is of a network that was made before there were policies: all devices reach each other, as they did.
	BuiltInPolicy
)

// writeFirstPolicy gives a network without a policy one.
func (s *Server) writeFirstPolicy(tx store.Tx) error {
	all, err := tx.Policies()
	if err != nil || len(all) > 0 {
		return err
	}
	p := &store.Policy{Author: ownName, At: s.cfg.Now(), State: store.PolicyActive}
	if s.firstStart {
		var owners []string
		if s.cfg.Owner != "" {
			owners = append(owners, s.cfg.Owner)
		}
		s.firstPolicy, p.Text, p.Reason = StarterPolicy, policy.Starter(s.network.Prefixes, owners...), "the starter policy"
	} else {
		s.firstPolicy, p.Text, p.Reason = BuiltInPolicy, policy.BuiltIn(), "what was allowed before this network had a policy"
	}
	return tx.AddPolicy(p)
}

// FirstPolicy says whether Open wrote a policy, and which.
func (s *Server) FirstPolicy() FirstPolicy { return s.firstPolicy }

// Policy gives the document in force.
func (s *Server) Policy(ctx context.Context) (p *store.Policy, err error) {
	err = s.store.View(ctx, func(tx store.Tx) error {
		p, _, err = store.InForce(tx)
		return err
	})
	return p, err
}

// loadPolicy gives the policy that was in force when the coordinator stopped, and the time up to which its windows were opened and closed. What
// has become due since is done as while it runs, so that devices learn of it.
func (s *Server) loadPolicy(ctx context.Context) (p *policy.Policy, confirmBy, at time.Time, err error) {
	var current *store.Policy
	err = s.store.View(ctx, func(tx store.Tx) (err error) {
		if current, _, err = store.InForce(tx); err != nil {
			return err
		}
		at = s.cfg.Now()
		nano, err := store.MetaNumber(tx, metaPolicyAt)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		at = time.Unix(0, int64(nano))
		return err
	})
	if err != nil {
		return nil, confirmBy, at, err
	}
	if p, err = policy.Parse(current.Text); err != nil {
		err = fmt.Errorf("policy %d in the database: %w; install the version that wrote it, set a policy that this version understands, and come back",
			current.Number, err)
	}
	return p, current.ConfirmBy, at, err
}

func (s *Server) logRollback(from, to *store.Policy) {
	s.log.Warn("policy rolled back: nobody confirmed it", "policy", from.Number, "author", from.Author, "confirm_by", from.ConfirmBy, "in_force", to.Number)
}

// PolicyWish is a document that somebody wants to be in force.
type PolicyWish struct {
	Text           []byte
	Author, Reason string
	// ConfirmWithin, unless 0, is after what time it is rolled back if nobody confirms it.
	ConfirmWithin time.Duration
	// Force also sets one that locks the coordinator's host out.
	Force bool
}

func (w *PolicyWish) check() error {
	if domain.Clip(w.Reason) != w.Reason && len(w.Reason) <= maxReason || len(w.Reason) > maxReason {
		return fmt.Errorf("%w: a reason has at most %d bytes and no control characters", errForm, maxReason)
	}
	if w.ConfirmWithin != 0 && (w.ConfirmWithin < MinConfirmWithin || w.ConfirmWithin > MaxConfirmWithin) {
		return fmt.Errorf("%w: a policy can be confirmed within %s to %s, not %s", errForm, MinConfirmWithin, MaxConfirmWithin, w.ConfirmWithin)
	}
	return nil
}

// SetPolicy puts a document into force, unless something speaks against it: then the error is a *Refused, which says what.
func (s *Server) SetPolicy(ctx context.Context, w PolicyWish) (set *store.Policy, r *Report, err error) {
	if err := w.check(); err != nil {
		return nil, nil, err
	}
	p, r, err := s.examine(ctx, w.Text)
	if err != nil {
		return nil, nil, err
	}
	if why := r.against(w.Force); why != "" {
		return nil, r, &Refused{why, r}
	}
	now := s.cfg.Now()
	next := &store.Policy{Text: w.Text, Author: w.Author, Reason: w.Reason, At: now, State: store.PolicyActive}
	if w.ConfirmWithin > 0 {
		next.State, next.ConfirmBy = store.PolicyPending, now.Add(w.ConfirmWithin)
	}
	err = s.commit(ctx, func(b *batch) error {
		current, active, err := store.InForce(b.tx)
		switch {
		case err != nil:
			return err
		case bytes.Equal(current.Text, w.Text):
			set = current
			return nil
		case current.State == store.PolicyPending:
			return errPending(current)
		}
		if next.State == store.PolicyActive {
			if err := b.tx.MarkPolicy(active.Number, store.PolicyReplaced, time.Time{}); err != nil {
				return err
			}
		}
		set = next
		b.policy, b.confirmBy = p, next.ConfirmBy
		return b.tx.AddPolicy(next)
	})
	if err != nil {
		return nil, r, err
	}
	r.Unchanged = set != next
	if !r.Unchanged {
		s.log.Info("policy set", "policy", set.Number, "author", w.Author, "reason", w.Reason, "confirm_by", set.ConfirmBy)
	}
	return set, r, nil
}

func errPending(p *store.Policy) error {
	return fmt.Errorf("%w %d waits until %s to be confirmed; run \"policy confirm\" or \"policy rollback\" first",
		errPolicy, p.Number, p.ConfirmBy.UTC().Format(time.RFC3339))
}

// ConfirmPolicy makes the pending document stay in force.
func (s *Server) ConfirmPolicy(ctx context.Context, author string) (confirmed *store.Policy, err error) {
	err = s.commit(ctx, func(b *batch) error {
		current, active, err := store.InForce(b.tx)
		if err != nil {
			return err
		}
		if current.State != store.PolicyPending {
			return fmt.Errorf("%w %d is in force, and nothing waits to be confirmed; \"policy history\" tells what became of others", errPolicy, current.Number)
		}
		confirmed = current
		confirmed.State, confirmed.ConfirmBy = store.PolicyActive, time.Time{}
		b.confirmed = true
		return errors.Join(
			b.tx.MarkPolicy(active.Number, store.PolicyReplaced, time.Time{}),
			b.tx.MarkPolicy(current.Number, store.PolicyActive, time.Time{}))
	})
	if err == nil {
		s.log.Info("policy confirmed", "policy", confirmed.Number, "by", author)
	}
	return confirmed, err
}

// rollBackPending puts the active document back into force. With onlyDue it does so only if nobody confirmed the pending one in time.
func (s *Server) rollBackPending(ctx context.Context, onlyDue bool) (from, to *store.Policy, err error) {
	err = s.commit(ctx, func(b *batch) error {
		current, active, err := store.InForce(b.tx)
		if err != nil {
			return err
		}
		if current.State != store.PolicyPending || onlyDue && s.cfg.Now().Before(current.ConfirmBy) {
			return nil
		}
		p, err := policy.Parse(active.Text)
		if err != nil {
			return fmt.Errorf("policy %d: %w", active.Number, err)
		}
		from, to = current, active
		b.policy = p
		return b.tx.MarkPolicy(current.Number, store.PolicyRolledBack, time.Time{})
	})
	return from, to, err
}

// RollBackPolicy takes the pending document back; or else puts an earlier one into force under a new number, by default the one before.
func (s *Server) RollBackPolicy(ctx context.Context, number uint64, w PolicyWish) (now *store.Policy, from uint64, err error) {
	if number == 0 {
		was, active, err := s.rollBackPending(ctx, false)
		if err != nil {
			return nil, 0, err
		}
		if was != nil {
			s.log.Info("policy taken back", "policy", was.Number, "by", w.Author, "in_force", active.Number)
			return active, was.Number, nil
		}
	}
	earlier, err := s.earlier(ctx, number)
	if err != nil {
		return nil, 0, err
	}
	w.Text = earlier.Text
	if w.Reason == "" {
		w.Reason = fmt.Sprintf("back to policy %d", earlier.Number)
	}
	now, _, err = s.SetPolicy(ctx, w)
	return now, earlier.Number, err
}

// earlier finds a document of the history; 0 asks for the one that the one in force replaced.
func (s *Server) earlier(ctx context.Context, number uint64) (p *store.Policy, err error) {
	err = s.store.View(ctx, func(tx store.Tx) error {
		if number != 0 {
			p, err = tx.Policy(number)
			if errors.Is(err, store.ErrNotFound) {
				err = errNoPolicy(number)
			}
			return err
		}
		all, err := tx.Policies()
		if err != nil {
			return err
		}
		for _, old := range slices.Backward(all) {
			if old.State == store.PolicyReplaced {
				p, err = tx.Policy(old.Number)
				return err
			}
		}
		return fmt.Errorf("%w: the one in force is the first one of this network; there is nothing to go back to", errPolicy)
	})
	return p, err
}

func errNoPolicy(number uint64) error {
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no policy %d; \"policy history\" shows them", number))
}

// tendPolicy rolls back what nobody confirmed, and opens and closes time windows. It tells when something is due next; zero: nothing is.
func (s *Server) tendPolicy(ctx context.Context) (next time.Time, err error) {
	now := s.cfg.Now()
	confirmBy, window := s.hub.policyDue()
	if !confirmBy.IsZero() && !now.Before(confirmBy) {
		from, to, err := s.rollBackPending(ctx, true)
		if err != nil {
			return now, err
		}
		if from != nil {
			s.logRollback(from, to)
		}
	}
	if !window.IsZero() && !now.Before(window) {
		if err := s.commit(ctx, func(b *batch) error { b.advance = true; return nil }); err != nil {
			return now, err
		}
	}
	confirmBy, window = s.hub.policyDue()
	return earliest(confirmBy, window), nil
}

// earliest gives the earlier time, of those that are set.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
