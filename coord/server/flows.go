package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"warren/coord/domain"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// Only a device knows what it refused. An administrator's question goes down the device's Watch, with a number that is drawn for it alone; the
// device answers by a call of its own, signed for this coordinator and this question.

const (
	// answerTime is how long a device may take to answer.
	answerTime = 10 * time.Second
	// maxQuestions bounds how many devices are being asked at a time.
	maxQuestions = 64
	defaultFlows = 200
	// maxClock is how far a device's clock may be off without being told of.
	maxClock = time.Minute
	maxTags  = 64 // of a peer, in a flow record
)

// question is what one device is being asked.
type question struct {
	*pb.FlowsWanted
	device *domain.Device
	answer chan answer // holds one
}

// answer is a report that has been checked, or what was wrong with it.
type answer struct {
	*pb.FlowReport
	err error
}

// questions are those that are open, one a device at most.
type questions struct {
	mu   sync.Mutex
	open map[rawKey]*question
}

// ask opens a question, unless there is no room for it.
func (qs *questions) ask(d *domain.Device, since *durationpb.Duration, limit uint32) (*question, *connect.Error) {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	switch {
	case qs.open[d.Key.Raw()] != nil:
		return nil, connect.NewError(connect.CodeAborted, fmt.Errorf("%s is being asked already; try again in a few seconds", d.Name))
	case len(qs.open) >= maxQuestions:
		return nil, connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("%d devices are being asked already; try again in a few seconds", maxQuestions))
	}
	id := make([]byte, record.QuestionSize)
	rand.Read(id)
	q := &question{&pb.FlowsWanted{Question: id, Since: since, Limit: limit}, d, make(chan answer, 1)}
	qs.open[d.Key.Raw()] = q
	return q, nil
}

// take closes the question with this number, and gives it; nil: there is none.
func (qs *questions) take(device key.DevicePublic, id []byte) *question {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	q := qs.open[device.Raw()]
	if q == nil || subtle.ConstantTimeCompare(q.GetQuestion(), id) == 0 {
		return nil
	}
	delete(qs.open, device.Raw())
	return q
}

// RefusedFlows implements AdminService.
func (a *admin) RefusedFlows(ctx context.Context, req *connect.Request[pb.RefusedFlowsRequest]) (*connect.Response[pb.RefusedFlowsResponse], error) {
	m := req.Msg
	limit := cmp.Or(m.GetLimit(), defaultFlows)
	if limit > record.MaxFlows {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d records are more than a device gives, which is %d", limit, record.MaxFlows))
	}
	if d := m.GetSince(); d != nil && (d.CheckValid() != nil || d.AsDuration() <= 0) {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("since: want a time that has gone by, such as 10m"))
	}
	d, err := a.lookUp(ctx, m.GetDevice())
	if err != nil {
		return nil, a.deviceFailure("question for refused flows", err)
	}
	q, refused := a.questions.ask(d, m.GetSince(), limit)
	if refused != nil {
		return nil, refused
	}
	defer a.questions.take(d.Key, q.GetQuestion())
	a.log.Info("a device is asked for the flows that it refused", "device", d.Name, "by", callerOf(ctx))
	r, err := a.await(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &pb.RefusedFlowsResponse{Device: d.Name, Flows: r.GetFlows(), LeftOut: r.GetLeftOut()}
	if ahead := r.GetTime().AsTime().Sub(a.cfg.Now()); ahead.Abs() > maxClock {
		out.ClockAhead = durationpb.New(ahead)
	}
	return connect.NewResponse(out), nil
}

// await puts the question to the device and waits for what it answers.
func (s *Server) await(ctx context.Context, q *question) (*pb.FlowReport, error) {
	w := s.hub.put(q)
	if w == nil {
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("%s is offline; only the device itself knows what it refused", q.device.Name))
	}
	timer := time.NewTimer(answerTime)
	defer timer.Stop()
	select {
	case r := <-q.answer:
		switch {
		case r.err != nil:
			return nil, connect.NewError(connect.CodeDataLoss, fmt.Errorf("what %s answered makes no sense: %w", q.device.Name, r.err))
		case r.GetUnrecorded():
			return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf(
				"%s keeps no records of flows; start its daemon without --flow-records=false", q.device.Name))
		}
		return r.FlowReport, nil
	case <-w.gone:
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("%s lost its connection before it answered; try again", q.device.Name))
	case <-timer.C:
		return nil, connect.NewError(connect.CodeDeadlineExceeded, fmt.Errorf(
			"%s has not answered within %s: its agent (version %s) does not know the question, or was asked too often; try again in a minute",
			q.device.Name, answerTime, cmp.Or(w.host.AgentVersion, "unknown")))
	case <-s.stopping:
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("the coordinator is stopping"))
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ReportFlows implements CoordinatorService.
func (a *agents) ReportFlows(_ context.Context, req *connect.Request[pb.ReportFlowsRequest]) (*connect.Response[pb.ReportFlowsResponse], error) {
	if err := a.slow(req); err != nil {
		return nil, err
	}
	m, device, err := a.openReport(req.Msg)
	if err != nil {
		return nil, a.errMalformed(err)
	}
	q := a.questions.take(device, m.GetQuestion())
	if q == nil {
		return nil, a.refuse(connect.CodeFailedPrecondition, whyQuestion, errors.New("nobody waits for these flows: they were not asked for, or came too late"))
	}
	if m.Flows, err = cleanFlows(m.GetFlows(), q.GetLimit()); err == nil && !m.GetTime().IsValid() {
		err = errors.New("the report has no time")
	}
	q.answer <- answer{m, err}
	if err != nil {
		return nil, a.errMalformed(err)
	}
	return connect.NewResponse(&pb.ReportFlowsResponse{}), nil
}

