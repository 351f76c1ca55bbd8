package daemon

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"warren/cmd/agent/internal/state"
	"warren/coord/client"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/tunnel/engine"
	"warren/tunnel/routeplan"
	"warren/tunnel/router"
	"warren/tunnel/tundev"
)

// host stands for engine and router, and keeps what they were told.
type host struct {
	peers   map[string][]netip.Prefix
	carries []netip.Prefix
	state   router.State
	refuses error // what Apply answers
	links   []routeplan.Link

	neighbours, probed []netip.Addr
	wanted             []key.NodePublic
	names              map[deviceKey]string
	puts               int
}

func (h *host) Update(c engine.Change) {
	h.carries = c.Carries
	for _, k := range c.Gone {
		delete(h.peers, h.names[k.Raw()])
	}
	for _, p := range c.Put {
		h.peers[h.names[p.Device.Raw()]] = p.Prefixes
		h.puts++
	}
}

func (h *host) Apply(s router.State) error { h.state = s; return h.refuses }

func (h *host) SendWord(key.DevicePublic, []byte) error { return nil }
func (h *host) Probe(a netip.Addr, _, _ uint16) error {
	h.probed = append(h.probed, a)
	return nil
}
func (h *host) Uses(key.DevicePublic, netip.Prefix, key.DevicePublic) bool { return true }
func (h *host) Traffic(key.DevicePublic) []tundev.Traffic                  { return nil }
func (h *host) Hosts(netip.Prefix) []tundev.Host                           { return nil }

func (h *host) Want(k key.NodePublic) { h.wanted = append(h.wanted, k) }

func (h *host) Notes() []string                   { return nil }
func (h *host) Read() ([]routeplan.Link, error)   { return h.links, nil }
func (h *host) Neighbours() ([]netip.Addr, error) { return h.neighbours, nil }
func (h *host) Forget()                           {}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// office is a map with two gateways of 10.1.0.0/16, of which b is preferred, one of 10.0.0.0/8, and an exit node.
type office struct {
	*networks
	host *host
	m    *client.Map
}

