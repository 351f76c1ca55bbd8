package daemon

import (
	"net/netip"
	"slices"

	"warren/proto/key"
	"warren/proto/record"
	"warren/tunnel/gateway"
	"warren/tunnel/routeplan"
)

// heardWord is what the agent of another device said in the tunnel, echo the answer of a host to a probe.
type heardWord struct {
	from deviceKey
	word gateway.Word
}

type echo struct {
	target   netip.Addr
	sequence uint16
}

// seenAt is that a peer, which answers authenticated checks at remote, sees them come from.
type seenAt struct {
	peer         key.NodePublic
	remote, from netip.Addr
}

// onSeen takes evidence of where this host is.
func (n *networks) onSeen(peer key.NodePublic, remote, from netip.Addr) {
	if !remote.Unmap().IsPrivate() {
		return // no network that many have
	}
	select {
	case n.seen <- seenAt{peer, remote, from}:
	default:
	}
}

// evidence weighs it.
func (n *networks) evidence(s seenAt) {
	p := n.known.byNode[s.peer.Raw()]
	if p == nil {
		return
	}
	news, id := false, p.Key.Raw()
	for _, x := range p.Routes { // any peer has checks, and few are gateways
		if slices.ContainsFunc(n.offers[x], func(r record.Route) bool { return r.Gateway == id }) {
			news = n.sites.Saw(n.links, routeplan.Evidence{Route: x, Remote: s.remote, Seen: s.from}) || news
		}
	}
	if news {
		n.update(nil, nil)
	}
}

// probeID marks our echo requests. Only we send from the reserved address, so it need not be drawn.
const probeID = 0x5757

// onWord takes what another agent said. The packet path calls it: what is too much is dropped, as any packet may be.
func (n *networks) onWord(from key.DevicePublic, payload []byte) {
	w, err := gateway.Parse(payload)
	if err != nil {
		return // of a newer version, or of nobody sensible
	}
	select {
	case n.heard <- heardWord{from.Raw(), w}:
	default:
	}
}

// onProbe takes the answer of a host behind this device.
func (n *networks) onProbe(target netip.Addr, id, sequence uint16) {
	if id != probeID {
		return
	}
	select {
	case n.echoed <- echo{target, sequence}:
	default:
	}
}

// onUse takes it that a CIDR comes into use. The packet path calls it.
func (n *networks) onUse() {
	select {
	case n.used <- struct{}{}:
	default:
	}
}
