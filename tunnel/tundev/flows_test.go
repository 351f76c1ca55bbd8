package tundev

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"warren/proto/key"
	pb "warren/proto/warrenv1"
	"warren/tunnel/filter"
)

// site is a wrapped device of a gateway: it carries 10.1.0.0/16 besides its address, and has two peers, of which the first carries 10.2.0.0/16.
type site struct {
	*testing.T
	dev   *Device
	inner *fakeTUN
	nodes []key.NodePublic
	told  []key.NodePublic // that are in the map
	ids   []key.DevicePublic
}

const peerA, peerB = "100.64.0.2", "100.64.0.3"

// atSite runs do with a site that has a map with grants, each "SOURCE DESTINATION PROTOCOL PORT".
func atSite(t *testing.T, do func(*site), grants ...string) {
	synctest.Test(t, func(t *testing.T) {
		s := &site{T: t, inner: newFakeTUN(), nodes: keys(2), ids: []key.DevicePublic{key.NewDevice().Public(), key.NewDevice().Public()}}
		s.dev = Wrap(s.inner, Config{Filter: filter.Config{Records: true}})
		defer s.dev.Close()
		s.setMap(2, grants...)
		do(s)
	})
}

// setMap publishes a map with the first peers.
func (s *site) setMap(peers int, grants ...string) {
	s.Helper()
	rules, err := filter.Compile(parseGrants(s, grants...))
	if err != nil {
		s.Fatal(err)
	}
	list := []Peer{
		{Node: s.nodes[0], Device: s.ids[0], Prefixes: []netip.Prefix{netip.MustParsePrefix(peerA + "/32"), netip.MustParsePrefix("10.2.0.0/16")}},
		{Node: s.nodes[1], Device: s.ids[1], Prefixes: []netip.Prefix{netip.MustParsePrefix(peerB + "/32")}},
	}
	self := []netip.Prefix{netip.MustParsePrefix(us + "/32"), netip.MustParsePrefix("10.1.0.0/16")}
	gone := slices.DeleteFunc(s.told, func(k key.NodePublic) bool {
		return slices.ContainsFunc(s.nodes[:peers], k.Equal)
	})
	s.told = slices.Clone(s.nodes[:peers])
	s.dev.Update(Update{Self: self, Put: list[:peers], Gone: gone, Rules: rules})
	for _, n := range s.nodes[:peers] {
		s.dev.Configured(n, true)
	}
}

func parseGrants(t testing.TB, lines ...string) (out []*pb.Grant) {
	t.Helper()
	for _, line := range lines {
		var src, dst string
		var proto, port uint32
		if _, err := fmt.Sscan(line, &src, &dst, &proto, &port); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		wire := func(s string) []*pb.Prefix {
			p := netip.MustParsePrefix(s)
			return []*pb.Prefix{{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())}}
		}
		out = append(out, &pb.Grant{Id: line, Sources: wire(src), Destinations: wire(dst), Flows: []*pb.Flow{{Protocol: proto, FirstPort: port, LastPort: port}}})
	}
	return out
}

// segment is a TCP packet.
func segment(src string, sport uint16, dst string, dport uint16, flags byte) []byte {
	b := packet(src, dst, 0, 60)
	b[9] = protoTCP
	binary.BigEndian.PutUint16(b[20:], sport)
	binary.BigEndian.PutUint16(b[22:], dport)
	b[32], b[33] = 5<<4, flags
	return b
}

// arrives reports whether a packet from a peer reaches the host, leaves whether one of the host's goes to its peer.
func (s *site) arrives(b []byte) bool {
	s.inner.written = nil
	if _, err := s.dev.Write([][]byte{append(make([]byte, room), b...)}, room); err != nil {
		s.Fatal(err)
	}
	return len(s.inner.written) > 0
}

