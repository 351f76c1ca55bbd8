package client

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
	"warren/proto/warrenv1/warrenv1connect"
)

// reports is a coordinator that takes reports and nothing else.
type reports struct {
	warrenv1connect.CoordinatorServiceClient
	got  chan *pb.Signed
	fail error
}

func (r *reports) ReportFlows(ctx context.Context, req *connect.Request[pb.ReportFlowsRequest]) (*connect.Response[pb.ReportFlowsResponse], error) {
	select {
	case r.got <- req.Msg.GetReport():
		return connect.NewResponse(&pb.ReportFlowsResponse{}), r.fail
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// answering makes a client of its own that is connected to a coordinator.
func answering(t *testing.T, on func(FlowsWanted) RefusedFlows) (*answerer, *reports, *bytes.Buffer, key.SigningPrivate) {
	t.Helper()
	var log bytes.Buffer
	signing := key.NewSigning()
	c, err := New(Config{
		Network: record.NetworkID{7}, Device: key.NewDevice(), Endpoints: []token.Endpoint{{URL: "https://x"}}, OnFlowsWanted: on,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &reports{got: make(chan *pb.Signed)}
	return c.newAnswerer(t.Context(), &link{CoordinatorServiceClient: r, signing: signing.Public()}), r, &log, signing
}

func number(n byte) []byte { return bytes.Repeat([]byte{n}, record.QuestionSize) }

// TestAnswer: what the coordinator asks for is given, signed for it and its question, and the device's owner can see it in the log.
func TestAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []FlowsWanted
		flow := &pb.FlowRecord{Kind: "refused", Device: "desk"}
		a, coordinator, log, signing := answering(t, func(w FlowsWanted) RefusedFlows {
			asked = append(asked, w)
			return RefusedFlows{Flows: []*pb.FlowRecord{flow}, LeftOut: 3, Unrecorded: true}
		})
		for _, q := range []*pb.FlowsWanted{
			{Question: number(1), Since: durationpb.New(time.Hour), Limit: 5}, {Question: number(2)}, {Question: number(3), Since: durationpb.New(-1), Limit: 1 << 31},
		} {
			a.handle(q)
			var m pb.FlowReport
			if err := record.Open(a.cfg.Device.Public(), record.ContextFlows, <-coordinator.got, &m); err != nil {
				t.Fatal(err)
			}
			want := &pb.FlowReport{
				NetworkId: a.cfg.Network[:], CoordinatorKey: signing.Public().Bytes(), DeviceKey: a.cfg.Device.Public().Bytes(), Question: q.GetQuestion(),
				Time: timestamppb.New(time.Now()), Flows: []*pb.FlowRecord{flow}, LeftOut: 3, Unrecorded: true,
			}
			if diff := cmp.Diff(want, &m, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			synctest.Wait()
		}
		want := []FlowsWanted{{time.Hour, 5}, {0, record.MaxFlows}, {0, record.MaxFlows}}
		if diff := cmp.Diff(want, asked); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if n := strings.Count(log.String(), "the coordinator asks which flows were refused here"); n != 3 {
			t.Errorf("%d lines in the log:\n%s", n, log)
		}
		a.close()
	})
}

// TestQuestionsTooOften: one at a time is answered, and not too many; the Watch never waits.
func TestQuestionsTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		a, coordinator, log, _ := answering(t, func(FlowsWanted) RefusedFlows { made++; return RefusedFlows{} })
		a.handle(&pb.FlowsWanted{Question: number(1)})
		synctest.Wait()
		a.handle(&pb.FlowsWanted{Question: number(2)}) // while the first is on its way
		<-coordinator.got
		synctest.Wait()
		for n := range byte(10) {
			a.handle(&pb.FlowsWanted{Question: number(n)})
			synctest.Wait()
			select {
			case <-coordinator.got:
			default:
			}
			synctest.Wait()
		}
		if made != questionsAtOnce-1 || !strings.Contains(log.String(), "too often") || !strings.Contains(log.String(), "while it is being answered") {
			t.Errorf("%d answers at once, log\n%s", made, log)
		}
		<-time.After(questionEvery)
		a.handle(&pb.FlowsWanted{Question: number(9)})
		<-coordinator.got
		if synctest.Wait(); made != questionsAtOnce {
			t.Errorf("%d answers in all", made)
		}

		// An answer that nobody takes is given up, as is one whose Watch ends.
		<-time.After(questionEvery)
		a.handle(&pb.FlowsWanted{Question: number(9)})
		<-time.After(reportTime)
		if synctest.Wait(); !strings.Contains(log.String(), "could not be reported") {
			t.Errorf("log\n%s", log)
		}
		a.handle(&pb.FlowsWanted{Question: number(9)})
		a.close()
	})
}

