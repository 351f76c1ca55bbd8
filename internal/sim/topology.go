package sim

import (
	"net/netip"
	"time"

	"warren/internal/sim/linkmodel"
	"warren/internal/sim/natmodel"
)

// box is a router with what is behind it: a NAT or firewall for IPv4, a firewall for IPv6, and a link to what is before it.
type box struct {
	name     string
	v4, v6   *natmodel.NAT // v6 is nil where there is no IPv6
	link     linkmodel.Options
	up, down *linkmodel.Link
	parent   *box // for IPv4; IPv6 goes straight to the internet
	largest  int  // payload that gets through, in bytes; 0: any
	off      bool // the link is cut: nothing passes, not even to relays
	private  byte // third octet of the addresses inside

	hosts hosts
	below boxes // those behind this one, by the addresses that lead to them
}

type (
	hosts map[netip.Addr]*device
	boxes map[netip.Addr]*box
)

// lanDelay is how long a packet takes inside a site.
const lanDelay = 100 * time.Microsecond

// addBox makes a router before which is parent. The external address counts if v4 maps.
func (w *world) addBox(name string, parent *box, v4 natmodel.Options, v6 *natmodel.Options, external netip.Addr, link linkmodel.Options) *box {
	b := &box{name: name, parent: parent, hosts: hosts{}, below: boxes{}, private: byte(len(w.boxes))}
	seed := w.seed + uint64(len(w.boxes))
	b.v4 = natmodel.New(v4, external, seed)
	if v6 != nil {
		b.v6 = natmodel.New(*v6, netip.Addr{}, seed)
	}
	b.setLink(link, seed)
	if v4.Mapping != natmodel.NoMapping {
		parent.below[external] = b
	}
	w.boxes = append(w.boxes, b)
	return b
}

func (b *box) setLink(o linkmodel.Options, seed uint64) {
	b.link = o
	b.up, b.down = linkmodel.New(o, seed*2), linkmodel.New(o, seed*2+1)
}

// maps reports whether hosts behind the box have private IPv4 addresses.
func (b *box) maps() bool { return b.v4.Options().Mapping != natmodel.NoMapping }

// attach connects an interface; detach takes it away.
func (w *world) attach(d *device, at iface) {
	at.box.hosts[at.v4] = d
	if !at.box.maps() {
		at.box.parent.below[at.v4] = at.box
	}
	if at.v6.IsValid() {
		at.box.hosts[at.v6], w.root.below[at.v6] = d, at.box
	}
}

func (w *world) detach(at iface) {
	delete(at.box.hosts, at.v4)
	if !at.box.maps() {
		delete(at.box.parent.below, at.v4)
	}
	if at.v6.IsValid() {
		delete(at.box.hosts, at.v6)
		delete(w.root.below, at.v6)
	}
}

// packet is a datagram on its way.
type packet struct {
	src, dst netip.AddrPort
	size     int // of its payload, in bytes
	hops     int
	from     *device
	site     *box // where it was sent
	sent     time.Time
	what     string
	arrive   func(to *device, socket uint16, p *packet)
	lost     func(fate)
}

// fate is why a packet did not arrive.
type fate uint8

const (
	byFault  fate = iota // filtered, cut, or nobody there
	byChance             // the link's loss
	tooLong
)

const hopsMax = 16

func (w *world) lose(p *packet, f fate, why string) {
	w.diagram.add(entry{at: w.now, sent: p.sent, from: p.from, what: p.what, src: p.src, dst: p.dst, note: why})
	if p.lost != nil {
		p.lost(f)
	}
}

// inside has a packet be on the network behind b.
func (w *world) inside(b *box, p *packet) {
	if p.hops++; p.hops > hopsMax {
		w.lose(p, byFault, "goes in circles")
		return
	}
	to := p.dst.Addr()
	if d := b.hosts[to]; d != nil {
		w.after(lanDelay, func() { w.arrived(b, d, p) })
		return
	}
	if c := b.below[to]; c != nil {
		w.descend(c, p)
		return
	}
	if b == w.root {
		w.lose(p, byFault, "no such host")
		return
	}
	w.ascend(b, p)
}

// ascend takes a packet out through b.
func (w *world) ascend(b *box, p *packet) {
	nat, next := b.v4, b.parent
	if p.dst.Addr().Is6() {
		nat, next = b.v6, w.root
	}
	if nat == nil {
		w.lose(p, byFault, "no IPv6 at "+b.name)
		return
	}
	q, v := nat.Out(w.now, natmodel.Packet{Src: p.src, Dst: p.dst})
	if !v.Passes() {
		w.lose(p, byFault, v.String()+" at "+b.name)
		return
	}
	p.src, p.dst = q.Src, q.Dst
	if v == natmodel.ToInside {
		w.inside(b, p)
		return
	}
	if at, ok := w.cross(b, b.up, p); ok {
		w.after(at.Sub(w.now), func() { w.inside(next, p) })
	}
}

// descend takes a packet in through b.
func (w *world) descend(b *box, p *packet) {
	if w.cuts[[2]*box{p.site, b}] {
		w.lose(p, byFault, "no way to "+b.name)
		return
	}
	at, ok := w.cross(b, b.down, p)
	if !ok {
		return
	}
	w.after(at.Sub(w.now), func() {
		nat := b.v4
		if p.dst.Addr().Is6() {
			nat = b.v6
		}
		q, v := nat.In(w.now, natmodel.Packet{Src: p.src, Dst: p.dst})
		if !v.Passes() {
			w.lose(p, byFault, v.String()+" at "+b.name)
			return
		}
		p.src, p.dst = q.Src, q.Dst
		w.inside(b, p)
	})
}

// cross sends a packet over one direction of a box's link.
func (w *world) cross(b *box, l *linkmodel.Link, p *packet) (at time.Time, ok bool) {
	switch {
	case b.off:
		w.lose(p, byFault, "the link of "+b.name+" is cut")
		return at, false
	case b.largest > 0 && p.size > b.largest:
		w.lose(p, tooLong, "too long for "+b.name)
		return at, false
	}
	if at, ok = l.Send(w.now, p.size); !ok {
		w.lose(p, byChance, "lost by chance at "+b.name)
	}
	return at, ok
}

func (w *world) arrived(b *box, d *device, p *packet) {
	socket, ok := d.socketAt(p.dst)
	if d.down || !ok || b.hosts[p.dst.Addr()] != d || d == p.from {
		w.lose(p, byFault, "nobody there")
		return
	}
	w.diagram.add(entry{at: w.now, sent: p.sent, from: p.from, to: d, what: p.what, src: p.src, dst: p.dst})
	p.arrive(d, socket, p)
}

// stunServers are two, so that devices can tell how their NATs map.
var stunServers = [...]netip.AddrPort{netip.MustParseAddrPort("198.51.100.1:3478"), netip.MustParseAddrPort("198.51.100.2:3478")}

// mapped is what a STUN server would tell of a socket behind b, if it can be asked.
func (w *world) mapped(b *box, at, server netip.AddrPort) (netip.AddrPort, bool) {
	for ; b != w.root; b = b.parent {
		q, v := b.v4.Out(w.now, natmodel.Packet{Src: at, Dst: server})
		if v != natmodel.ToOutside || b.off {
			return at, false
		}
		at = q.Src
	}
	return at, true
}
