package flowlog

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"warren/tunnel/filter"
)

const us, them, other = "100.64.0.1", "100.64.0.2", "100.64.0.3"

func noon() time.Time { return time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC) }

// names resolves peers by the first byte of their id.
func names(id [32]byte) Identity {
	return Identity{Device: fmt.Sprint("d", id[0]), User: fmt.Sprint("u", id[0]), Tags: []string{"t"}}
}

func port(addr string, p int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(p))
}

func compare(t testing.TB, what string, want, got []Record) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestBatch(t *testing.T) {
	p := &filter.Peer{ID: [32]byte{7}}
	b := newBatch(noon(), names)
	tcp := filter.Record{
		Kind: filter.Ended, Peer: p, Direction: filter.In, Proto: 6, Src: port(them, 1000), Dst: port(us, 443), Grant: "web", Reason: filter.Closed,
		Age: time.Minute, Idle: time.Second, Traffic: [2]filter.Traffic{{Packets: 1, Bytes: 100}, {Packets: 2, Bytes: 2000}},
	}
	next, ping, echo, refused := tcp, tcp, tcp, tcp
	next.Src, next.Age, next.Idle = port(them, 1001), time.Hour, 1500*time.Microsecond
	ping.Proto, ping.Src, ping.Dst, ping.Reason, ping.Kind, ping.Idle = 1, port(them, 5), port(us, 5), 0, filter.Began, 0
	echo = ping
	echo.Src, echo.Dst = port(them, 6), port(us, 6)
	refused.Kind, refused.Dst, refused.Grant, refused.Reason, refused.Idle = filter.Refused, port(us, 22), "", 0, 2*time.Second
	for _, r := range []filter.Record{tcp, ping, refused, next, echo} {
		b.add(&r)
	}
	b.omit(p, filter.Omitted{Ended: 5, Refused: 6, Traffic: [2]filter.Traffic{{Packets: 11, Bytes: 12}, {Packets: 13, Bytes: 14}}})
	who := Record{At: noon(), Device: "d7", User: "u7", Tags: []string{"t"}}
	record := func(change func(*Record)) Record {
		r := who
		change(&r)
		return r
	}
	from, to := netip.MustParseAddr(them), netip.MustParseAddr(us)
	compare(t, "records", []Record{
		record(func(r *Record) {
			r.Kind, r.Direction, r.Protocol, r.Source, r.SourcePort, r.Destination, r.DestinationPort = Refused, "in", "tcp", from, 1000, to, 22
			r.Began, r.Last, r.Flows = noon().Add(-time.Minute), noon().Add(-2*time.Second), 1
			r.ReceivedPackets, r.ReceivedBytes, r.SentPackets, r.SentBytes = 1, 100, 2, 2000
		}),
		record(func(r *Record) {
			r.Kind, r.Direction, r.Protocol, r.Source, r.Destination, r.DestinationPort = Ended, "in", "tcp", from, to, 443
			r.Began, r.Last, r.Flows, r.Grant, r.Reason = noon().Add(-time.Hour), noon().Add(-time.Millisecond), 2, "web", "closed"
			r.ReceivedPackets, r.ReceivedBytes, r.SentPackets, r.SentBytes = 2, 200, 4, 4000
		}),
		record(func(r *Record) {
			r.Kind, r.Direction, r.Protocol, r.Source, r.Destination, r.Began, r.Last = New, "in", "icmp", from, to, noon().Add(-time.Minute), noon()
			r.Flows, r.Grant = 2, "web"
			r.ReceivedPackets, r.ReceivedBytes, r.SentPackets, r.SentBytes = 2, 200, 4, 4000
		}),
		record(func(r *Record) {
			r.Kind, r.OmittedEnded, r.OmittedRefused = Omitted, 5, 6
			r.ReceivedPackets, r.ReceivedBytes, r.SentPackets, r.SentBytes = 11, 12, 13, 14
		}),
	}, b.records())
}

