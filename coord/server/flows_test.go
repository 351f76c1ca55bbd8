package server

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/coord/domain"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// reply is what a question came to.
type reply struct {
	*pb.RefusedFlowsResponse
	err error
}

// ask asks for refused flows in the background.
func (c *coordinator) ask(req *pb.RefusedFlowsRequest) <-chan reply {
	out := make(chan reply, 1)
	go func() {
		r, err := c.admin.RefusedFlows(c.Context(), connect.NewRequest(req))
		if err != nil {
			out <- reply{err: err}
			return
		}
		out <- reply{r.Msg, nil}
	}()
	return out
}

func (c *coordinator) answered(of <-chan reply) reply {
	c.Helper()
	select {
	case r := <-of:
		return r
	case <-time.After(patience):
		c.Fatal("no answer")
		return reply{}
	}
}

// asked waits for the question.
func (f *follower) asked() *pb.FlowsWanted {
	f.d.c.Helper()
	f.until("a question", func() bool { return f.question != nil })
	q := f.question
	f.question = nil
	return q
}

func (d *device) flowReport(q *pb.FlowsWanted, flows ...*pb.FlowRecord) *pb.FlowReport {
	n := d.c.srv.Network()
	return &pb.FlowReport{
		NetworkId: n[:], CoordinatorKey: d.c.srv.id.Signing.Public().Bytes(), DeviceKey: d.key.Public().Bytes(), Question: q.GetQuestion(),
		Time: timestamppb.New(d.c.now()), Flows: flows,
	}
}

func (d *device) report(m *pb.FlowReport) error {
	signed, err := record.Sign(d.key, record.ContextFlows, m)
	d.c.must(err)
	return d.sendReport(signed)
}

func (d *device) sendReport(s *pb.Signed) error {
	_, err := d.c.calls.ReportFlows(d.c.Context(), connect.NewRequest(&pb.ReportFlowsRequest{Report: s}))
	return err
}

func refusedFlow(at time.Time) *pb.FlowRecord {
	return &pb.FlowRecord{
		At: timestamppb.New(at), Kind: "refused", Direction: "in", Device: "desk", User: "ann", Tags: []string{"a"}, Protocol: "tcp", Source: "100.64.0.2",
		SourcePort: 50000, Destination: "fd00::1", DestinationPort: 22, Began: timestamppb.New(at), Last: timestamppb.New(at), ReceivedPackets: 3, ReceivedBytes: 180, Flows: 2,
	}
}

// TestRefusedFlows: an administrator's question reaches the device, by name, address or key, and its answer the administrator.
func TestRefusedFlows(t *testing.T) {
	c := start(t, nil)
	d := c.member(c.token(domain.TokenWish{}), "a")
	f := d.watch(0, 0)
	f.sees("a")
	last := []byte(nil)
	for _, name := range []string{"a", d.record.Addresses[0].String(), d.key.Public().String()} {
		got := c.ask(&pb.RefusedFlowsRequest{Device: name, Since: durationpb.New(time.Hour), Limit: 7})
		q := f.asked()
		if len(q.GetQuestion()) != record.QuestionSize || bytes.Equal(q.GetQuestion(), last) || q.GetLimit() != 7 || q.GetSince().AsDuration() != time.Hour {
			t.Errorf("question %v", q)
		}
		last = q.GetQuestion()
		flow, omitted := refusedFlow(c.now()), &pb.FlowRecord{At: timestamppb.New(c.now()), Kind: "omitted", Device: "desk", OmittedRefused: 4}
		m := d.flowReport(q, flow, omitted)
		m.LeftOut = 9
		c.must(d.report(m))
		want := &pb.RefusedFlowsResponse{Device: "a", Flows: []*pb.FlowRecord{flow, omitted}, LeftOut: 9}
		r := c.answered(got)
		if diff := cmp.Diff(want, r.RefusedFlowsResponse, protocmp.Transform()); r.err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, r.err, diff)
		}
		c.refused("the same report again", d.report(m), whyQuestion, connect.CodeFailedPrecondition)
	}

	got := c.ask(&pb.RefusedFlowsRequest{Device: "a"})
	q := f.asked()
	if q.GetLimit() != defaultFlows || q.GetSince() != nil {
		t.Errorf("question %v", q)
	}
	late := d.flowReport(q)
	late.Time = timestamppb.New(c.now().Add(-3 * time.Hour))
	c.must(d.report(late))
	if ahead := c.answered(got).GetClockAhead().AsDuration().Round(time.Minute); ahead != -3*time.Hour {
		t.Errorf("a clock three hours behind is told as %s", ahead)
	}

	got = c.ask(&pb.RefusedFlowsRequest{Device: "a"})
	none := d.flowReport(f.asked())
	none.Unrecorded = true
	c.must(d.report(none))
	if r := c.answered(got); connect.CodeOf(r.err) != connect.CodeFailedPrecondition || !strings.Contains(r.err.Error(), "--flow-records") {
		t.Errorf("a device without records: %v", r.err)
	}
}