// TestQuestionsThatAreNone: a device that does not answer, and a question that is none.
func TestQuestionsThatAreNone(t *testing.T) {
	a, _, log, _ := answering(t, func(FlowsWanted) RefusedFlows { t.Error("asked"); return RefusedFlows{} })
	a.handle(&pb.FlowsWanted{Question: number(1)[1:]})
	a.cfg.OnFlowsWanted = nil
	a.handle(&pb.FlowsWanted{Question: number(1)})
	a.close()
	if strings.Count(log.String(), "does not answer") != 2 {
		t.Errorf("log\n%s", log)
	}
}

// TestFailedReport: what the coordinator says of a report is in the log.
func TestFailedReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, coordinator, log, _ := answering(t, func(FlowsWanted) RefusedFlows { return RefusedFlows{} })
		coordinator.fail = errors.New("nobody waits")
		a.handle(&pb.FlowsWanted{Question: number(1)})
		<-coordinator.got
		if synctest.Wait(); !strings.Contains(log.String(), "nobody waits") {
			t.Errorf("log\n%s", log)
		}
		a.close()
	})
}

// TestFitting: the newest records that a report has room for, and no fewer.
func TestFitting(t *testing.T) {
	var list []*pb.FlowRecord
	for n := range 4 * record.MaxFlows {
		list = append(list, &pb.FlowRecord{Device: strings.Repeat("x", n%700), SourcePort: uint32(n)})
		got := fitting(list)
		if len(got) == 0 || got[len(got)-1] != list[n] {
			t.Fatalf("%d of %d records, without the newest", len(got), n)
		}
		m := &pb.FlowReport{NetworkId: number(1), CoordinatorKey: number(1), DeviceKey: number(1), Question: number(1), Flows: got, LeftOut: 1 << 60}
		if n%97 > 0 {
			continue
		}
		size := proto.Size(m)
		if size > record.MaxFlowReport-reportRest/2 {
			t.Fatalf("%d bytes", size)
		}
		if len(got) < len(list) && size < record.MaxFlowReport-reportRest-1000-4*len(got) {
			t.Fatalf("%d bytes, and %d of %d records", size, len(got), len(list))
		}
	}
	if len(fitting(list)) == len(list) || fitting(nil) != nil {
		t.Error("no bound")
	}
}

// TestUnknownEvent: what a newer coordinator sends on a Watch, and this program does not know, changes nothing.
func TestUnknownEvent(t *testing.T) {
	c, err := New(Config{Device: key.NewDevice(), Endpoints: []token.Endpoint{{URL: "https://x"}}, OnMap: func(*Map) { t.Error("a map") }})
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []pb.Role{pb.Role_ROLE_DEVICE, pb.Role_ROLE_RELAY} {
		c.cfg.Role = role
		m := new(pb.WatchResponse)
		if err := proto.Unmarshal([]byte{0xfa, 0x01, 2, 8, 1}, m); err != nil || m.GetEvent() != nil { // field 31
			t.Fatal(m, err)
		}
		if err := c.handle(m); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	}
}
