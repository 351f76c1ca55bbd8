package daemon

import (
	"bytes"
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"warren/cmd/agent/internal/state"
	"warren/coord/client"
	"warren/proto/cidr"
	"warren/proto/key"
	"warren/proto/record"
	"warren/tunnel/engine"
	"warren/tunnel/router"
	"warren/tunnel/tundev"
)

type cidrRoute = cidr.Route

// autoExit is the exit node of those who leave the choice to the agent.
const autoExit = "auto"

// deviceKey is a device key as maps have it.
type deviceKey = [key.Size]byte

// networks joins what the map says of CIDRs, what this device was told to carry and to use, and which gateways work. It is the only one that
// changes the engine's map and the host's routes.
type networks struct {
	log    *slog.Logger
	engine interface{ Update(engine.Change) }
	router interface{ Apply(router.State) error }

	mu      sync.Mutex // guards what follows, and is held while engine and router are changed
	routing state.Routing
	self    *record.Device
	m       *client.Map // nil: none yet
	mtu     int
	chosen  map[netip.Prefix]deviceKey
	given   map[deviceKey][]netip.Prefix // the CIDRs that each peer has in the engine
	err     error                        // of the last change of the host
}

func newNetworks(s *session) *networks {
	return &networks{
		log: s.log, engine: s.engine, router: s.router, routing: s.cfg.state.Routing, self: s.self, mtu: defaultMTU,
		chosen: map[netip.Prefix]deviceKey{}, given: map[deviceKey][]netip.Prefix{},
	}
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
	if n.m != nil {
		n.update(nil, nil)
	}
}

// setMap takes a new map, of which gone and put are what changed among the peers.
func (n *networks) setMap(m *client.Map, self *record.Device, mtu int, gone, put []*record.Device) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.m, n.self, n.mtu = m, self, mtu
	n.update(gone, put)
}

// update brings engine and host into line. The caller holds mu.
func (n *networks) update(gone, put []*record.Device) {
	before := n.given
	n.choose()
	n.given = n.shares()
	c := engine.Change{
		Self: n.self.Addresses, Overlay: n.overlay(), Probe: n.m.Statement.ProbeAddresses(), Grants: n.m.Statement.GetGrants(),
	}
	offers := n.offers()
	for _, r := range n.carried() {
		c.Carries = append(c.Carries, r.Prefix)
		if others := offers[r.Prefix]; len(others) > 0 && r.Kind != cidr.Exit {
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
	for _, p := range n.m.Peers {
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
		Device: p.Key, NodeKey: p.NodeKey, NextNodeKey: p.NextNodeKey, Prefixes: slices.Concat(hostPrefixes(p.Addresses), n.given[p.Key.Raw()]),
	}
}

// carried is what this device carries: what it advertises, as far as that is approved.
func (n *networks) carried() []cidrRoute {
	routes, err := n.routing.Routes(n.overlay())
	if err != nil {
		n.log.Error("what this device advertises cannot be carried", "err", err)
		return nil
	}
	return slices.DeleteFunc(routes, func(r cidrRoute) bool { return !slices.Contains(n.self.Routes, r.Prefix) })
}

func (n *networks) overlay() []netip.Prefix {
	if n.m == nil {
		return nil
	}
	return n.m.Statement.Prefixes
}

// offers are the gateways of each CIDR that this device may use, best first. A gateway carries what the authority has signed, whatever the
// coordinator says.
func (n *networks) offers() map[netip.Prefix][]record.Route {
	records := map[deviceKey]*record.Device{}
	for _, p := range n.m.Peers {
		records[p.Key.Raw()] = p
	}
	out := map[netip.Prefix][]record.Route{}
	for _, r := range n.m.Statement.Routes {
		if p := records[r.Gateway]; p != nil && slices.Contains(p.Routes, r.Prefix) {
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

// choose decides whom each CIDR goes to.
func (n *networks) choose() {
	own := n.carried()
	n.chosen = map[netip.Prefix]deviceKey{}
	for p, list := range n.offers() {
		switch {
		case slices.ContainsFunc(own, func(r cidrRoute) bool { return r.Prefix == p }):
		case p.Bits() == 0:
			if id, ok := n.exit(list); ok {
				n.chosen[p] = id
			}
		case !n.routing.RefuseRoutes:
			n.chosen[p] = list[0].Gateway
		}
	}
}

// exit is the exit node to use of those that there are.
func (n *networks) exit(list []record.Route) (deviceKey, bool) {
	switch n.routing.ExitNode {
	case "":
		return deviceKey{}, false
	case autoExit:
		return list[0].Gateway, true
	}
	p, _, err := newKnown(n.m).find(n.routing.ExitNode)
	if err != nil || !slices.ContainsFunc(list, func(r record.Route) bool { return r.Gateway == p.Key.Raw() }) {
		return deviceKey{}, false
	}
	return p.Key.Raw(), true
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
	st := router.State{
		Addresses: hostPrefixes(n.self.Addresses), MTU: n.mtu, Network: n.overlay(), Routes: slices.Clone(n.overlay()),
		Probes: n.m.Statement.ProbeAddresses(),
	}
	for p := range n.chosen {
		st.Routes = append(st.Routes, p)
	}
	slices.SortFunc(st.Routes, netip.Prefix.Compare)
	for _, r := range n.carried() {
		switch r.Kind {
		case cidr.Exit:
			st.Exit.IPv4 = st.Exit.IPv4 || r.Prefix.Addr().Is4()
			st.Exit.IPv6 = st.Exit.IPv6 || r.Prefix.Addr().Is6()
		case cidr.Site:
			st.Carried = append(st.Carried, router.Carried{Prefix: r.Prefix, Kind: router.Site})
		default:
			st.Carried = append(st.Carried, router.Carried{Prefix: r.Prefix, Kind: router.Masquerade, LAN: r.LAN})
		}
	}
	st.KillSwitch = n.routing.KillSwitch
	n.err = n.router.Apply(st)
	if n.err != nil {
		n.log.Error("addresses and routes not applied", "err", n.err)
	}
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
