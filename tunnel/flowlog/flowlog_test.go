package flowlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/proto/key"
	pb "warren/proto/warrenv1"
	"warren/tunnel/filter"
)

// numbered are records that can be told apart.
func numbered(from, to int) (out []Record) {
	for n := from; n < to; n++ {
		out = append(out, Record{Kind: New, Flows: uint64(n)})
	}
	return out
}

func numbers(list []Record) (out []int) {
	for _, r := range list {
		out = append(out, int(r.Flows))
	}
	return out
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func recent(l *Log) []Record {
	list, _, stop := l.Follow()
	stop()
	return list
}

// TestRefused: what was refused stays, however much is allowed; but not for ever.
func TestRefused(t *testing.T) {
	l := NewLog(discard())
	for n := range 3 * maxRecent {
		l.Publish([]Record{{Kind: New}, {Kind: Omitted, OmittedEnded: 1}})
		if n%2 == 0 {
			l.Publish([]Record{{Kind: Refused, Flows: uint64(n)}, {Kind: Ended}})
		} else if n%3 == 0 {
			l.Publish([]Record{{Kind: Omitted, Flows: uint64(n), OmittedRefused: 1}})
		}
	}
	got := l.Refused()
	if len(got) != maxRecent || got[maxRecent-1].Flows != 3*maxRecent-2 {
		t.Fatalf("%d records, the last %+v", len(got), got[len(got)-1])
	}
	next := uint64(3*maxRecent - 1)
	for i := maxRecent - 1; i >= 0; i-- {
		for next--; next%2 != 0 && next%3 != 0; next-- {
		}
		want := Refused
		if next%2 != 0 {
			want = Omitted
		}
		if got[i].Kind != want || got[i].Flows != next {
			t.Fatalf("record %d is %+v, want %s %d", i, got[i], want, next)
		}
	}
}

func TestRecent(t *testing.T) {
	l := NewLog(discard())
	if got := recent(l); len(got) != 0 {
		t.Errorf("%d records of nothing", len(got))
	}
	for n := 0; n < 3*maxRecent; n += 7 {
		l.Publish(numbered(n, n+7))
		got := numbers(recent(l))
		if want := n + 7; len(got) != min(want, maxRecent) || got[len(got)-1] != want-1 || got[0] != max(0, want-maxRecent) || !slices.IsSorted(got) {
			t.Fatalf("after %d records: %d, from %d to %d", want, len(got), got[0], got[len(got)-1])
		}
	}
	if s := l.Stats(); s.Records[New] != uint64(len(numbers(recent(l)))+l.dropped()) || s.Records[Ended] != 0 {
		t.Errorf("%+v", s)
	}
}

// dropped is what is no longer in the ring, by the number of its first record.
func (l *Log) dropped() int { return numbers(recent(l))[0] }

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLog(discard())
		l.Publish(numbered(0, 5))
		recent, q, stop := l.Follow()
		if diff := cmp.Diff(counting(5), numbers(recent)); diff != "" {
			t.Error(diff)
		}
		got := make(chan []int)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer close(got)
			for {
				list, dropped, err := q.Next(ctx, 3)
				if err != nil {
					return
				}
				got <- append(numbers(list), -int(dropped))
			}
		}()
		synctest.Wait() // it waits
		l.Publish(numbered(5, 9))
		if diff := cmp.Diff([][]int{{5, 6, 7, 0}, {8, 0}}, [][]int{<-got, <-got}); diff != "" {
			t.Error(diff)
		}
		// One that does not listen loses the newest, and hears how many.
		l.Publish(numbered(0, maxFollower-100))
		l.Publish(numbered(maxFollower-100, maxFollower+50))
		total, last, dropped := 0, 0, 0
		for total+dropped < maxFollower+50 {
			list := <-got
			dropped -= list[len(list)-1]
			if total += len(list) - 1; len(list) > 1 {
				last = list[len(list)-2]
			}
		}
		if last != total-1 || dropped == 0 || total > maxFollower+3 {
			t.Errorf("%d records, the last is %d; %d dropped", total, last, dropped)
		}
		stop()
		l.Publish(numbered(0, 5))
		cancel()
		if list, ok := <-got; ok {
			t.Errorf("after stop: %v", list)
		}
		if len(l.followers) != 0 {
			t.Error("a follower is left")
		}
	})
}

// sink takes what its script lets it: each Write has the next error, and nil once they are used up. gate, if the sink is gated, holds Writes up.
type sink struct {
	mu     sync.Mutex
	script []error
	got    []int
	times  []time.Duration
	began  time.Time
	gate   chan struct{}
	closed bool
	gated  bool
}

func (s *sink) Name() string { return "test" }

func (s *sink) Close() error {
	s.closed = true
	return nil
}

