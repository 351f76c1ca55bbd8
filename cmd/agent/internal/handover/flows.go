package handover

import (
	"net/netip"
	"time"

	"warren/proto/key"
	pb "warren/proto/warrenv1"
	"warren/tunnel/filter"
)

func encodeFlow(k *filter.Kept) *pb.HandoverFlow {
	in, out := k.Traffic[filter.In], k.Traffic[filter.Out]
	return &pb.HandoverFlow{
		Device: k.Peer[:], In: k.Direction == filter.In, Protocol: uint32(k.Proto), Seen: uint32(k.Seen), Told: k.Told,
		Source: k.Src.Addr().AsSlice(), SourcePort: uint32(k.Src.Port()), Destination: k.Dst.Addr().AsSlice(), DestinationPort: uint32(k.Dst.Port()),
		Age: int64(k.Age), Idle: int64(k.Idle), Left: int64(k.Left),
		PacketsIn: in.Packets, BytesIn: in.Bytes, PacketsOut: out.Packets, BytesOut: out.Bytes,
	}
}

// decodeFlow takes what fits its type. Whether it makes sense is the filter's to say.
func decodeFlow(m *pb.HandoverFlow) (k filter.Kept, ok bool) {
	src, ok1 := netip.AddrFromSlice(m.GetSource())
	dst, ok2 := netip.AddrFromSlice(m.GetDestination())
	if !ok1 || !ok2 || len(m.GetDevice()) != key.Size || max(m.GetSourcePort(), m.GetDestinationPort()) > 65535 || max(m.GetProtocol(), m.GetSeen()) > 255 {
		return k, false
	}
	k = filter.Kept{
		Peer: [key.Size]byte(m.GetDevice()), Direction: filter.Out, Proto: uint8(m.GetProtocol()), Seen: uint8(m.GetSeen()), Told: m.GetTold(),
		Src: netip.AddrPortFrom(src, uint16(m.GetSourcePort())), Dst: netip.AddrPortFrom(dst, uint16(m.GetDestinationPort())),
		Age: time.Duration(m.GetAge()), Idle: time.Duration(m.GetIdle()), Left: time.Duration(m.GetLeft()),
	}
	if m.GetIn() {
		k.Direction = filter.In
	}
	k.Traffic[filter.In] = filter.Traffic{Packets: m.GetPacketsIn(), Bytes: m.GetBytesIn()}
	k.Traffic[filter.Out] = filter.Traffic{Packets: m.GetPacketsOut(), Bytes: m.GetBytesOut()}
	return k, true
}
