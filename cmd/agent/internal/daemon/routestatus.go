package daemon

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/proto/cidr"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/tunnel/gateway/carry"
	"warren/tunnel/gateway/choose"
	"warren/tunnel/routeplan"
)

// What a CIDR is used for, as in pb.RouteStatus.
const (
	useTunnel  = "tunnel"
	useLAN     = "lan"
	useRefused = "refused"
	useOwn     = "own"
	useNone    = "none"
)

// fill adds what is known of routes.
func (n *networks) fill(r *pb.StatusResponse) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r.AcceptRoutes = !n.routing.RefuseRoutes
	r.KillSwitch = n.routing.KillSwitch
	if n.err != nil {
		r.Warnings = append(r.Warnings, n.err.Error())
	}
	if n.routingErr != nil {
		r.Warnings = append(r.Warnings, fmt.Sprintf("nothing is carried: %v", n.routingErr))
	}
	r.HostChanges = n.router.Notes()
	r.Advertised = n.advertisedStatus()
	if n.known.m == nil {
		return
	}
	gateways := map[netip.Prefix][]choose.Gateway{}
	for _, c := range n.chooser.Status() {
		gateways[c.Prefix] = c.Gateways
	}
	for _, p := range slices.SortedFunc(maps.Keys(n.offers), netip.Prefix.Compare) {
		if p.Bits() == 0 {
			continue // in Exit
		}
		use, conflict := n.use(p)
		s := &pb.RouteStatus{Prefix: p.String(), Gateway: n.name(n.chosen[p]), Use: use, Reason: conflict.Why, Interface: conflict.Interface}
		for _, o := range n.offers[p] {
			s.Gateways = append(s.Gateways, gatewayStatus(n.name(o.Gateway), o, gateways[p]))
		}
		r.Routes = append(r.Routes, s)
	}
	r.Exit = n.exitStatus()
	if r.Exit.GetNode() != "" && n.silent(gateways) {
		r.Exit.Problem = r.Exit.GetNode() + " does not answer"
	}
}

// silent reports whether an exit node that is used does not answer.
func (n *networks) silent(gateways map[netip.Prefix][]choose.Gateway) bool {
	for _, r := range cidr.Exits() {
		id, used := n.chosen[r.Prefix]
		if used && slices.ContainsFunc(gateways[r.Prefix], func(g choose.Gateway) bool { return g.ID == id && g.State == "silent" }) {
			return true
		}
	}
	return false
}

func gatewayStatus(name string, o record.Route, known []choose.Gateway) *pb.GatewayStatus {
	s := &pb.GatewayStatus{Name: name, Priority: uint32(o.Priority), Health: "unknown"}
	i := slices.IndexFunc(known, func(g choose.Gateway) bool { return g.ID == o.Gateway })
	if i < 0 {
		return s
	}
	g := known[i]
	s.Health, s.RttMs = g.State, float64(g.RTT)/float64(time.Millisecond)
	if !g.Since.IsZero() {
		s.Since = timestamppb.New(g.Since)
	}
	if !g.Answered.IsZero() {
		s.Answered = timestamppb.New(g.Answered)
	}
	return s
}

// routeFigures is what is counted of routes.
type routeFigures struct {
	// Routes are the CIDRs of others by use, Carried those of this device by the health of the network behind it.
	routes, carried  map[string]int
	choices          map[choose.Reason]uint64
	exit, killSwitch bool
}

func (n *networks) figures() routeFigures {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := routeFigures{routes: map[string]int{}, carried: map[string]int{}, choices: maps.Clone(n.choices), killSwitch: n.routing.KillSwitch}
	if n.known.m == nil {
		return f
	}
	for p := range n.offers {
		if p.Bits() == 0 {
			_, ok := n.chosen[p]
			f.exit = f.exit || ok
			continue
		}
		use, _ := n.use(p)
		f.routes[use]++
	}
	for _, c := range n.carrier.Status() {
		f.carried[c.Health.String()]++
	}
	return f
}

