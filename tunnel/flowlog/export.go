package flowlog

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"
)

// Sink is where an exporter writes to. One goroutine calls it.
type Sink interface {
	// Name tells sinks apart, such as "file".
	Name() string
	// Write hands records over, all or none. After an error it is called again with the same ones, unless the error is ErrUnwanted, and not
	// before the time that the error's method RetryAfter names, if it has one.
	Write(ctx context.Context, list []Record) error
	Close() error
}

// ErrUnwanted says that a sink will not take these records however often it is asked.
var ErrUnwanted = errors.New("the records are not wanted")

// Times of exporters.
const (
	retryFirst = time.Second
	retryLast  = time.Minute
	retryWish  = 10 * time.Minute // what a sink may wish for
	// parting is how long the last records may take.
	parting = 2 * time.Second
	// portion is how many records go out at once.
	portion = 512
)

// exporter brings records from its queue to a sink.
type exporter struct {
	sink    Sink
	log     *slog.Logger
	queue   *Queue
	trouble bool // and that has been told

	sent, dropped, failed atomic.Uint64
}

func (e *exporter) run(ctx context.Context) error {
	for {
		list, _, err := e.queue.Next(ctx, portion)
		if err == nil {
			err = e.deliver(ctx, list)
		}
		if err != nil { // ctx has ended
			e.part(list)
			return e.sink.Close()
		}
	}
}

// deliver tries until the records are gone or ctx ends.
func (e *exporter) deliver(ctx context.Context, list []Record) error {
	for pause := retryFirst; len(list) > 0; pause = min(2*pause, retryLast) {
		err := e.write(ctx, list)
		if err == nil || errors.Is(err, ErrUnwanted) {
			return nil
		}
		wait := pause
		var wish interface{ RetryAfter() time.Duration }
		if errors.As(err, &wish) {
			wait = min(max(wait, wish.RetryAfter()), retryWish)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
	return nil
}

// write counts what becomes of the records, and tells when trouble begins and ends.
func (e *exporter) write(ctx context.Context, list []Record) error {
	err := e.sink.Write(ctx, list)
	switch {
	case err == nil:
		if e.sent.Add(uint64(len(list))); e.trouble {
			e.log.Info("flow records go out again", "to", e.sink.Name())
		}
		e.trouble = false
		return nil
	case errors.Is(err, ErrUnwanted):
		if e.failed.Add(uint64(len(list))); !e.trouble {
			e.log.Warn("flow records are refused and lost", "to", e.sink.Name(), "err", err)
		}
	case !e.trouble && ctx.Err() == nil:
		e.log.Warn("flow records do not go out; they wait, and those that find no room are lost", "to", e.sink.Name(), "err", err)
	}
	e.trouble = true
	return err
}

// part writes what is left, once.
func (e *exporter) part(list []Record) {
	ctx, cancel := context.WithTimeout(context.Background(), parting)
	defer cancel()
	for {
		if len(list) > 0 {
			if err := e.write(ctx, list); err != nil && !errors.Is(err, ErrUnwanted) {
				rest, _ := e.queue.take(maxExport)
				e.dropped.Add(uint64(len(list) + len(rest)))
				e.log.Warn("the last flow records are lost", "to", e.sink.Name(), "records", len(list)+len(rest), "err", err)
				return
			}
		}
		if list, _ = e.queue.take(portion); len(list) == 0 {
			return
		}
	}
}
