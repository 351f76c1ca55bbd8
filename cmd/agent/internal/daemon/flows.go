package daemon

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"warren/cmd/internal/flowview"
	"warren/internal/buildversion"
	"warren/internal/ipproto"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/tunnel/filter"
	"warren/tunnel/flowlog"
	"warren/tunnel/flowsink"
)

// Bounds of Flows, in records.
const (
	defaultFlowLimit = 1000
	maxFlowLimit     = 100_000
	flowPortion      = 500 // in one message
)

// openFlows makes the log of flows and has it export until stop is called.
func (d *daemon) openFlows() (stop func(), err error) {
	host, _ := os.Hostname() // a record without one still says enough
	var sinks []flowlog.Sink
	for _, dest := range d.cfg.FlowExports {
		s, err := flowsink.Open(dest, flowsink.Config{
			FileSize: d.cfg.FlowFileSize, Host: host, Version: buildversion.Get(), Headers: os.Getenv("OTEL_EXPORTER_OTLP_HEADERS"),
		})
		if err != nil {
			return nil, fmt.Errorf("flow records: %w", err)
		}
		sinks = append(sinks, s)
	}
	d.flows = flowlog.NewLog(d.log, sinks...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.flows.Run(ctx) }()
	return func() { // after the last session, whose flows end with it
		cancel()
		if err := <-done; err != nil {
			d.log.Warn("export of flow records ended with an error", "err", err)
		}
	}, nil
}

func (s *session) collector() *flowlog.Collector {
	return &flowlog.Collector{Source: s.engine, Log: s.cfg.flows, Resolve: s.resolve, GoOn: s.leaves.Load}
}

// maxFormer bounds former.
const maxFormer = 4096

// former is who has left the map, for records of their last flows.
type former struct {
	mu   sync.Mutex
	list map[[key.Size]byte]flowlog.Identity
}

// add takes those that a new map has no more.
func (f *former) add(gone []*record.Device) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range gone {
		if f.list == nil || len(f.list) >= maxFormer {
			f.list = map[[key.Size]byte]flowlog.Identity{}
		}
		f.list[d.Key.Raw()] = identity(d)
	}
}

func identity(d *record.Device) flowlog.Identity {
	return flowlog.Identity{Device: d.Name, User: d.Owner, Tags: d.Tags}
}

// resolve tells who is behind a device key.
func (s *session) resolve(id [key.Size]byte) flowlog.Identity {
	if d := s.known.Load().byDevice[id]; d != nil {
		return identity(d)
	}
	s.former.mu.Lock()
	defer s.former.mu.Unlock()
	return s.former.list[id]
}

// Flows implements LocalService.
func (a *api) Flows(ctx context.Context, req *connect.Request[pb.FlowsRequest], out *connect.ServerStream[pb.FlowsResponse]) error {
	if _, err := a.admit(ctx); err != nil {
		return err
	}
	s := a.d.current()
	q, err := flowQuery(req.Msg, s, a.d.cfg.Now())
	if err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	limit := int(req.Msg.GetLimit())
	if limit == 0 {
		limit = defaultFlowLimit
	}
	recent, queue, stop := a.d.flows.Follow()
	defer stop()
	list := flowList{query: q, limit: min(limit, maxFlowLimit)}
	if !req.Msg.GetFollow() || req.Msg.GetSince() != nil {
		list.addAll(recent)
	}
	if !req.Msg.GetFollow() && s != nil {
		s.liveFlows(&list)
	}
	if err := sendFlows(out, list.newest(), list.leftOut); err != nil || !req.Msg.GetFollow() {
		return err
	}
	return followFlows(ctx, q, queue, out)
}

// followFlows goes on until the caller has enough.
func followFlows(ctx context.Context, q *flowlog.Query, queue *flowlog.Queue, out *connect.ServerStream[pb.FlowsResponse]) error {
	for {
		records, dropped, err := queue.Next(ctx, flowPortion)
		if err != nil {
			return err
		}
		records = slices.DeleteFunc(records, func(r flowlog.Record) bool { return !q.Matches(&r) })
		if len(records) == 0 && dropped == 0 {
			continue
		}
		if err := sendFlows(out, records, dropped); err != nil {
			return err
		}
	}
}

// sendFlows sends at least one message, so that the caller knows that it is heard.
func sendFlows(out *connect.ServerStream[pb.FlowsResponse], list []flowlog.Record, leftOut uint64) error {
	for {
		n := min(len(list), flowPortion)
		m := &pb.FlowsResponse{LeftOut: leftOut}
		for i := range list[:n] {
			m.Records = append(m.Records, flowview.ToWire(&list[i]))
		}
		if err := out.Send(m); err != nil {
			return err
		}
		if list, leftOut = list[n:], 0; len(list) == 0 {
			return nil
		}
	}
}

// flowList keeps the newest records that are wanted.
type flowList struct {
	query   *flowlog.Query
	limit   int
	list    []flowlog.Record
	leftOut uint64
}

func (l *flowList) add(r flowlog.Record) {
	if !l.query.Matches(&r) {
		return
	}
	if l.list = append(l.list, r); len(l.list) >= 2*l.limit {
		l.list = l.newest()
	}
}

func (l *flowList) addAll(list []flowlog.Record) {
	for _, r := range list {
		l.add(r)
	}
}

// newest gives what there is within the limit, by time of the last packet.
func (l *flowList) newest() []flowlog.Record {
	slices.SortStableFunc(l.list, func(a, b flowlog.Record) int { return moment(&a).Compare(moment(&b)) })
	over := max(0, len(l.list)-l.limit)
	l.leftOut += uint64(over)
	l.list = slices.Clone(l.list[over:])
	return l.list
}

// moment is when the flow of a record was last heard of.
func moment(r *flowlog.Record) time.Time {
	if r.Last.IsZero() {
		return r.At
	}
	return r.Last
}

// liveFlows adds the flows that pass now.
func (s *session) liveFlows(l *flowList) {
	now := time.Now().UTC().Round(time.Millisecond)
	s.engine.Flows(key.DevicePublic{}, func(r *filter.Record) bool {
		l.add(flowlog.FromFilter(r, s.resolve(r.Peer.ID), now))
		return true
	})
}

// flowQuery reads what is asked for. A peer that the map does not have is taken by its name: it may have been there.
func flowQuery(m *pb.FlowsRequest, s *session, now time.Time) (*flowlog.Query, error) {
	q := &flowlog.Query{Kinds: m.GetKinds(), User: m.GetUser(), Grant: m.GetGrant(), Device: m.GetPeer()}
	known := []string{flowlog.Live, flowlog.New, flowlog.Ended, flowlog.Refused, flowlog.Omitted}
	for _, k := range q.Kinds {
		if !slices.Contains(known, k) {
			return nil, fmt.Errorf("kind %.80q: there are %s", k, strings.Join(known, ", "))
		}
	}
	if s != nil && q.Device != "" {
		if d, _, err := s.known.Load().find(q.Device); err == nil {
			q.Device = d.Name
		}
	}
	if text := m.GetFlow(); text != "" {
		if n, ok := ipproto.Number(text); ok {
			q.Protocol = ipproto.Name(n)
		} else {
			f, err := ipproto.ParseFlow(text)
			if err != nil {
				return nil, err
			}
			q.Protocol, q.Port = ipproto.Name(f.Protocol), f.Port
		}
	}
	if d := m.GetSince(); d != nil {
		if d.AsDuration() <= 0 {
			return nil, fmt.Errorf("since %s: want a time that has gone by, such as 10m", d.AsDuration())
		}
		q.Since = now.Add(-d.AsDuration())
	}
	return q, nil
}
