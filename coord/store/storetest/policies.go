package storetest

import (
	"errors"
	"time"

	"warren/coord/store"
)

func (s *suite) addPolicy(p store.Policy) *store.Policy {
	s.Helper()
	s.update(func(tx store.Tx) error { return tx.AddPolicy(&p) })
	return &p
}

func policies(s *suite) {
	now := time.Unix(1_800_000_000, 9).UTC()
	history := func(want ...*store.Policy) {
		s.Helper()
		s.view(func(tx store.Tx) error {
			got, err := tx.Policies()
			var texts []*store.Policy
			for _, p := range want {
				one, err := tx.Policy(p.Number)
				if err != nil {
					return err
				}
				same(s, "a document", one, p)
				without := *p
				without.Text = nil
				texts = append(texts, &without)
			}
			same(s, "the history", got, texts)
			return err
		})
	}
	history()
	s.view(func(tx store.Tx) error {
		_, err := tx.Policy(1)
		missing(s, "a number that was never given", err)
		return nil
	})
	first := s.addPolicy(store.Policy{Text: []byte("{\x00}\xff"), Author: "ann", Reason: "first", At: now, State: store.PolicyActive})
	second := s.addPolicy(store.Policy{Text: []byte("{}"), Author: "bob", At: now.Add(1), State: store.PolicyPending, ConfirmBy: now.Add(time.Minute)})
	if first.Number != 1 || second.Number != 2 {
		s.Errorf("numbers %d, %d", first.Number, second.Number)
	}
	history(first, second)
	for _, state := range []store.PolicyState{store.PolicyActive, store.PolicyPending} {
		if err := s.st.Update(s.Context(), func(tx store.Tx) error { return tx.AddPolicy(&store.Policy{Text: []byte("{}"), State: state}) }); err == nil {
			s.Errorf("two policies are %s", state)
		}
	}
	if err := s.st.Update(s.Context(), func(tx store.Tx) error { return tx.MarkPolicy(1, store.PolicyPending, now) }); err == nil {
		s.Error("two policies are pending")
	}
	history(first, second)
	s.update(func(tx store.Tx) error {
		return errors.Join(
			tx.MarkPolicy(1, store.PolicyReplaced, time.Time{}),
			tx.MarkPolicy(2, store.PolicyActive, time.Time{}))
	})
	first.State, second.State, second.ConfirmBy = store.PolicyReplaced, store.PolicyActive, time.Time{}
	third := s.addPolicy(store.Policy{Text: []byte("3"), State: store.PolicyRolledBack, At: now})
	history(first, second, third)
	err := s.st.Update(s.Context(), func(tx store.Tx) error { return tx.MarkPolicy(9, store.PolicyReplaced, time.Time{}) })
	missing(s, "marking what is not there", err)
	// Documents in numbers and sizes that a busy network comes to.
	big := s.addPolicy(store.Policy{Text: make([]byte, 4<<20), State: store.PolicyReplaced, At: now})
	history(first, second, third, big)
}