// use says what becomes of packets for a CIDR that gateways carry, and what it shares addresses with; the zero conflict is nothing.
func (n *networks) use(p netip.Prefix) (use string, conflict routeplan.Conflict) {
	if i := slices.IndexFunc(n.plan.Conflicts, func(c routeplan.Conflict) bool { return c.Route == p }); i >= 0 {
		conflict = n.plan.Conflicts[i]
	}
	_, chosen := n.chosen[p]
	switch {
	case slices.ContainsFunc(n.carried, func(r cidrRoute) bool { return r.Prefix == p }):
		use = useOwn
	case n.routing.RefuseRoutes:
		use = useRefused
	case !chosen:
		use = useNone
	case conflict.LAN:
		use = useLAN
	default:
		use = useTunnel
	}
	return use, conflict
}

func (n *networks) exitStatus() *pb.ExitStatus {
	if n.routing.ExitNode == "" {
		return nil
	}
	s := &pb.ExitStatus{Wanted: n.routing.ExitNode, AllowLan: n.routing.ExitAllowLAN}
	for _, r := range cidr.Exits() {
		id, ok := n.chosen[r.Prefix]
		if !ok {
			continue
		}
		s.Node = n.name(id)
		s.Ipv4, s.Ipv6 = s.GetIpv4() || r.Prefix.Addr().Is4(), s.GetIpv6() || r.Prefix.Addr().Is6()
	}
	if s.GetNode() == "" {
		s.Problem = "there is no exit node that this device may use; nothing leaves this host until there is one, or --exit-node=\"\" is set"
		if n.routing.ExitNode != autoExit {
			if _, err := n.known.exitNode(n.routing.ExitNode); err != nil {
				s.Problem = err.Error()
			}
		}
	}
	return s
}

// gatewayOf is the gateway in use for an address, or nil.
func (n *networks) gatewayOf(a netip.Addr) *record.Device {
	n.mu.Lock()
	defer n.mu.Unlock()
	var longest netip.Prefix
	for p := range n.chosen {
		if p.Contains(a) && (!longest.IsValid() || p.Bits() > longest.Bits()) {
			longest = p
		}
	}
	return n.known.byDevice[n.chosen[longest]]
}

// inUse is the gateway in use for a CIDR, or nil.
func (n *networks) inUse(p netip.Prefix) *record.Device {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known.byDevice[n.chosen[p]]
}

// accounted reports whether the map says of all that this device advertises whether it is approved.
func (n *networks) accounted() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !slices.ContainsFunc(n.advertisedStatus(), func(a *pb.AdvertisedStatus) bool { return a.GetState() == "untold" })
}

// advertisedStatus is what this device advertises and what has become of it.
func (n *networks) advertisedStatus() (out []*pb.AdvertisedStatus) {
	known := map[netip.Prefix]carry.Status{}
	for _, c := range n.carrier.Status() {
		known[c.Prefix] = c
	}
	for _, r := range n.advertised {
		s := &pb.AdvertisedStatus{Prefix: r.Prefix.String(), Kind: r.Kind.String(), State: "untold", Health: "unknown", Priority: uint32(n.routing.Rank())}
		if r.LAN != r.Prefix {
			s.Lan = r.LAN.String()
		}
		switch {
		case slices.Contains(n.self.Routes, r.Prefix):
			s.State = "approved"
		case n.known.m != nil && slices.Contains(n.known.m.Statement.Waiting, r.Prefix):
			s.State = "waiting"
		}
		if c, ok := known[r.Prefix]; ok {
			s.Health = c.Health.String()
			if c.Target.IsValid() {
				s.Probe = c.Target.String()
			}
			if !c.Answered.IsZero() {
				s.Answered = timestamppb.New(c.Answered)
			}
		}
		out = append(out, s)
	}
	return out
}