// TestBatchModel: whatever comes, records are bounded for each peer and in all, and every flow and byte is in one of them.
func TestBatchModel(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		peers := make([]*filter.Peer, 1+rng.IntN(60))
		for i := range peers {
			peers[i] = &filter.Peer{ID: [32]byte{byte(i)}}
		}
		b := newBatch(noon(), names)
		type sum struct{ flows, packets uint64 }
		want, distinct := map[string]sum{}, map[string]map[string]bool{}
		for range 3000 {
			p := peers[min(rng.IntN(len(peers)), rng.IntN(len(peers)))]
			r := filter.Record{
				Kind: []filter.Kind{filter.Began, filter.Ended, filter.Refused}[rng.IntN(3)], Peer: p, Proto: []uint8{6, 17, 1}[rng.IntN(3)],
				Src: port(them, rng.IntN(1000)), Dst: port(us, rng.IntN(1<<rng.IntN(8))), Traffic: [2]filter.Traffic{{Packets: uint64(rng.IntN(9))}},
			}
			b.add(&r)
			who := names(p.ID).Device
			s := want[who]
			want[who] = sum{s.flows + 1, s.packets + r.Traffic[0].Packets}
			like := fmt.Sprint(r.Kind, r.Proto, r.Dst)
			if r.Proto == 1 {
				like = fmt.Sprint(r.Kind, r.Proto)
			}
			if distinct[who] == nil {
				distinct[who] = map[string]bool{}
			}
			distinct[who][like] = true
		}
		got, records := map[string]sum{}, map[string]int{}
		list := b.records()
		for _, r := range list {
			s := got[r.Device]
			got[r.Device] = sum{s.flows + r.Flows + r.OmittedNew + r.OmittedEnded + r.OmittedRefused, s.packets + r.ReceivedPackets}
			if r.Kind != Omitted {
				records[r.Device]++
			}
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(sum{})); diff != "" {
			t.Fatalf("seed %d: flows and packets (-want +got):\n%s", seed, diff)
		}
		full := len(list)-len(records) > maxBatch
		for who, n := range records {
			if n > maxPeer || !full && len(peers) < 30 && n != min(maxPeer, len(distinct[who])) {
				t.Errorf("seed %d: %d records of %s, which has %d different flows", seed, n, who, len(distinct[who]))
			}
		}
		if len(list) > maxBatch+len(peers) {
			t.Errorf("seed %d: %d records", seed, len(list))
		}
		if !slices.IsSortedFunc(list, func(x, y Record) int { return b2i(x.Kind == Omitted) - b2i(y.Kind == Omitted) }) {
			t.Errorf("seed %d: what is omitted does not come last", seed)
		}
	}
}

func TestRecordText(t *testing.T) {
	r := Record{
		Kind: Ended, Direction: "out", Device: "desk", User: "ann", Protocol: "tcp", Source: netip.MustParseAddr("fd00::1"), SourcePort: 1000,
		Destination: netip.MustParseAddr("fd00::2"), DestinationPort: 443, Grant: "web", Reason: "idle",
	}
	merged := r
	merged.SourcePort, merged.Flows, merged.User = 0, 3, ""
	for want, r := range map[string]Record{
		"ended tcp [fd00::1]:1000 to [fd00::2]:443, out desk of ann, grant web, idle": r,
		"ended tcp fd00::1 to [fd00::2]:443, out desk, 3 flows, grant web, idle":      merged,
		"omitted desk of ann: 1 new, 2 ended and 3 refused flows":                     {Kind: Omitted, Device: "desk", User: "ann", OmittedNew: 1, OmittedEnded: 2, OmittedRefused: 3},
		"refused icmp 100.64.0.1 to 100.64.0.2, in desk":                              {Kind: Refused, Direction: "in", Device: "desk", Protocol: "icmp", Source: netip.MustParseAddr(us), Destination: netip.MustParseAddr(them)},
	} {
		if got := r.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestQuery(t *testing.T) {
	r := Record{At: noon(), Kind: New, Device: "desk", User: "ann", Grant: "web", Protocol: "tcp", DestinationPort: 443}
	for name, c := range map[string]struct {
		q    Query
		want bool
	}{
		"all":             {Query{}, true},
		"everything set":  {Query{[]string{Ended, New}, "desk", "ann", "web", "tcp", 443, noon()}, true},
		"another kind":    {Query{Kinds: []string{Ended}}, false},
		"another device":  {Query{Device: "lamp"}, false},
		"another user":    {Query{User: "bob"}, false},
		"another grant":   {Query{Grant: "ssh"}, false},
		"another flow":    {Query{Protocol: "udp", Port: 443}, false},
		"another port":    {Query{Protocol: "tcp", Port: 80}, false},
		"any port of TCP": {Query{Protocol: "tcp"}, true},
		"too old":         {Query{Since: noon().Add(1)}, false},
	} {
		if got := c.q.Matches(&r); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestKinds: the filter's kinds have the log's names.
func TestKinds(t *testing.T) {
	var got []string
	for k := filter.Live; k <= filter.Refused; k++ {
		got = append(got, kindOf(k))
	}
	if s := strings.Join(got, " "); s != "live new ended refused" {
		t.Error(s)
	}
}