// openReport verifies that the device signed this report for this coordinator.
func (s *Server) openReport(r *pb.ReportFlowsRequest) (*pb.FlowReport, key.DevicePublic, error) {
	m, payload := new(pb.FlowReport), r.GetReport().GetPayload()
	if len(payload) > record.MaxFlowReport {
		return nil, key.DevicePublic{}, fmt.Errorf("report of %d bytes, more than %d", len(payload), record.MaxFlowReport)
	}
	if err := record.Parse(record.ContextFlows, payload, m); err != nil {
		return nil, key.DevicePublic{}, err
	}
	device, err := key.DevicePublicFromBytes(m.GetDeviceKey())
	if err != nil {
		return nil, device, fmt.Errorf("device key: %w", err)
	}
	if err := record.Verify(device, record.ContextFlows, payload, r.GetReport().GetSignature()); err != nil {
		return nil, device, err
	}
	return m, device, s.checkAudience(m.GetNetworkId(), m.GetCoordinatorKey())
}

// cleanFlows takes what a device tells of flows that it refused, and no more than that: it may say what it likes, but in our form, and nothing
// that could confuse a terminal.
func cleanFlows(in []*pb.FlowRecord, limit uint32) (out []*pb.FlowRecord, err error) {
	if len(in) > int(limit) {
		return nil, fmt.Errorf("%d records, and %d were asked for", len(in), limit)
	}
	for _, r := range in {
		c, err := cleanFlow(r)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func cleanFlow(r *pb.FlowRecord) (*pb.FlowRecord, error) {
	kind, direction := r.GetKind(), r.GetDirection()
	if kind != "refused" && kind != "omitted" || direction != "in" && direction != "out" && direction != "" {
		return nil, fmt.Errorf("record of kind %.20q and direction %.20q", kind, direction)
	}
	if !r.GetAt().IsValid() || r.GetBegan() != nil && !r.GetBegan().IsValid() || r.GetLast() != nil && !r.GetLast().IsValid() {
		return nil, errors.New("a record has no time")
	}
	if r.GetSourcePort() > 65535 || r.GetDestinationPort() > 65535 || len(r.GetTags()) > maxTags {
		return nil, fmt.Errorf("record with ports %d and %d, and %d tags", r.GetSourcePort(), r.GetDestinationPort(), len(r.GetTags()))
	}
	source, errSource := cleanAddress(r.GetSource())
	destination, errDestination := cleanAddress(r.GetDestination())
	if err := errors.Join(errSource, errDestination); err != nil {
		return nil, err
	}
	c := &pb.FlowRecord{
		At: r.GetAt(), Kind: kind, Direction: direction, Device: domain.Clip(r.GetDevice()), User: domain.Clip(r.GetUser()), Protocol: domain.Clip(r.GetProtocol()),
		Source: source, Destination: destination, SourcePort: r.GetSourcePort(), DestinationPort: r.GetDestinationPort(), Began: r.GetBegan(), Last: r.GetLast(),
		SentPackets: r.GetSentPackets(), SentBytes: r.GetSentBytes(), ReceivedPackets: r.GetReceivedPackets(), ReceivedBytes: r.GetReceivedBytes(),
		Flows: r.GetFlows(), OmittedRefused: r.GetOmittedRefused(),
	}
	for _, t := range r.GetTags() {
		c.Tags = append(c.Tags, domain.Clip(t))
	}
	return c, nil
}

// cleanAddress writes an address anew: a zone could hold anything.
func cleanAddress(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return "", fmt.Errorf("record with the address %.60q", s)
	}
	return a.String(), nil
}
