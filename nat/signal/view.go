package signal

import pb "warren/proto/warrenv1"

// View is what a device knows of its own network and of its path to the other. It is for people: a peer may tell what it likes, and nothing
// but whether ports are tried, which goes by the mapping, is decided by it.
type View struct {
	UDP pb.Reach
	// Mapping is that of the IPv4 NAT, or else of the IPv6 one.
	Mapping pb.Mapping
	Path    pb.PathKind
	// MTU is the largest packet of a direct path, in bytes; 0 on others.
	MTU uint16
}

func (v View) toProto() *pb.View {
	if v.Mapping = 0; v == (View{}) { // which has a field of the signal's
		return nil
	}
	return &pb.View{Udp: v.UDP, Path: v.Path, Mtu: uint32(v.MTU)}
}

// viewFromProto takes what it knows the meaning of; a later version may say more.
func viewFromProto(s *pb.Signal) View {
	m := s.GetView()
	v := View{
		UDP: known(m.GetUdp(), pb.Reach_name), Mapping: known(s.GetMapping(), pb.Mapping_name), Path: known(m.GetPath(), pb.PathKind_name),
	}
	if m.GetMtu() <= 1<<16-1 {
		v.MTU = uint16(m.GetMtu())
	}
	return v
}

// known makes a value that has no name the unspecified one.
func known[E ~int32](e E, names map[int32]string) E {
	if _, ok := names[int32(e)]; ok {
		return e
	}
	return 0
}
