package daemon

import (
	"fmt"
	"net/netip"

	"connectrpc.com/connect"

	"warren/internal/ipproto"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/tunnel/filter"
)

// findFor gives the peer of a question and, if it is about a flow, what the map's grants say of that. own are this device's addresses as
// long as the map does not tell them; inUse is that of carrier.
func (k *known) findFor(m *pb.WhyRequest, own []netip.Addr, inUse func(netip.Prefix) *record.Device) (*record.Device, []*pb.FlowAnswer, error) {
	peer, addr, err := k.find(m.GetPeer())
	if m.GetFlow() == "" {
		if err != nil {
			return nil, nil, connect.NewError(connect.CodeNotFound, err)
		}
		return peer, nil, nil
	}
	f, flowErr := ipproto.ParseFlow(m.GetFlow())
	if flowErr != nil {
		return nil, nil, connect.NewError(connect.CodeInvalidArgument, flowErr)
	}
	named, addrErr := netip.ParseAddr(m.GetPeer())
	if err != nil && addrErr == nil {
		addr = named.Unmap()
		if gateway, _, ok := k.carrier(addr, inUse); ok {
			peer, err = gateway, nil
		}
	}
	if err != nil {
		return nil, nil, connect.NewError(connect.CodeNotFound, fmt.Errorf(
			"%w. A map has only those peers with which a grant connects its device: \"warren-coordinator why\" knows the others", err))
	}
	theirs := peer.Addresses
	if addrErr == nil {
		theirs = []netip.Addr{addr}
	}
	if k.m.Self != nil {
		own = k.m.Self.Addresses
	}
	answers := k.answers(own, theirs, f)
	if len(answers) == 0 {
		return nil, nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(
			"flow %q: this device and %.80q have no addresses of a family that has %s", m.GetFlow(), m.GetPeer(), f))
	}
	return peer, answers, nil
}

// carrier gives the peer that carries an address besides its own, and in which CIDR. Where several may, it is the one that inUse tells; nil: none is.
func (k *known) carrier(a netip.Addr, inUse func(netip.Prefix) *record.Device) (peer *record.Device, route netip.Prefix, ok bool) {
	if k.m == nil {
		return nil, route, false
	}
	for _, p := range k.m.Peers {
		for _, r := range p.Routes {
			if r.Contains(a) && (!ok || r.Bits() > route.Bits()) {
				peer, route, ok = p, r, true
			}
		}
	}
	if used := inUse(route); used != nil {
		peer = used
	}
	return peer, route, ok
}

// answers asks the map's grants about a flow between each pair of addresses, out and in.
func (k *known) answers(own, theirs []netip.Addr, f ipproto.Flow) (out []*pb.FlowAnswer) {
	grants := k.m.Statement.GetGrants()
	for _, a := range own {
		for _, b := range theirs {
			flow, ok := forFamily(f, a)
			if a.Is4() != b.Is4() || !ok {
				continue
			}
			for _, way := range []struct {
				direction filter.Direction
				src, dst  netip.Addr
			}{{filter.Out, a, b}, {filter.In, b, a}} {
				allowed, nearest := filter.Explain(grants, way.src, way.dst, flow)
				m := &pb.FlowAnswer{
					Direction: way.direction.String(), Source: way.src.String(), Destination: way.dst.String(), Flow: flow.String(), Grants: allowed,
				}
				for _, n := range nearest {
					m.Nearest = append(m.Nearest, &pb.GrantMiss{Grant: n.Grant, Lacks: n.Lacks, Text: n.Text})
				}
				out = append(out, m)
			}
		}
	}
	return out
}

// forFamily gives ICMP the protocol number that it has with an address.
func forFamily(f ipproto.Flow, a netip.Addr) (ipproto.Flow, bool) {
	if f.Protocol == ipproto.ICMP && a.Is6() {
		f.Protocol = ipproto.ICMPv6
	}
	return f, f.Protocol != ipproto.ICMPv6 || a.Is6()
}
