package daemon

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"warren/cmd/agent/internal/state"
	"warren/proto/cidr"
	"warren/proto/key"
	"warren/proto/record"
	"warren/tunnel/engine"
	"warren/tunnel/gateway/carry"
	"warren/tunnel/gateway/choose"
	"warren/tunnel/hostlinks"
	"warren/tunnel/routeplan"
	"warren/tunnel/router"
	"warren/tunnel/tundev"
)

type cidrRoute = cidr.Route

// autoExit is the exit node of those who leave the choice to the agent.
const autoExit = "auto"

// deviceKey is a device key as maps have it.
type deviceKey = [key.Size]byte

// networkEngine is what networks needs of the engine.
type networkEngine interface {
	Update(engine.Change)
	SendWord(to key.DevicePublic, payload []byte) error
	Probe(target netip.Addr, id, seq uint16) error
	Uses(device key.DevicePublic, cidr netip.Prefix, sibling key.DevicePublic) bool
	Traffic(device key.DevicePublic) []tundev.Traffic
	Hosts(carried netip.Prefix) []tundev.Host
	Want(peer key.NodePublic)
}

// networkHost is what networks needs of the router.
type networkHost interface {
	Apply(router.State) error
	Notes() []string
}

// networkLinks gives the networks that the host is connected to.
type networkLinks interface {
	Read() ([]routeplan.Link, error)
	Neighbours() ([]netip.Addr, error)
	Forget()
}

// networks joins what the map says of CIDRs, what this device was told to carry and to use, and which gateways work. It is the only one that
// changes the engine's map and the host's routes. In gateways.go is what concerns the cores that choose gateways and know the networks behind us.
type networks struct {
	log    *slog.Logger
	engine networkEngine
	router networkHost
	reader networkLinks
	now    func() time.Time
	heard  chan heardWord
	echoed chan echo
	seen   chan seenAt
	used   chan struct{} // a CIDR is that was not
	wake   chan struct{} // due has changed
	vrrp   *vrrp         // nil: nobody is told
	// forwardDNS is told at which addresses the users of an exit node get names resolved.
	forwardDNS func([]netip.Addr)

	mu      sync.Mutex // guards what follows, and is held while engine and router are changed
	routing state.Routing
	self    *record.Device
	known   *known // of the map
	mtu     int
	// What follows is worked out from routing and map, by derive.
	advertised []cidrRoute                     // what this device advertises
	carried    []cidrRoute                     // what of that is approved
	offers     map[netip.Prefix][]record.Route // the gateways of each CIDR that this device may use, best first
	routingErr error                           // why that is nothing

	chooser *choose.Core
	carrier *carry.Core
	due     [dues]time.Time // when what is to be done next; zero: never
	traffic map[deviceKey][]tundev.Traffic
	usedAt  time.Time // when traffic was last found
	chosen  map[netip.Prefix]deviceKey
	// restored are choices of the daemon before, until there is a map.
	restored map[netip.Prefix]deviceKey
	given    map[deviceKey][]netip.Prefix // the CIDRs that each peer has in the engine
	links    []routeplan.Link
	sites    routeplan.Sites
	plan     routeplan.Plan
	applied  router.State
	choices  map[choose.Reason]uint64 // of gateways, since the session began
	err      error                    // of the last change of the host
	closed   bool                     // engine and host are no longer there to be changed
}

func newNetworks(self *record.Device, routing state.Routing, e networkEngine, r networkHost, l networkLinks, now func() time.Time, log *slog.Logger) *networks {
	n := &networks{
		log: log, engine: e, router: r, reader: l, now: now, routing: routing, self: self, known: newKnown(nil), mtu: defaultMTU,
		heard: make(chan heardWord, 256), seen: make(chan seenAt, 64), echoed: make(chan echo, 256),
		used: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		chooser: choose.New(choose.Config{Self: self.Key.Raw(), Start: rand.Uint64() | 1}),
		carrier: carry.New(carry.Config{Self: self.Key.Raw(), Start: rand.Uint64() | 1}),
		traffic: map[deviceKey][]tundev.Traffic{},
		choices: map[choose.Reason]uint64{}, chosen: map[netip.Prefix]deviceKey{}, given: map[deviceKey][]netip.Prefix{},
	}
	n.derive()
	return n
}

// settings are those in use.
func (n *networks) settings() state.Routing {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.routing
}

// set changes the settings.
func (n *networks) set(r state.Routing) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.routing = r
	n.derive()
	if n.known.m == nil {
		n.apply()
		return
	}
	n.offer()
	n.update(nil, nil)
}

// begin has the host as it should be before there is any map: if an exit node is wanted, nothing leaves past it.
func (n *networks) begin() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.look()
	n.apply()
}

// close has shut take back what is done to the host, and nothing done to it from then on.
func (n *networks) close(shut func() error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	return shut()
}