func newOffice(t *testing.T, routing state.Routing) *office {
	t.Helper()
	self := &record.Device{Key: key.NewDevice().Public(), Name: "self", Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.1")}}
	h := &host{peers: map[string][]netip.Prefix{}, names: map[deviceKey]string{}}
	o := &office{host: h, networks: newNetworks(self, routing, h, h, h, time.Now, slog.New(slog.DiscardHandler))}
	o.m = &client.Map{Self: self, Statement: &record.Statement{MapStatement: new(pb.MapStatement), Prefixes: prefixes("100.64.0.0/16")}}
	o.peer("a", "100.64.0.2", 100, "10.1.0.0/16")
	o.peer("b", "100.64.0.3", 200, "10.1.0.0/16")
	o.peer("wide", "100.64.0.4", 100, "10.0.0.0/8")
	o.peer("exit", "100.64.0.5", 100, "0.0.0.0/0", "::/0")
	o.peer("plain", "100.64.0.6", 100)
	return o
}

func (o *office) peer(name, address string, priority uint8, carries ...string) {
	p := &record.Device{
		Key: key.NewDevice().Public(), NodeKey: key.NewNode().Public(), Name: name, Addresses: []netip.Addr{netip.MustParseAddr(address)},
		Routes: prefixes(carries...),
	}
	o.host.names[p.Key.Raw()] = name
	o.m.Peers = append(o.m.Peers, p)
	for _, r := range p.Routes {
		o.m.Statement.Routes = append(o.m.Statement.Routes, record.Route{Prefix: r, Gateway: p.Key.Raw(), Priority: priority})
	}
}

func (o *office) use() *office {
	o.setMap(newKnown(o.m), o.self, defaultMTU, nil, o.m.Peers)
	return o
}

// check compares what each peer has besides its own address, and which routes the host has besides the network's.
func (o *office) check(t *testing.T, peers map[string][]netip.Prefix, routes ...string) {
	t.Helper()
	got := map[string][]netip.Prefix{}
	for name, list := range o.host.peers {
		if len(list) > 1 {
			got[name] = list[1:]
		}
	}
	equal := cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()}
	if diff := cmp.Diff(peers, got, equal); diff != "" {
		t.Errorf("peers (-want +got):\n%s", diff)
	}
	want := append(prefixes(routes...), o.m.Statement.Prefixes...)
	slices.SortFunc(want, netip.Prefix.Compare)
	if diff := cmp.Diff(want, o.host.state.Routes, equal); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

func TestNetworksChoose(t *testing.T) {
	o := newOffice(t, state.Routing{}).use()
	o.check(t, map[string][]netip.Prefix{"b": prefixes("10.1.0.0/16"), "wide": prefixes("10.0.0.0/8")}, "10.0.0.0/8", "10.1.0.0/16")

	o.set(state.Routing{RefuseRoutes: true})
	o.check(t, map[string][]netip.Prefix{})

	o.host.puts = 0
	o.set(state.Routing{ExitNode: "exit"})
	if o.host.puts != 3 {
		t.Errorf("%d peers were put, want the 3 that changed", o.host.puts)
	}
	all := map[string][]netip.Prefix{"b": prefixes("10.1.0.0/16"), "wide": prefixes("10.0.0.0/8"), "exit": prefixes("0.0.0.0/0", "::/0")}
	o.check(t, all, "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "::/0")
	o.set(state.Routing{ExitNode: autoExit})
	o.check(t, all, "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "::/0")

	o.set(state.Routing{ExitNode: "plain", RefuseRoutes: true})
	o.check(t, map[string][]netip.Prefix{})
}

// TestNetworksUnsigned: what the coordinator says beyond what the authority has signed is not believed.
func TestNetworksUnsigned(t *testing.T) {
	o := newOffice(t, state.Routing{ExitNode: autoExit})
	for _, p := range o.m.Peers {
		p.Routes = nil
	}
	o.use().check(t, map[string][]netip.Prefix{})
}

func TestNetworksCarry(t *testing.T) {
	o := newOffice(t, state.Routing{Site: []string{"10.1.0.0/16"}, Advertise: []string{"192.168.1.0/24=10.77.1.0/24", "10.5.0.0/16"}, AdvertiseExit: true})
	o.self.Routes = prefixes("10.1.0.0/16", "10.77.1.0/24", "0.0.0.0/0", "10.9.0.0/16")
	o.use()
	equal := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(prefixes("0.0.0.0/0", "10.1.0.0/16", "10.77.1.0/24"), o.host.carries, equal); diff != "" {
		t.Errorf("carried, of what is advertised and approved (-want +got):\n%s", diff)
	}
	want := []router.Carried{
		{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Kind: router.Site, LAN: netip.MustParsePrefix("10.1.0.0/16")},
		{Prefix: netip.MustParsePrefix("10.77.1.0/24"), Kind: router.Masquerade, LAN: netip.MustParsePrefix("192.168.1.0/24")},
	}
	if diff := cmp.Diff(want, o.host.state.Carried, equal); diff != "" {
		t.Errorf("host (-want +got):\n%s", diff)
	}
	if !o.host.state.Exit.IPv4 || o.host.state.Exit.IPv6 {
		t.Errorf("exit node of %+v, want IPv4, which is approved", o.host.state.Exit)
	}
	o.check(t, map[string][]netip.Prefix{"wide": prefixes("10.0.0.0/8")}, "10.0.0.0/8") // not 10.1.0.0/16, which is its own
}

func TestNetworksStatus(t *testing.T) {
	o := newOffice(t, state.Routing{ExitNode: "plain", KillSwitch: true, Advertise: []string{"10.5.0.0/16", "10.6.0.0/16", "10.7.0.0/16"}})
	o.self.Routes, o.m.Statement.Waiting = prefixes("10.5.0.0/16"), prefixes("10.6.0.0/16")
	o.use()
	var s pb.StatusResponse
	o.fill(&s)
	states := map[string]string{}
	for _, a := range s.GetAdvertised() {
		states[a.GetPrefix()] = a.GetState()
	}
	if diff := cmp.Diff(map[string]string{"10.5.0.0/16": "approved", "10.6.0.0/16": "waiting", "10.7.0.0/16": "untold"}, states); diff != "" {
		t.Errorf("advertised (-want +got):\n%s", diff)
	}
	if e := s.GetExit(); e.GetNode() != "" || !strings.Contains(e.GetProblem(), "plain is no exit node for this device; those are exit") {
		t.Errorf("exit %v", e)
	}
	if len(s.GetRoutes()) != 2 || s.GetRoutes()[1].GetGateway() != "b" || len(s.GetRoutes()[1].GetGateways()) != 2 || !s.GetKillSwitch() {
		t.Errorf("routes %v", s.GetRoutes())
	}
}

// TestNetworksMixedUp: what is in the way of the network's own addresses is not carried, and that is told.
func TestNetworksMixedUp(t *testing.T) {
	o := newOffice(t, state.Routing{Site: []string{"100.64.0.0/24"}})
	o.self.Routes = prefixes("100.64.0.0/24")
	o.use()
	var s pb.StatusResponse
	o.fill(&s)
	if len(s.GetWarnings()) != 1 || !strings.Contains(s.GetWarnings()[0], "100.64.0.0/24") || len(o.host.carries) > 0 || len(s.GetAdvertised()) > 0 {
		t.Errorf("carries %v, status %v", o.host.carries, &s)
	}
	o.set(state.Routing{})
	s.Reset()
	o.fill(&s)
	if len(s.GetWarnings()) > 0 {
		t.Errorf("set right: %v", s.GetWarnings())
	}
}

// TestNeighboursAreProbed: a gateway that was named nobody, and sees nobody's packets, asks the hosts of its LAN that the kernel knows, by the addresses
// that others see.
func TestNeighboursAreProbed(t *testing.T) {
	o := newOffice(t, state.Routing{Advertise: []string{"192.168.1.0/24=10.77.1.0/24"}})
	o.self.Routes = prefixes("10.77.1.0/24")
	o.host.neighbours = []netip.Addr{netip.MustParseAddr("192.168.1.9"), netip.MustParseAddr("172.16.0.9")}
	o.use()
	o.locked(o.noteNeighbours)
	if want := []netip.Addr{netip.MustParseAddr("10.77.1.9")}; !slices.Equal(o.host.probed, want) {
		t.Errorf("probed %v, want %v", o.host.probed, want)
	}
}

// TestSitesAreSought: a host that comes into a network with the addresses of a route has the route's gateways tried, though nothing is sent to them, and
// stays on the LAN once one of them is reached there.
func TestSitesAreSought(t *testing.T) {
	o := newOffice(t, state.Routing{}).use()
	lan := netip.MustParsePrefix("10.1.0.0/16")
	o.host.links = []routeplan.Link{{Interface: "wlan0", Prefixes: []netip.Prefix{lan}, Routers: []netip.Addr{netip.MustParseAddr("10.1.0.254")}, Generation: 1}}
	o.networkChanged(false)
	if len(o.host.wanted) != 3 { // those of 10.1.0.0/16, and of 10.0.0.0/8 around it
		t.Fatalf("%d gateways were sought, want 3", len(o.host.wanted))
	}
	if slices.Contains(o.host.state.Local, lan) {
		t.Error("the LAN wins before anything shows that it is the site")
	}
	seen := seenAt{o.m.Peers[0].NodeKey, netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.77")}
	o.locked(func() { o.evidence(seen) })
	if !slices.Contains(o.host.state.Local, lan) {
		t.Errorf("a gateway was reached in the LAN, but only %v stay there", o.host.state.Local)
	}
}

// TestKillSwitchLAN: only what is private as a whole is excepted.
func TestKillSwitchLAN(t *testing.T) {
	local := []netip.Prefix{
		netip.MustParsePrefix("192.168.0.0/15"), netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("198.51.100.0/24"),
		netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("fe80::/10"),
	}
	n := &networks{routing: state.Routing{ExitAllowLAN: true}, plan: routeplan.Plan{Local: local}}
	if got, want := n.killSwitchLAN(), []netip.Prefix{local[1], local[4]}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	n.routing.ExitAllowLAN = false
	if got := n.killSwitchLAN(); got != nil {
		t.Errorf("%v without being asked for", got)
	}
}
