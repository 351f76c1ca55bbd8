// Package linkmodel is one direction of a link as a pure model: a rate with a queue before it, delay, jitter, loss and reordering. New makes
// one; Link.Send says when a packet arrives, if it does. It keeps no clock, holds no packets and draws its chances from a seed: the simulator
// uses it in virtual time, the lab on real frames.
package linkmodel

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Options describe one direction. The zero value is a wire.
type Options struct {
	// Delay is how long each packet travels; up to Jitter is added by chance, which does not reorder.
	Delay, Jitter time.Duration
	// Rate in bits per second; 0 is no limit. What has to wait for it queues, Queue bytes at most, and is dropped at the tail; 0 is
	// DefaultQueue.
	Rate  int64
	Queue int
	// Loss and Reorder are chances, 0 to 1. What is reordered arrives ReorderBy later than it would, and others overtake it; 0 is
	// DefaultReorderBy.
	Loss, Reorder float64
	ReorderBy     time.Duration
}

// Defaults.
const (
	DefaultQueue     = 256 << 10
	DefaultReorderBy = time.Millisecond
)

// Check refuses what makes no sense.
func (o Options) Check() error {
	switch {
	case o.Delay < 0 || o.Jitter < 0 || o.ReorderBy < 0:
		return fmt.Errorf("a delay of %s, jitter of %s or reordering by %s is negative", o.Delay, o.Jitter, o.ReorderBy)
	case o.Rate < 0 || o.Queue < 0:
		return fmt.Errorf("a rate of %d bit/s or a queue of %d bytes is negative", o.Rate, o.Queue)
	case !chance(o.Loss) || !chance(o.Reorder):
		return fmt.Errorf("a chance of loss of %v or of reordering of %v; want 0 to 1", o.Loss, o.Reorder)
	case o.Queue > 0 && o.Rate == 0:
		return errors.New("without a rate there is no queue")
	}
	return nil
}

func chance(p float64) bool { return p >= 0 && p <= 1 }

// Stats count packets.
type Stats struct {
	Sent, Lost, Overflowed, Reordered int
}

// Link is one direction. It is not safe for concurrent use.
type Link struct {
	o     Options
	rng   *rand.Rand
	free  time.Time // when the sender is done with what it has
	last  time.Time // when the last packet in order arrives
	stats Stats
}

// New makes a direction. The options must pass Check.
func New(o Options, seed uint64) *Link {
	if o.Queue == 0 {
		o.Queue = DefaultQueue
	}
	if o.ReorderBy == 0 {
		o.ReorderBy = DefaultReorderBy
	}
	return &Link{o: o, rng: rand.New(rand.NewPCG(seed, 0x6c696e6b))}
}

// Stats tells what became of the packets.
func (l *Link) Stats() Stats { return l.stats }

// Send gives a packet of that many bytes to the link at now, which must not go back. It arrives at the time given, unless it is lost.
func (l *Link) Send(now time.Time, size int) (arrives time.Time, ok bool) {
	l.stats.Sent++
	// Every packet draws the same number of chances, so that what happens to one does not change the next one's.
	lost, reordered, jitter := l.rng.Float64() < l.o.Loss, l.rng.Float64() < l.o.Reorder, l.rng.Float64()
	leaves, ok := l.leave(now, size)
	if !ok {
		l.stats.Overflowed++
		return time.Time{}, false
	}
	if lost {
		l.stats.Lost++
		return time.Time{}, false
	}
	arrives = leaves.Add(l.o.Delay + time.Duration(jitter*float64(l.o.Jitter)))
	if arrives.Before(l.last) {
		arrives = l.last
	}
	if reordered {
		l.stats.Reordered++
		return arrives.Add(l.o.ReorderBy), true
	}
	l.last = arrives
	return arrives, true
}

// leave queues a packet and says when its last bit is sent.
func (l *Link) leave(now time.Time, size int) (time.Time, bool) {
	if l.o.Rate == 0 {
		return now, true
	}
	if l.free.Before(now) {
		l.free = now
	}
	waiting := float64(l.free.Sub(now)) / float64(time.Second) * float64(l.o.Rate) / 8
	// The packet that is being sent does not wait.
	if waiting > 0 && waiting+float64(size) > float64(l.o.Queue) {
		return time.Time{}, false
	}
	l.free = l.free.Add(time.Duration(float64(size) * 8 / float64(l.o.Rate) * float64(time.Second)))
	return l.free, true
}
