package daemon

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"

	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/nat/gather"
	"warren/nat/portmap"
	"warren/nat/portmap/pcp"
	"warren/nat/portmapper"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// makeMapper makes the port mapper, unless it was turned off. What it gets the gatherer offers to peers.
func (s *session) makeMapper() {
	if len(s.cfg.PortMapping) == 0 {
		return
	}
	s.mapper = portmapper.New(portmapper.Config{
		Log: s.log, Interface: s.router.Name(), Port: s.bind.LocalPort, Use: s.cfg.PortMapping, Control: markedDialer(s.log, s.cfg.mark()).net.Control,
		OnMapping: s.gatherer.SetMapped, Metrics: s.cfg.mapping, Nonce: mappingNonce(s.cfg.state.Node),
	})
}

// mappingNonce is the device's own for ever, so that a daemon goes on with the mapping of the one before.
func mappingNonce(node key.NodePrivate) (n pcp.Nonce) {
	b, err := hkdf.Key(sha256.New, node.Bytes(), nil, "warren port mapping nonce v1", len(n))
	if err != nil {
		return n // then one is drawn
	}
	return pcp.Nonce(b)
}

func (s *session) runMapper(ctx context.Context) error {
	if s.mapper != nil {
		return s.mapper.Run(ctx)
	}
	<-ctx.Done()
	return nil
}

// natStatus tells what is between this device and the internet.
func (s *session) natStatus() *pb.NATStatus {
	r := s.gatherer.Report()
	out := &pb.NATStatus{Ipv4: natMapping(r.IPv4), Ipv6: natMapping(r.IPv6), Candidates: texts(r.Candidates), PortMapping: new(pb.PortMapping)}
	if s.mapper != nil {
		out.PortMapping = portMapping(s.mapper.Report())
	}
	return out
}

func natMapping(m gather.Mapping) *pb.NATMapping {
	return &pb.NATMapping{Behaviour: m.Behaviour.String(), Sure: m.Sure, External: texts(m.External)}
}

func portMapping(r portmap.Report) *pb.PortMapping {
	out := &pb.PortMapping{Enabled: true, DoubleNat: r.DoubleNAT()}
	if r.Gateway.IsValid() {
		out.Gateway = r.Gateway.String()
	}
	if r.Mapping.Protocol != portmap.None {
		out.Protocol, out.External, out.Until = r.Mapping.Protocol.String(), r.Mapping.External.String(), timestamppb.New(r.Until)
	}
	for _, p := range r.Protocols {
		one := &pb.PortMappingProtocol{Name: p.Protocol.String(), Answered: p.Answered, Reason: p.Reason.String()}
		if p.External.IsValid() {
			one.External = p.External.String()
		}
		out.Protocols = append(out.Protocols, one)
	}
	return out
}
