package flowlog

import (
	"context"
	"time"

	"warren/proto/key"
	"warren/tunnel/filter"
)

// interval is how often a Collector looks.
const interval = time.Second

// Source is a tunnel's packet filter, as its engine gives access to it.
type Source interface {
	Collect(tell func(*filter.Record), omitted func(*filter.Peer, filter.Omitted))
	Flows(device key.DevicePublic, visit func(*filter.Record) (more bool))
}

// Collector publishes what happens in one tunnel.
type Collector struct {
	Source Source
	Log    *Log
	// Resolve tells who is behind a peer, which may have left the map.
	Resolve func(id [32]byte) Identity
	// GoOn reports, when Run is to end, whether the flows go on all the same, in another process; nil: they do not.
	GoOn func() bool
}

// downReason is why flows end with their tunnel.
const downReason = "tunnel down"

// Run looks until ctx ends; flows that live by then have ended with the tunnel, unless they go on.
func (c *Collector) Run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			c.Log.Publish(c.look(c.GoOn == nil || !c.GoOn()))
			return nil
		case <-tick.C:
			c.Log.Publish(c.look(false))
		}
	}
}

// look gives what happened since the last time. Times in records are to a millisecond.
func (c *Collector) look(last bool) []Record {
	b := newBatch(time.Now().UTC().Round(time.Millisecond), c.Resolve)
	c.Source.Collect(b.add, b.omit)
	if !last {
		return b.records()
	}
	over := newBatch(b.now, c.Resolve)
	c.Source.Flows(key.DevicePublic{}, func(r *filter.Record) bool {
		r.Kind = filter.Ended
		over.add(r)
		return true
	})
	ends := over.records()
	for i := range ends {
		ends[i].Reason = downReason
	}
	return append(b.records(), ends...)
}
