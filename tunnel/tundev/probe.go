package tundev

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"warren/tunnel/filter"
)

// Kinds of ICMP echoes (RFC 792, RFC 4443 section 4).
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// Probe writes an echo request from the reserved address to the host, as if it had come through the tunnel, so that it takes the way of forwarded
// packets. Config.OnProbe is told of the answer.
func (d *Device) Probe(target netip.Addr, id, seq uint16) error {
	v, target := d.view.Load(), target.Unmap()
	src := v.probe.v4
	if target.Is6() {
		src = v.probe.v6
	}
	if !src.IsValid() {
		return fmt.Errorf("no probe of %s: the network has no address for that", target)
	}
	return d.request(src, target, id, seq)
}

// Borrow has answers to echo requests that come from the host for these addresses taken as those to a Probe, whoever carries them, until it is called
// with others or none. They should be addresses that no host has.
func (d *Device) Borrow(list ...netip.Addr) {
	if len(list) == 0 {
		d.borrowed.Store(nil)
		return
	}
	list = slices.Clone(list)
	d.borrowed.Store(&list)
}

// ProbeFrom is Probe from a borrowed address, which the host does not translate: so the answer comes only if the LAN knows the way back.
func (d *Device) ProbeFrom(src, target netip.Addr, id, seq uint16) error {
	src, target = src.Unmap(), target.Unmap()
	if !d.isBorrowed(src) || src.Is4() != target.Is4() {
		return fmt.Errorf("no probe of %s from %s, which is not borrowed for that", target, src)
	}
	if v := d.view.Load(); !d.ours(v, target) {
		return fmt.Errorf("no probe of %s: this device does not carry it", target)
	}
	return d.request(src, target, id, seq)
}

func (d *Device) isBorrowed(a netip.Addr) bool {
	list := d.borrowed.Load()
	return list != nil && slices.Contains(*list, a)
}

// request writes an echo request to the host.
func (d *Device) request(src, target netip.Addr, id, seq uint16) error {
	kind, proto := byte(echoRequest4), uint8(protoICMP)
	if target.Is6() {
		kind, proto = echoRequest6, protoICMPv6
	}
	const data = 8
	size := headerSize(src)
	m := make([]byte, writeHeadroom+size+headerICMP+data)
	b := m[writeHeadroom:]
	putHeader(b, proto, src, target)
	icmp := b[size:]
	icmp[0] = kind
	binary.BigEndian.PutUint16(icmp[4:], id)
	binary.BigEndian.PutUint16(icmp[6:], seq)
	binary.BigEndian.PutUint16(icmp[2:], checksum(pseudo(b), icmp))
	_, err := d.Device.Write([][]byte{m}, writeHeadroom)
	return err
}

// pseudo sums up what the checksum of ICMP covers besides (RFC 8200 section 8.1): nothing, over IPv4.
func pseudo(b []byte) uint64 {
	if b[0]>>4 == 4 {
		return 0
	}
	return sum(0, b[8:header6]) + uint64(len(b)-header6) + protoICMPv6
}

// probed takes a packet of the host for the reserved address, or a borrowed one, and reports whether it is an answer. All others to the former come to
// nothing.
func (d *Device) probed(b []byte) bool {
	p, err := filter.Parse(b)
	if err != nil || p.Fragment || p.Proto != protoICMP && p.Proto != protoICMPv6 {
		return false
	}
	icmp := payloadOf(b)
	reply := byte(echoReply4)
	if p.Proto == protoICMPv6 {
		reply = echoReply6
	}
	if len(icmp) < headerICMP || icmp[0] != reply || icmp[1] != 0 {
		return false
	}
	d.counters.probeAnswers.Add(1)
	d.cfg.OnProbe(p.Src, binary.BigEndian.Uint16(icmp[4:]), binary.BigEndian.Uint16(icmp[6:]))
	return true
}