// problem is why the host is not as it should be, if it is not. It tries again first, for what was in the way may be gone: a full disk.
func (n *networks) problem() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil && !n.closed {
		n.renew()
	}
	return n.err
}

// setMap takes a new map, of which gone and put are what changed among the peers.
func (n *networks) setMap(k *known, self *record.Device, mtu int, gone, put []*record.Device) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known, n.self, n.mtu = k, self, mtu
	n.derive()
	for _, p := range gone {
		delete(n.traffic, p.Key.Raw())
	}
	if n.links == nil {
		n.look()
	}
	if n.restored != nil {
		n.restoreChoices()
	}
	n.update(gone, put) // before the cores speak to those who are new
	if n.offer() {
		n.update(nil, nil)
	}
	for _, p := range gone {
		n.carry(carry.Forget{Device: p.Key.Raw()})
	}
}

// update brings engine and host into line. The caller holds mu.
func (n *networks) update(gone, put []*record.Device) {
	if n.closed {
		return
	}
	before := n.given
	n.given = n.shares()
	c := engine.Change{
		Self: n.self.Addresses, Overlay: n.overlay(), Probe: n.known.m.Statement.ProbeAddresses(), Grants: n.known.m.Statement.GetGrants(),
	}
	for _, r := range n.carried {
		c.Carries = append(c.Carries, r.Prefix)
		if others := n.offers[r.Prefix]; len(others) > 0 && r.Kind != cidr.Exit {
			c.Siblings = append(c.Siblings, sibling(r.Prefix, others))
		}
	}
	named := map[deviceKey]bool{}
	for _, p := range gone {
		c.Gone = append(c.Gone, p.Key)
		named[p.Key.Raw()] = true
	}
	for _, p := range put {
		named[p.Key.Raw()] = true
		c.Put = append(c.Put, n.peer(p))
	}
	for _, p := range n.known.m.Peers {
		if id := p.Key.Raw(); !named[id] && !slices.Equal(before[id], n.given[id]) {
			c.Put = append(c.Put, n.peer(p))
		}
	}
	n.engine.Update(c)
	n.apply()
}

// sibling names those who carry the same CIDR.
func sibling(p netip.Prefix, others []record.Route) tundev.Sibling {
	s := tundev.Sibling{Prefix: p}
	for _, o := range others {
		if k, err := key.DevicePublicFromBytes(o.Gateway[:]); err == nil {
			s.Devices = append(s.Devices, k)
		}
	}
	return s
}

func (n *networks) peer(p *record.Device) engine.Peer {
	return engine.Peer{
		Device: p.Key, NodeKey: p.NodeKey, NextNodeKey: p.NextNodeKey, Addresses: p.Addresses,
		Prefixes: slices.Concat(hostPrefixes(p.Addresses), n.given[p.Key.Raw()]),
	}
}

func (n *networks) overlay() []netip.Prefix {
	if n.known.m == nil {
		return nil
	}
	return n.known.m.Statement.Prefixes
}

// derive works out what follows from the map and the settings. Without a map nobody knows whether what was approved still is.
func (n *networks) derive() {
	before := n.routingErr
	n.advertised, n.routingErr = n.routing.Routes(n.overlay())
	n.carried, n.offers = nil, nil
	if n.routingErr != nil && (before == nil || before.Error() != n.routingErr.Error()) {
		n.log.Error("what this device advertises cannot be carried", "err", n.routingErr)
	}
	if n.known.m == nil {
		return
	}
	for _, r := range n.advertised {
		if slices.Contains(n.self.Routes, r.Prefix) {
			n.carried = append(n.carried, r)
		}
	}
	n.offers = n.known.offers()
	if n.carriesLAN() && n.due[dueHosts].IsZero() {
		n.due[dueHosts], n.due[dueNeighbours] = n.now(), n.now()
	}
}

// offers are the gateways of each CIDR, best first. A gateway carries what the authority has signed, whatever the coordinator says.
func (k *known) offers() map[netip.Prefix][]record.Route {
	out := map[netip.Prefix][]record.Route{}
	for _, r := range k.m.Statement.Routes {
		if p := k.byDevice[r.Gateway]; p != nil && slices.Contains(p.Routes, r.Prefix) {
			out[r.Prefix] = append(out[r.Prefix], r)
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b record.Route) int {
			return cmp.Or(cmp.Compare(b.Priority, a.Priority), bytes.Compare(a.Gateway[:], b.Gateway[:]))
		})
	}
	return out
}

// shares are the CIDRs that go to each peer.
func (n *networks) shares() map[deviceKey][]netip.Prefix {
	out := map[deviceKey][]netip.Prefix{}
	for p, id := range n.chosen {
		out[id] = append(out[id], p)
	}
	for _, list := range out {
		slices.SortFunc(list, netip.Prefix.Compare)
	}
	return out
}