// TestRefusedFlowsQuestions: what cannot be asked is told at once, and why.
func TestRefusedFlowsQuestions(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a := c.member(tok, "a")
	c.member(tok, "offline")
	f := a.watch(0, 0)
	f.sees("a", "offline")
	for _, test := range []struct {
		req  *pb.RefusedFlowsRequest
		code connect.Code
		text string
	}{
		{&pb.RefusedFlowsRequest{Device: "nobody"}, connect.CodeNotFound, `"nobody"`},
		{&pb.RefusedFlowsRequest{}, connect.CodeNotFound, "device list"},
		{&pb.RefusedFlowsRequest{Device: "offline"}, connect.CodeUnavailable, "offline is offline"},
		{&pb.RefusedFlowsRequest{Device: "a", Limit: record.MaxFlows + 1}, connect.CodeInvalidArgument, "1001"},
		{&pb.RefusedFlowsRequest{Device: "a", Since: durationpb.New(-time.Second)}, connect.CodeInvalidArgument, "gone by"},
		{&pb.RefusedFlowsRequest{Device: "a", Since: &durationpb.Duration{Seconds: 1, Nanos: -1}}, connect.CodeInvalidArgument, "gone by"},
	} {
		if r := c.answered(c.ask(test.req)); connect.CodeOf(r.err) != test.code || !strings.Contains(r.err.Error(), test.text) {
			t.Errorf("%v: %v", test.req, r.err)
		}
	}
	first := c.ask(&pb.RefusedFlowsRequest{Device: "a"})
	q := f.asked()
	if r := c.answered(c.ask(&pb.RefusedFlowsRequest{Device: "a"})); connect.CodeOf(r.err) != connect.CodeAborted {
		t.Errorf("a second question meanwhile: %v", r.err)
	}
	c.must(a.report(a.flowReport(q)))
	if r := c.answered(first); r.err != nil {
		t.Errorf("the first question: %v", r.err)
	}

	gone := c.ask(&pb.RefusedFlowsRequest{Device: "a"})
	f.asked()
	f.cancel()
	if r := c.answered(gone); connect.CodeOf(r.err) != connect.CodeUnavailable || !strings.Contains(r.err.Error(), "lost its connection") {
		t.Errorf("a device that went away: %v", r.err)
	}

	c.srv.questions.mu.Lock()
	for n := range byte(maxQuestions) {
		c.srv.questions.open[rawKey{n}] = new(question)
	}
	c.srv.questions.mu.Unlock()
	if r := c.answered(c.ask(&pb.RefusedFlowsRequest{Device: "a"})); connect.CodeOf(r.err) != connect.CodeResourceExhausted {
		t.Errorf("one question too many: %v", r.err)
	}
}

// TestUnansweredQuestion: an agent that does not know the question costs its asker a bounded time, and the next one may ask.
func TestUnansweredQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPiped(t, nil)
		d := c.member(c.token(domain.TokenWish{}), "a")
		f := d.watch(0, 0)
		f.sees("a")
		for range 2 {
			began := time.Now()
			got := c.ask(&pb.RefusedFlowsRequest{Device: "a"})
			q := f.asked()
			r := <-got
			if took := time.Since(began); connect.CodeOf(r.err) != connect.CodeDeadlineExceeded || took != answerTime || !strings.Contains(r.err.Error(), "version test") {
				t.Errorf("after %s: %v", took, r.err)
			}
			c.refused("an answer that comes too late", d.report(d.flowReport(q)), whyQuestion, connect.CodeFailedPrecondition)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := c.admin.RefusedFlows(ctx, connect.NewRequest(&pb.RefusedFlowsRequest{Device: "a"}))
			ended <- err
		}()
		f.asked()
		cancel()
		<-ended
		synctest.Wait()
		if n := len(c.srv.questions.open); n > 0 {
			t.Errorf("%d questions stay open", n)
		}
		f.cancel()
	})
}

