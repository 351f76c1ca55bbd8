package sqlite

import (
	"fmt"
	"time"

	"warren/coord/store"
)

const policyColumns = "number, author, reason, at, state, confirm_by"

func scanPolicy(scan func(...any) error, more ...any) (*store.Policy, error) {
	var p store.Policy
	var at, confirmBy int64
	if err := scan(append([]any{&p.Number, &p.Author, &p.Reason, &at, &p.State, &confirmBy}, more...)...); err != nil {
		return nil, err
	}
	p.At, p.ConfirmBy = fromNano(at), fromNano(confirmBy)
	return &p, nil
}

func (t *tx) Policies() ([]*store.Policy, error) {
	return every(t, func(scan func(...any) error) (*store.Policy, error) { return scanPolicy(scan) }, "SELECT "+policyColumns+" FROM policies ORDER BY number")
}

func (t *tx) Policy(number uint64) (*store.Policy, error) {
	var text []byte
	p, err := scanPolicy(func(into ...any) error {
		return t.one("SELECT "+policyColumns+", text FROM policies WHERE number = ?", []any{int64(number)}, into...)
	}, &text)
	if err != nil {
		return nil, err
	}
	p.Text = text
	return p, nil
}

func (t *tx) AddPolicy(p *store.Policy) error {
	r, err := t.t.ExecContext(t.ctx, "INSERT INTO policies (text, author, reason, at, state, confirm_by) VALUES (?, ?, ?, ?, ?, ?)",
		p.Text, p.Author, p.Reason, toNano(p.At), p.State, toNano(p.ConfirmBy))
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	n, err := r.LastInsertId()
	p.Number = uint64(n)
	return err
}

func (t *tx) MarkPolicy(number uint64, to store.PolicyState, confirmBy time.Time) error {
	r, err := t.t.ExecContext(t.ctx, "UPDATE policies SET state = ?, confirm_by = ? WHERE number = ?", to, toNano(confirmBy), int64(number))
	if err != nil {
		return fmt.Errorf("policy %d: %w", number, err)
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		return fmt.Errorf("policy %d: %w", number, store.ErrNotFound)
	}
	return nil
}
