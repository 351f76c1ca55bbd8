package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	pb "warren/proto/warrenv1"
)

// The views are what --json prints, as in status.go.
type (
	natJSON struct {
		IPv4        natMappingJSON  `json:"ipv4"`
		IPv6        natMappingJSON  `json:"ipv6"`
		PortMapping portMappingJSON `json:"port_mapping"`
		Candidates  []string        `json:"candidates"`
	}
	natMappingJSON struct {
		Behaviour string   `json:"behaviour"`
		Sure      bool     `json:"sure"`
		External  []string `json:"external"`
	}
	portMappingJSON struct {
		Enabled   bool                  `json:"enabled"`
		Gateway   string                `json:"gateway,omitempty"`
		Protocol  string                `json:"protocol,omitempty"`
		External  string                `json:"external,omitempty"`
		Until     *time.Time            `json:"until,omitempty"`
		DoubleNAT bool                  `json:"double_nat"`
		Protocols []mappingProtocolJSON `json:"protocols"`
	}
	mappingProtocolJSON struct {
		Name     string `json:"name"`
		Answered bool   `json:"answered"`
		Reason   string `json:"reason,omitempty"`
		External string `json:"external,omitempty"`
	}
)

func natView(n *pb.NATStatus) *natJSON {
	if n == nil {
		return nil
	}
	return &natJSON{
		IPv4: natMappingView(n.GetIpv4()), IPv6: natMappingView(n.GetIpv6()), Candidates: list(n.GetCandidates()),
		PortMapping: portMappingView(n.GetPortMapping()),
	}
}

func portMappingView(m *pb.PortMapping) portMappingJSON {
	v := portMappingJSON{
		Enabled: m.GetEnabled(), Gateway: m.GetGateway(), Protocol: m.GetProtocol(), External: m.GetExternal(), Until: moment(m.GetUntil()),
		DoubleNAT: m.GetDoubleNat(), Protocols: []mappingProtocolJSON{},
	}
	for _, p := range m.GetProtocols() {
		v.Protocols = append(v.Protocols, mappingProtocolJSON{p.GetName(), p.GetAnswered(), p.GetReason(), p.GetExternal()})
	}
	return v
}

func natMappingView(m *pb.NATMapping) natMappingJSON {
	return natMappingJSON{m.GetBehaviour(), m.GetSure(), list(m.GetExternal())}
}

// printNAT says in one line how this device is reached from outside. There is none while nothing is known.
func printNAT(w io.Writer, n *pb.NATStatus) {
	var parts []string
	for _, f := range []struct {
		name string
		m    *pb.NATMapping
	}{{"IPv4", n.GetIpv4()}, {"IPv6", n.GetIpv6()}} {
		switch b := f.m.GetBehaviour(); b {
		case "", "unknown":
		case "no NAT":
			parts = append(parts, f.name+" without NAT")
		default:
			parts = append(parts, f.name+" behind a NAT, "+b)
		}
	}
	switch m := n.GetPortMapping(); {
	case m.GetProtocol() != "":
		parts = append(parts, "port mapped by "+m.GetProtocol()+" at "+m.GetExternal())
	case m.GetDoubleNat():
		parts = append(parts, "no port mapping: the gateway is itself behind a NAT")
	}
	if len(parts) > 0 {
		fmt.Fprintf(w, "network     %s\n", strings.Join(parts, ", "))
	}
}