// TestForgedReports: whoever is not the device, or answers another question, is refused, and the question stays open.
func TestForgedReports(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	d, other := c.member(tok, "a"), c.member(tok, "b")
	f := d.watch(0, 0)
	f.sees("a", "b")
	got := c.ask(&pb.RefusedFlowsRequest{Device: "a"})
	q := f.asked()
	for name, change := range map[string]func(*pb.FlowReport){
		"another network":     func(m *pb.FlowReport) { m.NetworkId = bytes.Repeat([]byte{1}, len(m.GetNetworkId())) },
		"another coordinator": func(m *pb.FlowReport) { m.CoordinatorKey = other.key.Public().Bytes() },
		"no device":           func(m *pb.FlowReport) { m.DeviceKey = nil },
		"another device":      func(m *pb.FlowReport) { m.DeviceKey = other.key.Public().Bytes() },
		"too long": func(m *pb.FlowReport) {
			m.Flows = []*pb.FlowRecord{{Device: strings.Repeat("x", record.MaxFlowReport)}}
		},
	} {
		m := d.flowReport(q)
		change(m)
		c.refused(name, d.report(m), whyMalformed, connect.CodeInvalidArgument)
	}
	elsewhere, err := record.Sign(d.key, record.ContextApply, d.flowReport(q))
	c.must(err)
	c.refused("a signature for another purpose", d.sendReport(elsewhere), whyMalformed, connect.CodeInvalidArgument)
	c.refused("nothing", d.sendReport(nil), whyMalformed, connect.CodeInvalidArgument)
	for name, id := range map[string][]byte{"another question": bytes.Repeat([]byte{1}, record.QuestionSize), "no question": nil} {
		m := d.flowReport(q)
		m.Question = id
		c.refused(name, d.report(m), whyQuestion, connect.CodeFailedPrecondition)
	}
	c.refused("of another device", other.report(other.flowReport(q)), whyQuestion, connect.CodeFailedPrecondition)
	huge := d.flowReport(q)
	huge.Flows = []*pb.FlowRecord{{Device: strings.Repeat("x", 2*record.MaxFlowReport)}}
	if err := d.report(huge); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("more than is read: %v", err)
	}
	c.must(d.report(d.flowReport(q)))
	if r := c.answered(got); r.err != nil {
		t.Error(r.err)
	}
}

// TestHostileReport: a device that signs what is not of the form is told so, and so is who asked.
func TestHostileReport(t *testing.T) {
	c := start(t, nil)
	d := c.member(c.token(domain.TokenWish{}), "a")
	f := d.watch(0, 0)
	f.sees("a")
	for name, change := range map[string]func(*pb.FlowReport){
		"no time":    func(m *pb.FlowReport) { m.Time = nil },
		"too many":   func(m *pb.FlowReport) { m.Flows = []*pb.FlowRecord{m.Flows[0], m.Flows[0], m.Flows[0]} },
		"no flow":    func(m *pb.FlowReport) { m.Flows[0] = &pb.FlowRecord{} },
		"an address": func(m *pb.FlowReport) { m.Flows[0].Source = "fe80::1%\x1b[31m" },
	} {
		got := c.ask(&pb.RefusedFlowsRequest{Device: "a", Limit: 2})
		m := d.flowReport(f.asked(), refusedFlow(c.now()))
		change(m)
		c.refused(name, d.report(m), whyMalformed, connect.CodeInvalidArgument)
		if r := c.answered(got); connect.CodeOf(r.err) != connect.CodeDataLoss || !strings.Contains(r.err.Error(), "a answered makes no sense") || strings.Contains(r.err.Error(), "\x1b") {
			t.Errorf("%s: %q", name, r.err)
		}
	}
}

// TestCleanFlow: of what a device says only what belongs to a refused flow is passed on, and nothing that a terminal would obey.
func TestCleanFlow(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	in := refusedFlow(at)
	in.Device, in.User, in.Tags, in.Protocol = "de\x1b[2Jsk", "an\nn", []string{"a\u202eb"}, "t\x07cp"
	in.Grant, in.Reason, in.OmittedNew, in.OmittedEnded = "web\x1b", "idle", 5, 6
	got, err := cleanFlow(in)
	want := refusedFlow(at)
	want.Device, want.Tags = "de[2Jsk", []string{"ab"}
	if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	long := refusedFlow(at)
	long.Device = strings.Repeat("é", 1000)
	if got, err := cleanFlow(long); err != nil || len(got.GetDevice()) != 128 {
		t.Errorf("a long name: %d bytes, %v", len(got.GetDevice()), err)
	}
	for name, change := range map[string]func(*pb.FlowRecord){
		"an allowed flow": func(r *pb.FlowRecord) { r.Kind = "new" }, "no kind": func(r *pb.FlowRecord) { r.Kind = "" },
		"a direction": func(r *pb.FlowRecord) { r.Direction = "up" }, "a port": func(r *pb.FlowRecord) { r.SourcePort = 65536 },
		"the other port": func(r *pb.FlowRecord) { r.DestinationPort = 1 << 31 }, "tags": func(r *pb.FlowRecord) { r.Tags = make([]string, maxTags+1) },
		"no time": func(r *pb.FlowRecord) { r.At = nil }, "a time": func(r *pb.FlowRecord) { r.Last.Nanos = -1 }, "a beginning": func(r *pb.FlowRecord) { r.Began.Seconds = 1 << 60 },
		"an address": func(r *pb.FlowRecord) { r.Destination = "here" }, "a zone": func(r *pb.FlowRecord) { r.Source = "fe80::1%eth0" },
	} {
		r := refusedFlow(at)
		change(r)
		if got, err := cleanFlow(r); err == nil {
			t.Errorf("%s was taken: %v", name, got)
		}
	}
}
