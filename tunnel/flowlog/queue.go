package flowlog

import (
	"context"
	"sync"
)

// Queue holds records until somebody takes them. It is bounded: what does not fit is dropped and counted, and nobody who puts something in waits.
type Queue struct {
	most int

	mu      sync.Mutex
	list    []Record
	dropped uint64
	wake    chan struct{} // holds a token when there may be something to take
}

func newQueue(most int) *Queue { return &Queue{most: most, wake: make(chan struct{}, 1)} }

// put tells how many records did not fit.
func (q *Queue) put(list []Record) (dropped int) {
	q.mu.Lock()
	fit := list[:min(len(list), q.most-len(q.list))]
	q.list = append(q.list, fit...)
	dropped = len(list) - len(fit)
	q.dropped += uint64(dropped)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return dropped
}

// take gives what there is, at most so many records, and how many were dropped since the last time.
func (q *Queue) take(most int) (list []Record, dropped uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(most, len(q.list))
	list = append(list, q.list[:n]...)
	if q.list = q.list[n:]; len(q.list) == 0 {
		q.list = nil // and the memory of a burst with it
	}
	dropped, q.dropped = q.dropped, 0
	return list, dropped
}

// Next waits for records and gives at most so many, and how many were dropped before them.
func (q *Queue) Next(ctx context.Context, most int) (list []Record, dropped uint64, err error) {
	for {
		if list, dropped = q.take(most); len(list) > 0 || dropped > 0 {
			return list, dropped, nil
		}
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-q.wake:
		}
	}
}