func (s *sink) Write(ctx context.Context, list []Record) error {
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times = append(s.times, time.Since(s.began))
	if len(s.script) > 0 {
		err := s.script[0]
		s.script = s.script[1:]
		if err != nil {
			return err
		}
	}
	s.got = append(s.got, numbers(list)...)
	return nil
}

type patience struct{ time.Duration }

func (p patience) Error() string             { return "not now" }
func (p patience) RetryAfter() time.Duration { return p.Duration }

// exporting runs a Log with a sink in a bubble. It is over when do has returned.
func exporting(t *testing.T, s *sink, do func(l *Log, logged *bytes.Buffer)) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		if s.began = time.Now(); s.gated {
			s.gate = make(chan struct{})
		}
		l := NewLog(slog.New(slog.NewTextHandler(&logged, nil)), s)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		do(l, &logged)
		cancel()
		if err := <-done; err != nil || !s.closed {
			t.Errorf("Run: %v, closed %v", err, s.closed)
		}
	})
}

func counting(n int) (out []int) {
	for i := range n {
		out = append(out, i)
	}
	return out
}

// TestExport: records go out in order, in portions, and those that are refused are given up.
func TestExport(t *testing.T) {
	s := &sink{script: []error{nil, fmt.Errorf("%w: too old", ErrUnwanted), nil}}
	exporting(t, s, func(l *Log, logged *bytes.Buffer) {
		l.Publish(numbered(0, 3*portion))
		synctest.Wait()
		if diff := cmp.Diff(append(counting(portion), counting(3 * portion)[2*portion:]...), s.got); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]ExportStats{{To: "test", Sent: 2 * portion, Failed: portion}}, l.Stats().Exports); diff != "" {
			t.Error(diff)
		}
		if got := logged.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "too old") || strings.Count(got, "go out again") != 1 {
			t.Errorf("logged:\n%s", got)
		}
	})
}

