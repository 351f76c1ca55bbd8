package tundev

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"warren/proto/key"
	"warren/tunnel/filter"
)

// Sibling is a CIDR that others carry as well as we.
type Sibling struct {
	Prefix netip.Prefix
	// Devices are those others, by device key; who of them is not in the map counts for nothing.
	Devices []key.DevicePublic
}

// siblings is a Sibling with those that are in the map.
type siblings struct {
	prefix   netip.Prefix
	accounts []*account
}

// uses is which gateways a device uses for CIDRs that siblings carry; never changed, only replaced.
type uses []use

type use struct {
	prefix  netip.Prefix
	sibling key.DevicePublic // zero: us
}

// maxUses bounds the CIDRs of which a device is known to use one gateway or another.
const maxUses = 256

// IP in IP (RFC 2003, RFC 4213) is how packets are handed over.
const (
	protoIPv4 = 4
	protoIPv6 = 41
)

// resolve finds siblings. Of exit nodes there are none: they put their own address in place of a flow's, so its answers come to them. The caller holds mu.
func (d *Device) resolve(list []Sibling) (out []siblings) {
	for _, s := range list {
		r := siblings{prefix: s.Prefix.Masked()}
		for _, k := range s.Devices {
			if a := d.accounts[k.Raw()]; a != nil && !k.IsZero() {
				r.accounts = append(r.accounts, a)
			}
		}
		if len(r.accounts) > 0 && r.prefix.Bits() > 0 {
			out = append(out, r)
		}
	}
	return out
}

// Uses says which gateway a device uses for one of the CIDRs of Update.Siblings: what comes from there for whatever the device carries is handed to
// that sibling. Zero says that it uses this device, as does every device of which nothing was said. It holds until the device leaves the map, which
// it must be in, but counts for nothing while the other is not its sibling there. It reports whether there was room for it.
func (d *Device) Uses(device key.DevicePublic, cidr netip.Prefix, sibling key.DevicePublic) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, v := d.accounts[device.Raw()], d.view.Load()
	cidr = cidr.Masked()
	if a == nil || !cidr.IsValid() {
		return false
	}
	next, elsewhere := uses{{cidr, sibling}}, !sibling.IsZero()
	if old := a.uses.Load(); old != nil {
		for _, u := range *old {
			if u.prefix != cidr && (len(*old) < maxUses || v.shared(u.prefix)) {
				next, elsewhere = append(next, u), elsewhere || !u.sibling.IsZero()
			}
		}
	}
	switch {
	case len(next) > maxUses:
		return false
	case !elsewhere:
		a.uses.Store(nil)
	default:
		slices.SortStableFunc(next, func(a, b use) int { return b.prefix.Bits() - a.prefix.Bits() }) // so that the longest is found first
		a.uses.Store(&next)
	}
	return true
}

// shared reports whether siblings carry this very CIDR.
func (v *view) shared(cidr netip.Prefix) bool {
	return slices.ContainsFunc(v.siblings, func(s siblings) bool { return s.prefix == cidr })
}

// sibling gives the node of one of those that carry this CIDR; nil if it is not among them.
func (v *view) sibling(k key.DevicePublic, cidr netip.Prefix) *peer {
	for i := range v.siblings {
		if v.siblings[i].prefix != cidr {
			continue
		}
		for _, a := range v.siblings[i].accounts {
			if a.device.Equal(k) {
				return a.node.Load()
			}
		}
	}
	return nil
}

// isSiblingFor reports whether an account is one of those that carry an address, or, if that is zero, anything of ours.
func (v *view) isSiblingFor(a *account, addr netip.Addr) bool {
	return slices.ContainsFunc(v.siblings, func(s siblings) bool {
		return (!addr.IsValid() || s.prefix.Contains(addr)) && slices.Contains(s.accounts, a)
	})
}

// ours reports whether an address is of what we carry, none of our own.
func (d *Device) ours(v *view, a netip.Addr) bool {
	e, ok := v.routes.Lookup(a)
	return ok && e.peer == d.us && !e.own
}

// handTo gives the sibling that a packet to one who uses these is to be handed to; nil: it goes to its peer from here.
func (d *Device) handTo(v *view, list uses, to *entry, src netip.Addr) *peer {
	if !d.ours(v, src) {
		return nil
	}
	for _, u := range list {
		if !u.prefix.Contains(src) || !v.shared(u.prefix) {
			continue
		}
		if p := v.sibling(u.sibling, u.prefix); p != to.peer {
			return p
		}
		return nil
	}
	return nil
}

// handOver wraps the packet at the beginning of a buffer for a sibling, and gives what is to be sent now: nil if it waits, or does not fit.
func (d *Device) handOver(v *view, via *peer, buf []byte, size int) []byte {
	src, dst, ok := between(v.own, *via.addresses.Load())
	if !ok {
		d.counters.noPeer.Add(1)
		return nil
	}
	outer := headerSize(src)
	if mtu := v.pathMTU(via); mtu > 0 && !d.fits(buf[:size], mtu-outer) || outer+size > len(buf) || outer+size > 65535 {
		return nil
	}
	proto := uint8(protoIPv4)
	if buf[0]>>4 == 6 {
		proto = protoIPv6
	}
	copy(buf[outer:], buf[:size])
	b := buf[:outer+size]
	putHeader(b, proto, src, dst)
	d.counters.handed.Add(1)
	if via.direct.Load() || d.hold(via, b, true) {
		return b
	}
	return nil
}

// pathMTU is how long packets for a peer may be; 0: not known.
func (v *view) pathMTU(p *peer) int {
	if mtu := int(p.mtu.Load()); mtu > 0 && (mtu < v.mtu || v.mtu == 0) {
		return mtu
	}
	return v.mtu
}

// unwrap takes what a sibling has handed over, and sends it as if it came from the host. It is never handed on.
func (d *Device) unwrap(v *view, from *entry, b []byte, now time.Duration) {
	inner := innerOf(b)
	src, dst, err := filter.Addresses(inner)
	if err != nil || !v.isSiblingFor(from.account, src) || !d.ours(v, src) {
		d.counters.refused.Add(1)
		return
	}
	if d.isBorrowed(dst) && d.probed(inner) {
		d.counters.unwrapped.Add(1)
		return
	}
	to, ok := v.routes.Lookup(dst)
	if !ok || to.account == nil || to.account == from.account || v.inBand(to, inner) {
		d.counters.refused.Add(1)
		return
	}
	d.counters.unwrapped.Add(1)
	if d.filter.Judge(filter.Out, &to.account.Peer, inner, now).Verdict != filter.Pass {
		return
	}
	d.note(to, &to.sent, now)
	if mtu := int(to.mtu.Load()); mtu > 0 && !d.fits(inner, mtu) {
		return
	}
	d.send(to.peer, inner, false)
}

// innerOf gives the whole packet that another one contains; nil if it does not contain just that.
func innerOf(b []byte) []byte {
	inner := payloadOf(b)
	size := 0
	switch proto := protocol(b); {
	case proto == protoIPv4 && len(inner) >= header4 && inner[0]>>4 == 4:
		size = int(binary.BigEndian.Uint16(inner[2:]))
	case proto == protoIPv6 && len(inner) >= header6 && inner[0]>>4 == 6:
		size = header6 + int(binary.BigEndian.Uint16(inner[4:]))
	}
	if size != len(inner) {
		return nil
	}
	return inner
}

// inBand reports whether a packet to a peer would there be taken for one that an agent made.
func (v *view) inBand(to *entry, b []byte) bool {
	return to.own && agents(b) && (protocol(b) == protoWord || v.isSiblingFor(to.account, netip.Addr{}))
}