// apply brings the host into line.
func (n *networks) apply() {
	if n.closed {
		return
	}
	st := router.State{
		Addresses: hostPrefixes(n.self.Addresses), MTU: n.mtu, Network: n.overlay(),
		KillSwitch: n.routing.KillSwitch,
	}
	in := routeplan.Input{
		Networks: n.overlay(), Chosen: slices.SortedFunc(maps.Keys(n.chosen), netip.Prefix.Compare), Links: n.links, Shown: n.sites.Shown(), PreferLAN: n.routing.PreferLAN,
		Exit: n.routing.ExitNode != "", AllowLAN: n.routing.ExitAllowLAN,
	}
	for _, r := range n.carried {
		in.Carried = append(in.Carried, routeplan.Carried{Prefix: r.Prefix, LAN: r.LAN})
		switch r.Kind {
		case cidr.Exit:
			st.Exit.IPv4 = st.Exit.IPv4 || r.Prefix.Addr().Is4()
			st.Exit.IPv6 = st.Exit.IPv6 || r.Prefix.Addr().Is6()
		case cidr.Site:
			st.Carried = append(st.Carried, router.Carried{Prefix: r.Prefix, Kind: router.Site, LAN: r.LAN})
		default:
			st.Carried = append(st.Carried, router.Carried{Prefix: r.Prefix, Kind: router.Masquerade, LAN: r.LAN})
		}
	}
	if len(in.Carried) > 0 {
		st.Probes = n.known.m.Statement.ProbeAddresses()
	}
	if n.forwardDNS != nil {
		n.forwardDNS(n.dnsAddresses(st.Exit.Any()))
	}
	n.plan = routeplan.Make(in)
	st.Routes, st.Local = n.plan.Routes, n.plan.Local
	for _, p := range n.plan.Refused {
		st.Blocked.IPv4 = st.Blocked.IPv4 || p.Addr().Is4()
		st.Blocked.IPv6 = st.Blocked.IPv6 || p.Addr().Is6()
	}
	if n.routing.ExitNode != "" {
		st.DNS = n.exitResolvers()
		st.KillSwitchLAN = n.killSwitchLAN()
	}
	if n.err == nil && reflect.DeepEqual(st, n.applied) {
		return
	}
	n.err, n.applied = n.router.Apply(st), st
	if n.err != nil {
		n.log.Error("addresses and routes not applied", "err", n.err)
	}
}

// dnsAddresses are where this device answers questions for names: nowhere unless it is an exit node.
func (n *networks) dnsAddresses(exit bool) []netip.Addr {
	if !exit {
		return nil
	}
	return n.self.Addresses
}

// exitResolvers are the addresses of the exit node in use, where its DNS forwarder listens, one of each family.
func (n *networks) exitResolvers() (out []netip.Addr) {
	for _, r := range cidr.Exits() {
		p := n.known.byDevice[n.chosen[r.Prefix]]
		if p == nil {
			continue // none is chosen, or it has just left the map
		}
		for _, a := range p.Addresses {
			if !slices.ContainsFunc(out, func(o netip.Addr) bool { return o.Is4() == a.Is4() }) {
				out = append(out, a)
			}
		}
	}
	return out
}

// killSwitchLAN is what the user has asked to stay reachable beside the exit node.
func (n *networks) killSwitchLAN() (out []netip.Prefix) {
	if !n.routing.ExitAllowLAN {
		return nil
	}
	for _, p := range n.plan.Local {
		if routeplan.Private(p) && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p)
		}
	}
	return out
}

// look reads the networks that the host is connected to.
func (n *networks) look() {
	links, err := n.reader.Read()
	if err != nil && !errors.Is(err, hostlinks.ErrUnsupported) {
		n.log.Warn("routes are not weighed against this host's networks", "err", err)
	}
	n.links = links
	n.sites.SetLinks(links)
}

// exitNode gives the exit node that a person names.
func (k *known) exitNode(text string) (*record.Device, error) {
	var exits []string
	can := map[deviceKey]bool{}
	for _, r := range k.m.Statement.Routes {
		if r.Prefix.Bits() == 0 {
			can[r.Gateway] = true
		}
	}
	for _, p := range k.m.Peers {
		if can[p.Key.Raw()] {
			exits = append(exits, p.Name)
		}
	}
	p, _, _ := k.find(text)
	switch {
	case p != nil && can[p.Key.Raw()]:
		return p, nil
	case p != nil && len(exits) > 0:
		return nil, fmt.Errorf("%s is no exit node for this device; those are %s", p.Name, strings.Join(exits, ", "))
	case p != nil:
		return nil, fmt.Errorf("%s is no exit node for this device, nor is any other; an exit node needs --advertise-exit, an administrator's approval, and a grant "+
			"on autogroup:internet", p.Name)
	case len(exits) > 0:
		return nil, fmt.Errorf("no peer is called %q; exit nodes are %s", text, strings.Join(exits, ", "))
	}
	return nil, fmt.Errorf("no peer is called %q, and there is no exit node yet", text)
}