// TestExportRetries: after a failure the same records go out later, less and less often; the sink may ask for more time.
func TestExportRetries(t *testing.T) {
	no := errors.New("no")
	s := &sink{script: []error{no, no, patience{10 * time.Second}, patience{time.Hour}, no, no, no, nil}}
	exporting(t, s, func(l *Log, logged *bytes.Buffer) {
		l.Publish(numbered(0, 5))
		<-time.After(time.Hour)
		synctest.Wait()
		want := []time.Duration{0, 1, 3, 13, 13 + 600, 13 + 600 + 16, 13 + 600 + 48, 13 + 600 + 108}
		for i := range want {
			want[i] *= time.Second
		}
		if diff := cmp.Diff(want, s.times); diff != "" {
			t.Errorf("times of attempts (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(counting(5), s.got); diff != "" {
			t.Error(diff)
		}
		if got := logged.String(); strings.Count(got, "level=WARN") != 1 || strings.Count(got, "again") != 1 {
			t.Errorf("logged:\n%s", got)
		}
	})
}

// TestExportHangs: Publish never waits for a sink; what does not fit is counted, and the end does not wait for ever either.
func TestExportHangs(t *testing.T) {
	s := &sink{gated: true}
	exporting(t, s, func(l *Log, logged *bytes.Buffer) {
		began := time.Now()
		for n := range 40 {
			l.Publish(numbered(n*portion, (n+1)*portion))
			synctest.Wait()
		}
		e := l.Stats().Exports[0]
		if e.Sent != 0 || e.Dropped != 39*portion-maxExport {
			t.Errorf("%+v", e)
		}
		s.gate <- struct{}{}
		synctest.Wait()
		if e := l.Stats().Exports[0]; e.Sent != portion {
			t.Errorf("%+v", e)
		}
		if !time.Now().Equal(began) {
			t.Error("somebody waited")
		}
	})
	if len(s.got) != portion {
		t.Errorf("%d records went out", len(s.got))
	}
}

// TestExportParts: what is left when it ends still goes out.
func TestExportParts(t *testing.T) {
	s := &sink{gated: true}
	var l *Log
	exporting(t, s, func(log *Log, _ *bytes.Buffer) {
		l = log
		l.Publish(numbered(0, 3*portion))
		synctest.Wait()
		close(s.gate)
	})
	if diff := cmp.Diff(counting(3*portion), s.got); diff != "" {
		t.Error(diff)
	}
	if e := l.Stats().Exports[0]; e.Sent != 3*portion || e.Dropped != 0 {
		t.Errorf("%+v", e)
	}
}

// tunnel is a Source: a filter with a clock.
type tunnel struct {
	*filter.Filter
	began time.Time
}

func (s tunnel) now() time.Duration { return time.Since(s.began) }

func (s tunnel) Collect(tell func(*filter.Record), omitted func(*filter.Peer, filter.Omitted)) {
	s.Filter.Collect(s.now(), tell, omitted)
}

func (s tunnel) Flows(_ key.DevicePublic, visit func(*filter.Record) bool) {
	s.Filter.Flows(nil, s.now(), visit)
}

// datagram is a UDP packet between a and b.
func datagram(a, b netip.AddrPort) []byte {
	p := make([]byte, 28)
	p[0], p[3], p[9] = 0x45, 28, 17
	copy(p[12:], a.Addr().AsSlice())
	copy(p[16:], b.Addr().AsSlice())
	p[20], p[21], p[22], p[23] = byte(a.Port()>>8), byte(a.Port()), byte(b.Port()>>8), byte(b.Port())
	return p
}

// TestCollector: what passes a filter comes out of the log: a beginning within a second, ends by idleness and with the tunnel, and a scan in a
// bounded number of records that account for all of it.
func TestCollector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := tunnel{filter.New(filter.Config{Records: true}), time.Now()}
		wire := func(s string) []*pb.Prefix {
			return []*pb.Prefix{{Address: netip.MustParseAddr(s).AsSlice(), Bits: 32}}
		}
		rules, err := filter.Compile([]*pb.Grant{{Id: "dns", Sources: wire(them), Destinations: wire(us), Flows: []*pb.Flow{{Protocol: 17, FirstPort: 53, LastPort: 53}}}})
		if err != nil {
			t.Fatal(err)
		}
		src.SetRules(rules, 0)
		l := NewLog(discard())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- (&Collector{Source: src, Log: l, Resolve: names}).Run(ctx) }()
		peer := &filter.Peer{ID: [32]byte{2}}
		ask := func(from int, to int) {
			src.Judge(filter.In, peer, datagram(port(them, from), port(us, to)), src.now())
		}
		lines := func() (out []string) {
			synctest.Wait()
			for _, r := range recent(l) {
				out = append(out, fmt.Sprintf("%v %s %d %d", r.At.Sub(src.began.UTC().Round(time.Millisecond)), r.String(), r.ReceivedPackets, r.Flows))
			}
			l.recent = ring{}
			return out
		}
		ask(1000, 53)
		ask(1000, 53)
		ask(1001, 53)
		<-time.After(interval)
		synctest.Wait() // the collector looks at the same moment
		ask(1002, 53)
		<-time.After(6 * time.Minute)
		want := []string{
			"1s new udp 100.64.0.2 to 100.64.0.1:53, in d2 of u2, 2 flows, grant dns 3 2",
			"2s new udp 100.64.0.2:1002 to 100.64.0.1:53, in d2 of u2, grant dns 1 1",
			"5m0s ended udp 100.64.0.2 to 100.64.0.1:53, in d2 of u2, 2 flows, grant dns, idle 3 2",
			"5m1s ended udp 100.64.0.2:1002 to 100.64.0.1:53, in d2 of u2, grant dns, idle 1 1",
		}
		if diff := cmp.Diff(want, lines()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		const scanned = 1 << 16
		for p := range scanned {
			if p != 53 {
				ask(2000, p)
			}
		}
		<-time.After(5 * time.Minute)
		synctest.Wait()
		flows, packets, n := uint64(0), uint64(0), len(recent(l))
		for _, r := range recent(l) {
			if r.Kind == Refused || r.Kind == Omitted {
				flows, packets = flows+r.Flows*b2u(r.Kind == Refused)+r.OmittedRefused, packets+r.ReceivedPackets
			}
		}
		if n > 4*maxPeer || packets != scanned-1 || flows != scanned-1 {
			t.Errorf("%d records with %d refused flows and %d packets of a scan of %d ports", n, flows, packets, scanned)
		}
		lines()
		ask(1000, 53)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want = []string{
			"11m1s new udp 100.64.0.2:1000 to 100.64.0.1:53, in d2 of u2, grant dns 1 1",
			"11m1s ended udp 100.64.0.2:1000 to 100.64.0.1:53, in d2 of u2, grant dns, tunnel down 1 1",
		}
		if diff := cmp.Diff(want, lines()); diff != "" {
			t.Errorf("at the end (-want +got):\n%s", diff)
		}
		// Flows that go on in another process have not ended.
		ctx, cancel = context.WithCancel(t.Context())
		go func() {
			done <- (&Collector{Source: src, Log: l, Resolve: names, GoOn: func() bool { return true }}).Run(ctx)
		}()
		ask(1003, 53)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, line := range lines() {
			if strings.Contains(line, "ended") {
				t.Errorf("told of a flow that goes on: %s", line)
			}
		}
	})
}

func b2u(b bool) uint64 { return uint64(b2i(b)) }
