package tundev

import (
	"encoding/binary"
	"fmt"
	"net/netip"

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
	src, kind, proto := v.probe.v4, byte(echoRequest4), uint8(protoICMP)
	if target.Is6() {
		src, kind, proto = v.probe.v6, echoRequest6, protoICMPv6
	}
	if !src.IsValid() {
		return fmt.Errorf("no probe of %s: the network has no address for that", target)
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

// probed takes a packet of the host for the reserved address. All but answers come to nothing.
func (d *Device) probed(b []byte) {
	p, err := filter.Parse(b)
	if err != nil || p.Fragment || p.Proto != protoICMP && p.Proto != protoICMPv6 {
		return
	}
	icmp := payloadOf(b)
	reply := byte(echoReply4)
	if p.Proto == protoICMPv6 {
		reply = echoReply6
	}
	if len(icmp) < headerICMP || icmp[0] != reply || icmp[1] != 0 {
		return
	}
	d.counters.probeAnswers.Add(1)
	d.cfg.OnProbe(p.Src, binary.BigEndian.Uint16(icmp[4:]), binary.BigEndian.Uint16(icmp[6:]))
}
