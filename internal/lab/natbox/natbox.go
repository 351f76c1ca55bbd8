// Package natbox applies the NAT model to real IP packets: it finds the endpoints, asks the model, and rewrites addresses, ports and
// checksums in place. New makes a box, Box.Translate takes a packet. It does no I/O; the lab reads and writes a TUN device around it.
package natbox

import (
	"net/netip"
	"time"

	"warren/internal/sim/natmodel"
)

// Box is a NAT for packets. It is not safe for concurrent use.
type Box struct {
	nat       *natmodel.NAT
	fragments map[fragmentKey]fragment
}

// New makes a box around a model.
func New(nat *natmodel.NAT) *Box { return &Box{nat: nat, fragments: map[fragmentKey]fragment{}} }

// Forget loses all state.
func (b *Box) Forget() {
	b.nat.Forget()
	clear(b.fragments)
}

// Fragments after the first have no ports: they follow the first, which comes first, since that is how hosts send them.
type fragmentKey struct {
	src, dst netip.Addr
	proto    byte
	id       uint32
}

type fragment struct {
	src, dst netip.Addr
	verdict  natmodel.Verdict
	at       time.Time
}

const (
	maxFragments = 1024
	fragmentLife = 30 * time.Second
)

// Translate rewrites a packet in place and says where it goes. What does not pass may have been changed too.
func (b *Box) Translate(now time.Time, ip []byte, fromInside bool) natmodel.Verdict {
	p, ok := parse(ip, 20)
	if !ok {
		return natmodel.Blocked
	}
	key := fragmentKey{p.addr(p.src), p.addr(p.dst), p.proto, p.id}
	switch {
	case !p.first:
		return b.follow(now, p, key)
	case (p.proto == protoICMP || p.proto == protoICMPv6) && !p.query():
		return b.failure(now, p, fromInside)
	}
	v := b.whole(now, p, fromInside)
	if !p.all {
		if len(b.fragments) >= maxFragments {
			clear(b.fragments)
		}
		b.fragments[key] = fragment{p.addr(p.src), p.addr(p.dst), v, now}
	}
	return v
}

// whole translates a packet that has ports.
func (b *Box) whole(now time.Time, p packet, fromInside bool) natmodel.Verdict {
	before := p.endpoints(fromInside)
	ask := b.nat.In
	if fromInside {
		ask = b.nat.Out
	}
	after, v := ask(now, before)
	if !v.Passes() {
		return v
	}
	p.rewrite(before, after)
	return v
}

// rewrite makes the packet's endpoints others.
func (p *packet) rewrite(before, after natmodel.Packet) {
	for _, end := range []struct {
		before, after netip.AddrPort
		addr, port    int
	}{{before.Src, after.Src, p.src, p.l4}, {before.Dst, after.Dst, p.dst, p.l4 + 2}} {
		if end.before.Addr() != end.after.Addr() {
			p.setAddr(end.addr, end.after.Addr())
		}
		if end.before.Port() == end.after.Port() {
			continue
		}
		if before.Proto == natmodel.ICMP {
			end.port = p.l4 + 4
		}
		p.setPort(end.port, end.after.Port())
	}
}

func (b *Box) follow(now time.Time, p packet, key fragmentKey) natmodel.Verdict {
	f, ok := b.fragments[key]
	if !ok || now.Sub(f.at) > fragmentLife {
		return natmodel.Unmapped
	}
	if f.verdict.Passes() {
		p.setAddr(p.src, f.src)
		p.setAddr(p.dst, f.dst)
	}
	return f.verdict
}

// failure translates an ICMP error from outside, and what it quotes (RFC 5508, section 4.2). Those from inside do not pass.
func (b *Box) failure(now time.Time, p packet, fromInside bool) natmodel.Verdict {
	if fromInside || !p.failure() || !p.all {
		return natmodel.Blocked
	}
	quoted, ok := parse(p.b[p.l4+8:], 8)
	if !ok || !quoted.first || (quoted.proto == protoICMP || quoted.proto == protoICMPv6) && !quoted.query() {
		return natmodel.Blocked
	}
	before := quoted.endpoints(true)
	after, v := b.nat.Quoted(now, before)
	if !v.Passes() {
		return v
	}
	message := append([]byte(nil), p.b[p.l4:]...)
	if len(message)%2 != 0 {
		message = append(message, 0)
	}
	quoted.rewrite(before, after)
	if a := after.Src.Addr(); a != p.addr(p.dst) && b.nat.Options().Mapping != natmodel.NoMapping {
		p.setAddr(p.dst, a)
	}
	// The quotation is covered by the error's own checksum. That was not zero before, and mends as any other.
	changed := append([]byte(nil), p.b[p.l4:]...)
	if len(changed)%2 != 0 {
		changed = append(changed, 0)
	}
	copy(changed[2:4], message[2:4])
	mend(p.b[p.l4+2:p.l4+4], message, changed)
	return v
}