func (s *site) leaves(b []byte) bool {
	bufs, sizes := buffers(1)
	sizes[0] = copy(bufs[0][room:], b)
	return s.dev.outgoing(bufs, sizes, room) == 1
}

// connect begins a TCP connection from a peer to us, and reports whether it stands.
func (s *site) connect(from string, sport uint16, to string, dport uint16) bool {
	return s.arrives(segment(from, sport, to, dport, flagSYN)) && s.leaves(segment(to, dport, from, sport, flagSYN|0x10)) &&
		s.arrives(segment(from, sport, to, dport, 0x10))
}

// TestForwarded: what a gateway forwards is judged by the host that sent it, which the sender must carry.
func TestForwarded(t *testing.T) {
	atSite(t, func(s *site) {
		for _, c := range []struct {
			what     string
			from, to string
			port     uint16
			want     bool
		}{
			{"a granted host behind the peer, to a host behind us", "10.2.0.5", "10.1.0.9", 443, true},
			{"its neighbour", "10.2.0.6", "10.1.0.9", 443, false},
			{"the peer itself", peerA, "10.1.0.9", 443, false},
			{"another port", "10.2.0.5", "10.1.0.9", 80, false},
			{"our own address", "10.2.0.5", us, 443, false},
			{"what we do not carry", "10.2.0.5", "10.3.0.9", 443, false},
			{"a source that nobody carries", "10.9.0.5", "10.1.0.9", 443, false},
			{"a source that we carry", "10.1.0.5", "10.1.0.9", 443, false},
		} {
			if got := s.connect(c.from, 1000, c.to, c.port); got != c.want {
				t.Errorf("%s: %v", c.what, got)
			}
		}
		if c := s.dev.Counters(); c.NotOurs != 1 || c.Forged != 2 {
			t.Errorf("%+v", c)
		}
		icmp := packet("10.2.0.254", "10.1.0.9", 0, 28+28)
		icmp[9], icmp[20] = protoICMP, 3
		copy(icmp[28:], segment("10.1.0.9", 443, "10.2.0.5", 1000, 0)[:28])
		if !s.arrives(icmp) {
			t.Error("the answer's way was reported to be closed by a router there, in vain")
		}
		copy(icmp[12:], netip.MustParseAddr(peerB).AsSlice())
		if s.arrives(icmp) {
			t.Error("another peer reports on it")
		}
	}, "10.2.0.5/32 10.1.0.0/16 6 443")
}

// TestPolicyChange: a new map cuts those connections that it forbids, in both directions and at once, and leaves the others alone.
func TestPolicyChange(t *testing.T) {
	web, ssh, back := peerA+"/32 "+us+"/32 6 443", peerA+"/32 "+us+"/32 6 22", us+"/32 "+peerB+"/32 6 22"
	atSite(t, func(s *site) {
		if !s.connect(peerA, 1000, us, 443) || !s.connect(peerA, 1001, us, 22) || !s.leaves(segment(us, 1002, peerB, 22, flagSYN)) {
			t.Fatal("no connection")
		}
		s.collect()
		s.setMap(2, ssh, back)
		if s.arrives(segment(peerA, 1000, us, 443, 0x10)) || s.leaves(segment(us, 443, peerA, 1000, 0x10)) {
			t.Error("the connection that is forbidden goes on")
		}
		if !s.arrives(segment(peerA, 1001, us, 22, 0x10)) || !s.leaves(segment(us, 22, peerA, 1001, 0x10)) || !s.arrives(segment(peerB, 22, us, 1002, 0x12)) {
			t.Error("another was cut, too")
		}
		want := []string{
			fmt.Sprintf("ended policy %s:1000 %s:443 %q", peerA, us, web),
			fmt.Sprintf("refused  %s:443 %s:1000 %q", us, peerA, ""), fmt.Sprintf("refused  %s:1000 %s:443 %q", peerA, us, ""),
		}
		if diff := cmp.Diff(want, s.collect()); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
		s.setMap(2, web, ssh, back)
		if s.leaves(segment(us, 443, peerA, 1000, 0x10)) {
			t.Error("a connection that was cut is back by itself")
		}
	}, web, ssh, back)
}

