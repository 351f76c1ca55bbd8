package handover

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"warren/nat/candidate"
	"warren/nat/traversal"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/tunnel/bind"
	"warren/tunnel/filter"
)

var (
	moment = Moment{Boot: "b1", At: time.Hour}
	equal  = cmp.Options{
		cmp.Comparer(key.NodePublic.Equal), cmp.Comparer(key.DevicePublic.Equal),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
)

func sample() *State {
	at := netip.MustParseAddrPort
	direct := traversal.Path{
		Kind: traversal.Direct, Local: netip.AddrPortFrom(netip.MustParseAddr("192.168.1.2"), 0), Remote: at("203.0.113.9:4000"), RTT: 20 * time.Millisecond, MTU: 1380,
	}
	return &State{
		Network: record.NetworkID{1, 2}, Device: key.NewDevice().Public(),
		Peers: []Peer{
			{Kept: traversal.Kept{Device: key.NewDevice().Public(), Candidates: []candidate.Candidate{{Kind: pb.CandidateKind_CANDIDATE_KIND_HOST, Addr: at("10.0.0.7:7")}}, Path: direct},
				Node: key.NewNode().Public(), Relays: [][key.Size]byte{{7}, {8}}},
			{Kept: traversal.Kept{Device: key.NewDevice().Public(), Path: traversal.Path{Kind: traversal.Direct, Remote: at("[2001:db8::9]:4000")}}, Node: key.NewNode().Public()},
			{Kept: traversal.Kept{Device: key.NewDevice().Public()}, Node: key.NewNode().Public()},
		},
		Stamps: map[[key.Size]byte][bind.StampSize]byte{{1}: {0x40, 1}, {2}: {0x40, 2}},
		Flows: []filter.Kept{
			{Peer: [32]byte{3}, Direction: filter.Out, Proto: 6, Src: at("100.64.0.1:9"), Dst: at("100.64.0.2:80"), Seen: 1, Told: true, Age: time.Hour, Idle: time.Second,
				Left: time.Minute, Traffic: [2]filter.Traffic{{Packets: 1, Bytes: 2}, {Packets: 3, Bytes: 4}}},
			{Peer: [32]byte{3}, Direction: filter.In, Proto: 17, Src: at("[fd00::1]:9"), Dst: at("[fd00::2]:80"), Left: time.Minute},
		},
		Choices: map[netip.Prefix][key.Size]byte{netip.MustParsePrefix("10.1.0.0/16"): {5}, netip.MustParsePrefix("::/0"): {6}},
	}
}

func TestRoundTrip(t *testing.T) {
	s := sample()
	b, err := Encode(s, moment)
	if err != nil {
		t.Fatal(err)
	}
	got, omitted, err := Decode(b, Moment{Boot: "b1", At: moment.At + MaxAge})
	if err != nil || omitted != 0 {
		t.Fatalf("%d omitted, %v", omitted, err)
	}
	if diff := cmp.Diff(s, got, equal); diff != "" {
		t.Errorf("(-written +read)\n%s", diff)
	}
	again, err := Encode(got, moment)
	if err != nil || string(again) != string(b) {
		t.Errorf("written again it differs (%v)", err)
	}
}

// TestOnlyFresh: what was written by another start of the host, too long ago or in the future, is not believed.
func TestOnlyFresh(t *testing.T) {
	b, err := Encode(sample(), moment)
	if err != nil {
		t.Fatal(err)
	}
	for name, now := range map[string]Moment{
		"another start": {"b2", moment.At}, "too old": {"b1", moment.At + MaxAge + 1}, "of the future": {"b1", moment.At - 1}, "no start": {"", moment.At},
	} {
		if s, _, err := Decode(b, now); !errors.Is(err, ErrOld) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

func TestMostRecentPeersOnly(t *testing.T) {
	s := sample()
	for len(s.Peers) <= MaxPeers {
		s.Peers = append(s.Peers, s.Peers[2])
	}
	b, err := Encode(s, moment)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := Decode(b, moment); err != nil || len(got.Peers) != MaxPeers || !got.Peers[0].Node.Equal(s.Peers[0].Node) {
		t.Errorf("%d peers, %v", len(got.Peers), err)
	}
}

// TestDecodeLeavesOut: a part that makes no sense does not cost the others.
func TestDecodeLeavesOut(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*pb.Handover)
		omitted int
		err     error
	}{
		"as it was":               {func(*pb.Handover) {}, 0, nil},
		"a newer layout":          {func(m *pb.Handover) { m.Layout++ }, 0, ErrNewer},
		"no layout":               {func(m *pb.Handover) { m.Layout = 0 }, 0, ErrDamaged},
		"no network":              {func(m *pb.Handover) { m.Network = nil }, 0, ErrDamaged},
		"no device":               {func(m *pb.Handover) { m.Device = []byte{1} }, 0, ErrDamaged},
		"a peer's device key":     {func(m *pb.Handover) { m.Peers[0].Device = nil }, 1, nil},
		"a peer's node key":       {func(m *pb.Handover) { m.Peers[1].Node = []byte("short") }, 1, nil},
		"a peer's candidate":      {func(m *pb.Handover) { m.Peers[0].Candidates[0].Address = []byte{1} }, 1, nil},
		"too many candidates":     {func(m *pb.Handover) { m.Peers[0].Candidates = make([]*pb.Candidate, candidate.Max+1) }, 1, nil},
		"a timestamp":             {func(m *pb.Handover) { m.Stamps[0].Stamp = nil }, 1, nil},
		"a timestamp's key":       {func(m *pb.Handover) { m.Stamps[1].Node = nil }, 1, nil},
		"a flow's address":        {func(m *pb.Handover) { m.Flows[0].Source = []byte{1, 2} }, 1, nil},
		"a flow's port":           {func(m *pb.Handover) { m.Flows[0].DestinationPort = 1 << 16 }, 1, nil},
		"a flow's protocol":       {func(m *pb.Handover) { m.Flows[0].Protocol = 256 }, 1, nil},
		"a flow's peer":           {func(m *pb.Handover) { m.Flows[0].Device = nil }, 1, nil},
		"a choice's bits":         {func(m *pb.Handover) { m.Choices[0].Bits = 1 << 31 }, 1, nil},
		"a choice with host bits": {func(m *pb.Handover) { m.Choices[1].Bits = 8; m.Choices[1].Address = []byte{10, 1, 0, 0} }, 1, nil},
		"a choice's gateway":      {func(m *pb.Handover) { m.Choices[1].Gateway = nil }, 1, nil},
		"nothing there":           {func(m *pb.Handover) { m.Peers, m.Stamps, m.Flows, m.Choices = nil, nil, nil, nil }, 0, nil},
	} {
		b, err := Encode(sample(), moment)
		if err != nil {
			t.Fatal(err)
		}
		var m pb.Handover
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		c.change(&m)
		if b, err = proto.Marshal(&m); err != nil {
			t.Fatal(err)
		}
		_, omitted, err := Decode(b, moment)
		if omitted != c.omitted || !errors.Is(err, c.err) {
			t.Errorf("%s: %d omitted, %v", name, omitted, err)
		}
	}
}

// TestPathOfNoUse: the peer stays, without its path.
func TestPathOfNoUse(t *testing.T) {
	good := &pb.HandoverPeer{Remote: []byte{203, 0, 113, 9}, RemotePort: 7, Local: []byte{10, 0, 0, 1}, Mtu: 1400, Rtt: durationpb.New(time.Millisecond)}
	if p := decodePath(good); p.Kind != traversal.Direct {
		t.Fatalf("%+v", p)
	}
	for name, change := range map[string]func(*pb.HandoverPeer){
		"no address": func(m *pb.HandoverPeer) { m.Remote = nil }, "no port": func(m *pb.HandoverPeer) { m.RemotePort = 0 },
		"a port that is none": func(m *pb.HandoverPeer) { m.RemotePort = 65536 }, "too large": func(m *pb.HandoverPeer) { m.Mtu = 65536 },
		"too slow": func(m *pb.HandoverPeer) { m.Rtt = durationpb.New(maxRTT + 1) }, "too fast": func(m *pb.HandoverPeer) { m.Rtt = durationpb.New(-1) },
		"another family": func(m *pb.HandoverPeer) { m.Local = make([]byte, 16) }, "no local address": func(m *pb.HandoverPeer) { m.Local = []byte{1} },
	} {
		m := proto.CloneOf(good)
		change(m)
		if p := decodePath(m); p != (traversal.Path{}) {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// FuzzDecode: no bytes make it panic, and what it takes it gives on unchanged.
func FuzzDecode(f *testing.F) {
	b, err := Encode(sample(), moment)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, _, err := Decode(b, moment)
		if err != nil {
			return
		}
		again, err := Encode(s, moment)
		if err != nil {
			t.Fatal(err)
		}
		same, omitted, err := Decode(again, moment)
		if diff := cmp.Diff(s, same, equal); err != nil || omitted != 0 || diff != "" {
			t.Errorf("%d omitted, %v (-first +second)\n%s", omitted, err, diff)
		}
	})
}
