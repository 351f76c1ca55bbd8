// Package broadcast wakes everybody who waits for something to change. Waiters call Next, look at what they wait for, and then wait for
// the channel; who changes something calls Wake afterwards.
package broadcast

import "sync"

// Broadcast is ready to use when zero.
type Broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// Next gives a channel that is closed by the next Wake.
func (b *Broadcast) Next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

// Wake wakes all who called Next since the last Wake.
func (b *Broadcast) Wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