// collect gives what happened to flows, a line each.
func (s *site) collect() (out []string) {
	s.dev.Collect(func(r *filter.Record) {
		out = append(out, fmt.Sprintf("%v %v %v %v %q", r.Kind, r.Reason, r.Src, r.Dst, r.Grant))
	}, func(*filter.Peer, filter.Omitted) { s.Error("left out") })
	slices.Sort(out)
	return out
}

// TestNewKey: flows outlive a peer's node key, and end when the peer leaves.
func TestNewKey(t *testing.T) {
	ssh := peerB + "/32 " + us + "/32 6 22"
	atSite(t, func(s *site) {
		if !s.connect(peerB, 1000, us, 22) {
			t.Fatal("no connection")
		}
		s.collect()
		s.nodes[1] = keys(1)[0]
		s.setMap(2, ssh)
		if got := s.collect(); got != nil || !s.leaves(segment(us, 22, peerB, 1000, 0x10)) {
			t.Errorf("after a change of key: %v", got)
		}
		n := 0
		s.dev.Flows(s.ids[1], func(*filter.Record) bool { n++; return true })
		s.dev.Flows(s.ids[0], func(*filter.Record) bool { n = 99; return true })
		if n != 1 {
			t.Errorf("%d flows of the peer", n)
		}
		s.setMap(1, ssh)
		if got := s.collect(); len(got) != 1 || !strings.HasPrefix(got[0], "ended peer left") {
			t.Errorf("after it left: %v", got)
		}
		s.dev.Flows(s.ids[1], func(*filter.Record) bool { t.Error("flows of nobody"); return true })
		s.setMap(2, ssh)
		if s.leaves(segment(us, 22, peerB, 1000, 0x10)) {
			t.Error("whoever has its address now has its connections")
		}
	}, ssh)
}

// TestRunsAreCounted: flow by flow, each packet of a batch that passes counts once, wherever runs begin and end.
func TestRunsAreCounted(t *testing.T) {
	all := []string{"0.0.0.0/0 0.0.0.0/0 6 443", "0.0.0.0/0 0.0.0.0/0 17 2"}
	for seed := range uint64(20) {
		atSite(t, func(s *site) {
			rng, want := rand.New(rand.NewPCG(seed, 5)), map[string][2]filter.Traffic{}
			var passed [2]uint64
			note := func(d filter.Direction, b []byte) {
				passed[d]++
				w := want[nameOf(b, d)]
				w[d].Packets++
				w[d].Bytes += uint64(len(b))
				want[nameOf(b, d)] = w
			}
			for i := range 8 { // what comes in over TCP is answers
				b := segment([]string{us, "10.1.0.9"}[i&1], uint16(1000+i>>2), []string{peerA, peerB}[i>>1&1], 443, flagSYN)
				s.pass(filter.Out, [][]byte{b})
				note(filter.Out, b)
			}
			draw := func(d filter.Direction) (b []byte) {
				local, remote := []string{us, "10.1.0.9"}[rng.IntN(2)], []string{peerA, peerB}[rng.IntN(2)]
				src, dst, sport, dport := local, remote, uint16(1000+rng.IntN(2)), uint16(443)
				if d == filter.In {
					src, dst, sport, dport = remote, local, dport, sport
				}
				if rng.IntN(8) == 0 { // refused
					dport, sport = 7, 7
				}
				b = segment(src, sport, dst, dport, []byte{0x10, 0x10, 0x10, 0x18, flagSYN}[rng.IntN(5)])
				if rng.IntN(4) == 0 {
					b = packet(src, dst, 0, 60+rng.IntN(200))
				}
				return b
			}
			for range 50 {
				for _, d := range []filter.Direction{filter.Out, filter.In} {
					var batch [][]byte
					last := draw(d)
					for range 1 + rng.IntN(20) {
						if rng.IntN(3) == 0 {
							last = draw(d)
						}
						batch = append(batch, slices.Clone(last))
						if last[9] != protoTCP || binary.BigEndian.Uint16(last[22:]) != 7 {
							note(d, last)
						}
					}
					s.pass(d, batch)
				}
			}
			got := map[string][2]filter.Traffic{}
			s.dev.Flows(key.DevicePublic{}, func(r *filter.Record) bool {
				b := segment(r.Src.Addr().String(), r.Src.Port(), r.Dst.Addr().String(), r.Dst.Port(), 0)
				b[9] = r.Proto
				got[nameOf(b, r.Direction)] = r.Traffic
				return true
			})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("seed %d: flows (-want +got):\n%s", seed, diff)
			}
			if c := s.dev.Counters().Filter; c.In[filter.Pass] != passed[filter.In] || c.Out[filter.Pass] != passed[filter.Out] {
				t.Errorf("seed %d: %+v, want %d passed", seed, c, passed)
			}
		}, all...)
	}
}

