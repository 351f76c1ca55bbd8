package daemon

import (
	"context"
	"net/url"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/nat/netcheck"
	"warren/nat/relay"
	pb "warren/proto/warrenv1"
)

// Netcheck implements LocalService.
func (a *api) Netcheck(ctx context.Context, _ *connect.Request[pb.NetcheckRequest]) (*connect.Response[pb.NetcheckResponse], error) {
	s, err := a.running(ctx)
	if err != nil {
		return nil, err
	}
	cfg := netcheck.System(markedDialer(s.log, s.cfg.mark()).net.Control)
	cfg.Resolve = s.cfg.names.Lookup
	cfg.Relays = s.netcheckRelays()
	r := netcheck.Run(ctx, cfg)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	out := &pb.NetcheckResponse{
		At: timestamppb.New(r.At), Ipv4: familyReport(r.IPv4), Ipv6: familyReport(r.IPv6), Hairpin: r.Hairpin.String(),
		PortMapping: s.natStatus().GetPortMapping(), CaptivePortal: r.Portal.String(), PortalUrl: r.PortalURL, Findings: r.Findings(),
	}
	for _, one := range r.Relays {
		out.Relays = append(out.Relays, relayReport(one))
	}
	return connect.NewResponse(out), nil
}

// netcheckRelays are the relays of the map.
func (s *session) netcheckRelays() (out []netcheck.Relay) {
	m := s.cfg.state.Membership
	k := s.known.Load()
	if k.m == nil {
		return nil
	}
	connected := map[string]bool{}
	for _, l := range s.relays.links() {
		if l.up.Load() != nil {
			connected[string(l.desc.GetRelayKey())] = true
		}
	}
	for _, desc := range k.m.Statement.GetRelays() {
		one := netcheck.Relay{
			Name: desc.GetName(), Region: desc.GetRegion(), STUN: desc.GetStun(), Connected: connected[string(desc.GetRelayKey())],
			Connect: func(ctx context.Context) (tcp, tls time.Duration, err error) {
				return relay.Probe(ctx, relay.ProbeConfig{Relay: desc, Network: m.Network, Authority: m.Authority, Dial: s.cfg.dial})
			},
		}
		if len(desc.GetUrls()) > 0 {
			if u, err := url.Parse(desc.GetUrls()[0]); err == nil {
				one.Host = u.Hostname()
			}
		}
		out = append(out, one)
	}
	return out
}

func familyReport(f netcheck.Family) *pb.FamilyReport {
	out := &pb.FamilyReport{
		Udp: f.UDP.String(), Mapped: addrText(f.Mapped), Mapping: natMapping(f.Mapping), Filtering: f.Filtering.String(), PortKept: f.PortKept,
		Mtu: uint32(f.MTU),
	}
	if f.Local.IsValid() {
		out.Local = f.Local.String()
	}
	return out
}

func relayReport(r netcheck.RelayReport) *pb.RelayReport {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	out := &pb.RelayReport{
		Name: r.Name, Region: r.Region, UdpRttMs: ms(r.UDP), TcpRttMs: ms(r.TCP), TlsMs: ms(r.TLS), Connected: r.Connected,
	}
	if r.Err != nil {
		out.Error = r.Err.Error()
	}
	return out
}
