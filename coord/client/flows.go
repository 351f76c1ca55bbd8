package client

import (
	"context"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// FlowsWanted is the coordinator's question for flows that this device has refused.
type FlowsWanted struct {
	// Since is how far back; 0: as far as there are records.
	Since time.Duration
	// Limit is how many records at most, 1 to record.MaxFlows; the newest count.
	Limit int
}

// RefusedFlows is the answer.
type RefusedFlows struct {
	// Flows are records of kinds "refused" and "omitted", by time.
	Flows []*pb.FlowRecord
	// LeftOut counts older ones that there was no room for.
	LeftOut uint64
	// Unrecorded says that this device keeps no records.
	Unrecorded bool
}

const (
	// A coordinator that asks more often than this is not answered.
	questionEvery   = 2 * time.Second
	questionsAtOnce = 5
	// reportTime bounds how long an answer is on its way. The coordinator does not wait longer.
	reportTime = 10 * time.Second
	// reportRest is what a report takes besides its records, in bytes.
	reportRest = 1024
)

// answerer answers the coordinator's questions on one Watch, one after the other.
type answerer struct {
	*Client
	link *link
	ctx  context.Context
	stop context.CancelFunc
	busy chan struct{} // holds a token while an answer is made
	done sync.WaitGroup
}

func (c *Client) newAnswerer(ctx context.Context, l *link) *answerer {
	a := &answerer{Client: c, link: l, busy: make(chan struct{}, 1)}
	a.ctx, a.stop = context.WithCancel(ctx)
	return a
}

// close gives up an answer that is on its way.
func (a *answerer) close() {
	a.stop()
	a.done.Wait()
}

// handle starts to answer a question, so that the Watch goes on. What comes too often is not answered.
func (a *answerer) handle(m *pb.FlowsWanted) {
	if a.cfg.OnFlowsWanted == nil || len(m.GetQuestion()) != record.QuestionSize {
		a.cfg.Log.Warn("the coordinator asks for flows in a way that this device does not answer")
		return
	}
	if !a.questions.AllowN(a.cfg.Now(), 1) {
		a.cfg.Log.Warn("the coordinator asks for refused flows too often; not answered")
		return
	}
	select {
	case a.busy <- struct{}{}:
	default:
		a.cfg.Log.Warn("the coordinator asks for refused flows while it is being answered; not answered")
		return
	}
	a.done.Go(func() {
		defer func() { <-a.busy }()
		ctx, cancel := context.WithTimeout(a.ctx, reportTime)
		defer cancel()
		if err := a.answer(ctx, m); err != nil && a.ctx.Err() == nil {
			a.cfg.Log.Warn("refused flows could not be reported to the coordinator", "err", err)
		}
	})
}

// answer reports what the coordinator asks for, and tells the owner of this device that it does.
func (a *answerer) answer(ctx context.Context, m *pb.FlowsWanted) error {
	wanted := FlowsWanted{Since: max(0, m.GetSince().AsDuration()), Limit: record.MaxFlows}
	if n := m.GetLimit(); n > 0 && n < record.MaxFlows {
		wanted.Limit = int(n)
	}
	r := a.cfg.OnFlowsWanted(wanted)
	flows := fitting(r.Flows)
	r.LeftOut += uint64(len(r.Flows) - len(flows))
	a.cfg.Log.Info("the coordinator asks which flows were refused here; telling it", "since", wanted.Since, "records", len(flows), "left_out", r.LeftOut)
	signed, err := record.Sign(a.cfg.Device, record.ContextFlows, &pb.FlowReport{
		NetworkId: a.cfg.Network[:], CoordinatorKey: a.link.signing.Bytes(), DeviceKey: a.cfg.Device.Public().Bytes(), Question: m.GetQuestion(),
		Time: timestamppb.New(a.cfg.Now()), Flows: flows, LeftOut: r.LeftOut, Unrecorded: r.Unrecorded,
	})
	if err != nil {
		return err
	}
	if _, err := a.link.ReportFlows(ctx, connect.NewRequest(&pb.ReportFlowsRequest{Report: signed})); err != nil {
		return refused(err)
	}
	return nil
}

// fitting gives the newest records that a report has room for.
func fitting(list []*pb.FlowRecord) []*pb.FlowRecord {
	const frame = 4 // tag and length of one
	room := record.MaxFlowReport - reportRest
	for i := len(list) - 1; i >= 0; i-- {
		if room -= proto.Size(list[i]) + frame; room < 0 {
			return list[i+1:]
		}
	}
	return list
}

func newQuestionLimit() *rate.Limiter {
	return rate.NewLimiter(rate.Every(questionEvery), questionsAtOnce)
}
