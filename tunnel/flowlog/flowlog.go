// Package flowlog keeps records of flows: new ones, ended ones and refused ones, with device, user, grant, packets and bytes. A Collector
// looks at the packet filter once a second and publishes what happened to the Log; the Log keeps the newest records for whoever asks,
// tells followers, and hands everything to exporters.
//
// Nothing here is in the way of packets, and everything is bounded: alike flows of one second become one record, a peer has so many records a
// second, queues have so many places, and what is left out is counted, in a record of its own.
//
//	record.go    what is told of a flow
//	batch.go     pure core: what happened in one interval
//	collector.go the shell around it
//	flowlog.go   who gets the records
//	queue.go     records that wait
//	export.go    records on their way out
package flowlog

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Bounds, in records.
const (
	maxRecent   = 2048 // kept for whoever asks, and that many refused ones besides
	maxFollower = 4096 // waiting for a follower
	maxExport   = 8192 // waiting for an exporter
)

// Log is safe for concurrent use.
type Log struct {
	exporters []*exporter
	counts    [4]atomic.Uint64 // by kinds

	mu        sync.Mutex
	recent    ring
	refused   ring // what tells of refused flows: however much is allowed, it stays
	followers map[*Queue]struct{}
}

// ring has the newest records.
type ring struct {
	list []Record
	next int // where the next record goes, once it is full
}

func (r *ring) put(one Record) {
	if len(r.list) < maxRecent {
		r.list = append(r.list, one)
		return
	}
	r.list[r.next] = one
	r.next = (r.next + 1) % maxRecent
}

// newest gives them, oldest first.
func (r *ring) newest() []Record {
	return append(append(make([]Record, 0, len(r.list)), r.list[r.next:]...), r.list[:r.next]...)
}

// kinds are those that are logged, in the order of Stats.
func kinds() [4]string { return [4]string{New, Ended, Refused, Omitted} }

// NewLog makes a Log. Its exporters work while Run does.
func NewLog(log *slog.Logger, sinks ...Sink) *Log {
	l := &Log{followers: map[*Queue]struct{}{}}
	for _, s := range sinks {
		l.exporters = append(l.exporters, &exporter{sink: s, log: log, queue: newQueue(maxExport)})
	}
	return l
}

// Publish hands records to everybody. It never waits.
func (l *Log) Publish(list []Record) {
	if len(list) == 0 {
		return
	}
	for i := range list {
		for k, kind := range kinds() {
			if kind == list[i].Kind {
				l.counts[k].Add(1)
			}
		}
	}
	for _, e := range l.exporters {
		e.dropped.Add(uint64(e.queue.put(list)))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for q := range l.followers {
		q.put(list)
	}
	for i := range list {
		l.recent.put(list[i])
		if list[i].Kind == Refused || list[i].OmittedRefused > 0 {
			l.refused.put(list[i])
		}
	}
}

// Refused gives the newest records of refused flows, and of those omitted with refused ones among them, oldest first.
func (l *Log) Refused() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused.newest()
}

// Follow gives the newest records and a queue of all that come after them, until stop is called.
func (l *Log) Follow() (recent []Record, q *Queue, stop func()) {
	q = newQueue(maxFollower)
	l.mu.Lock()
	l.followers[q] = struct{}{}
	recent = l.recent.newest()
	l.mu.Unlock()
	return recent, q, func() {
		l.mu.Lock()
		delete(l.followers, q)
		l.mu.Unlock()
	}
}

// Run exports until ctx ends, and then what is left within a short time.
func (l *Log) Run(ctx context.Context) error {
	var group errgroup.Group
	for _, e := range l.exporters {
		group.Go(func() error { return e.run(ctx) })
	}
	return group.Wait()
}

// Stats counts records.
type Stats struct {
	// Records are those published, by kind.
	Records map[string]uint64
	Exports []ExportStats
}

// ExportStats counts the records of one exporter.
type ExportStats struct {
	To string
	// Sent went out; Dropped did not fit into the queue; Failed were given up, since whoever gets them does not want them.
	Sent, Dropped, Failed uint64
}

// Stats gives the counts so far.
func (l *Log) Stats() Stats {
	s := Stats{Records: map[string]uint64{}}
	for k, kind := range kinds() {
		s.Records[kind] = l.counts[k].Load()
	}
	for _, e := range l.exporters {
		s.Exports = append(s.Exports, ExportStats{e.sink.Name(), e.sent.Load(), e.dropped.Load(), e.failed.Load()})
	}
	return s
}
