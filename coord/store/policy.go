package store

import "errors"

// InForce finds the policy that counts: the pending one, or else the active one. active is that to which a pending one is rolled back.
func InForce(tx Tx) (current, active *Policy, err error) {
	all, err := tx.Policies()
	if err != nil {
		return nil, nil, err
	}
	for _, p := range all {
		switch p.State {
		case PolicyPending:
			current = p
		case PolicyActive:
			active = p
		default:
		}
	}
	if active == nil {
		return nil, nil, errors.New("database: no policy is active")
	}
	if current == nil {
		current = active
	}
	if current, err = tx.Policy(current.Number); err != nil {
		return nil, nil, err
	}
	active, err = tx.Policy(active.Number)
	return current, active, err
}