// nameOf names a flow: the host here, the peer, and protocol and ports.
func nameOf(b []byte, d filter.Direction) string {
	src, dst := fmt.Sprint(b[12:16], b[20:22]), fmt.Sprint(b[16:20], b[22:24])
	if d == filter.In {
		src, dst = dst, src
	}
	return fmt.Sprint(src, dst, b[9])
}

// pass has a batch go through the device.
func (s *site) pass(d filter.Direction, batch [][]byte) {
	bufs, sizes := buffers(len(batch))
	for i, b := range batch {
		sizes[i] = copy(bufs[i][room:], b)
		bufs[i] = bufs[i][:room+sizes[i]]
	}
	if d == filter.Out {
		s.dev.outgoing(bufs, sizes, room)
	} else if _, err := s.dev.Write(bufs, room); err != nil {
		s.Fatal(err)
	}
}

// TestFlowsOutliveTheProcess: the answer to a packet that left before the restart arrives after it; one to nothing does not, nor one of a device that
// has left the map meanwhile.
func TestFlowsOutliveTheProcess(t *testing.T) {
	grants := []string{us + "/32 " + peerA + "/32 17 2"}
	atSite(t, func(s *site) {
		s.inner.feed(to(peerA, 1))
		bufs, sizes := buffers(4)
		if n, err := s.dev.Read(bufs, sizes, room); n != 1 || err != nil {
			s.Fatalf("%d read, %v", n, err)
		}
		flows := s.dev.KeepFlows()
		if len(flows) != 1 {
			s.Fatalf("%d flows kept, want 1", len(flows))
		}
		answer := packet(peerA, us, 2, 0)
		answer[20], answer[21], answer[22], answer[23] = 0, 2, 0, 1
		for name, c := range map[string]struct {
			flows   []filter.Kept
			peers   int
			arrives int
		}{"with flows": {flows, 2, 1}, "without": {nil, 2, 0}, "its peer has left": {flows, 0, 0}} {
			next := &site{T: s.T, inner: newFakeTUN(), nodes: s.nodes, ids: s.ids}
			next.dev = Wrap(next.inner, Config{Filter: filter.Config{Records: true}})
			defer next.dev.Close()
			next.setMap(c.peers, grants...)
			if taken := next.dev.RestoreFlows(c.flows); taken != c.arrives {
				s.Errorf("%s: %d flows taken, want %d", name, taken, c.arrives)
			}
			buf := append(make([]byte, room), answer...)
			if _, err := next.dev.Write([][]byte{buf}, room); err != nil {
				s.Fatal(err)
			}
			if got := len(next.inner.written); got != c.arrives {
				s.Errorf("%s: %d answers arrived, want %d", name, got, c.arrives)
			}
		}
	}, grants...)
}
