package cli

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"warren/cmd/internal/cmdline"
	pb "warren/proto/warrenv1"
)

type (
	netcheckJSON struct {
		At            *time.Time      `json:"at"`
		IPv4          familyJSON      `json:"ipv4"`
		IPv6          familyJSON      `json:"ipv6"`
		Hairpin       string          `json:"hairpin"`
		PortMapping   portMappingJSON `json:"port_mapping"`
		CaptivePortal string          `json:"captive_portal"`
		PortalURL     string          `json:"portal_url,omitempty"`
		Relays        []relayJSON     `json:"relays"`
		Findings      []string        `json:"findings"`
	}
	familyJSON struct {
		Local     string         `json:"local"`
		UDP       string         `json:"udp"`
		Mapped    string         `json:"mapped"`
		Mapping   natMappingJSON `json:"mapping"`
		Filtering string         `json:"filtering"`
		PortKept  bool           `json:"port_kept"`
		MTU       uint32         `json:"mtu,omitempty"`
	}
	relayJSON struct {
		Name      string  `json:"name"`
		Region    string  `json:"region,omitempty"`
		UDP       float64 `json:"udp_rtt_ms,omitempty"`
		TCP       float64 `json:"tcp_rtt_ms,omitempty"`
		TLS       float64 `json:"tls_ms,omitempty"`
		Error     string  `json:"error,omitempty"`
		Connected bool    `json:"connected"`
	}
)

func netcheckView(m *pb.NetcheckResponse) netcheckJSON {
	v := netcheckJSON{
		At: moment(m.GetAt()), IPv4: familyView(m.GetIpv4()), IPv6: familyView(m.GetIpv6()), Hairpin: m.GetHairpin(),
		PortMapping: portMappingView(m.GetPortMapping()), CaptivePortal: m.GetCaptivePortal(), PortalURL: m.GetPortalUrl(),
		Relays: []relayJSON{}, Findings: list(m.GetFindings()),
	}
	for _, r := range m.GetRelays() {
		v.Relays = append(v.Relays, relayJSON{
			r.GetName(), r.GetRegion(), r.GetUdpRttMs(), r.GetTcpRttMs(), r.GetTlsMs(), r.GetError(), r.GetConnected(),
		})
	}
	return v
}

func familyView(f *pb.FamilyReport) familyJSON {
	return familyJSON{f.GetLocal(), f.GetUdp(), f.GetMapped(), natMappingView(f.GetMapping()), f.GetFiltering(), f.GetPortKept(), f.GetMtu()}
}

func (a *app) netcheck() *cobra.Command {
	return &cobra.Command{
		Use:   "netcheck",
		Short: "Find out what the network here lets through",
		Long: `Asks the STUN servers and relays of the network this device belongs to, and tells whether UDP passes over IPv4 and IPv6, how the
NAT maps and filters (RFC 5780), whether it hairpins and maps ports on request, whether a captive portal is in the way, which
relays answer and how soon, and how large a packet may be. It takes up to about ten seconds.`,
		Args: cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			live := a.liveLine()
			live.show("looking at the network")
			r, err := a.client().Netcheck(cmd.Context(), connect.NewRequest(&pb.NetcheckRequest{}))
			live.clear()
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(netcheckView(r.Msg))
			}
			return printNetcheck(a.out, r.Msg)
		},
	}
}

func printNetcheck(w io.Writer, m *pb.NetcheckResponse) error {
	for _, f := range m.GetFindings() {
		fmt.Fprintf(w, "- %s\n", f)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tIPv4\tIPv6")
	for _, line := range []struct {
		name string
		of   func(*pb.FamilyReport) string
	}{
		{"own address", func(f *pb.FamilyReport) string { return f.GetLocal() }},
		{"UDP", (*pb.FamilyReport).GetUdp},
		{"seen from outside", (*pb.FamilyReport).GetMapped},
		{"mapping", mappingText},
		{"filtering", func(f *pb.FamilyReport) string { return known(f, f.GetFiltering()) }},
		{"largest packet", func(f *pb.FamilyReport) string { return unlessZero(f.GetMtu()) }},
	} {
		fmt.Fprintf(t, "%s\t%s\t%s\n", line.name, cmp.Or(line.of(m.GetIpv4()), "-"), cmp.Or(line.of(m.GetIpv6()), "-"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nhairpin         %s\ncaptive portal  %s\nport mapping    %s\n", m.GetHairpin(), m.GetCaptivePortal(), portMappingText(m.GetPortMapping()))
	if len(m.GetRelays()) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	fmt.Fprintln(t, "RELAY\tREGION\tUDP\tTCP\tTCP AND TLS\tCONNECTED")
	for _, r := range m.GetRelays() {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.GetName(), cmp.Or(r.GetRegion(), "-"), msText(r.GetUdpRttMs()), msText(r.GetTcpRttMs()),
			msText(r.GetTlsMs()), yesNo(r.GetConnected()))
	}
	return t.Flush()
}

// known is empty where UDP does not pass, so that there was nothing to find out.
func known(f *pb.FamilyReport, s string) string {
	if f.GetUdp() != "yes" {
		return ""
	}
	return s
}

func mappingText(f *pb.FamilyReport) string {
	s := known(f, f.GetMapping().GetBehaviour())
	if s == "endpoint-independent" && !f.GetMapping().GetSure() {
		s += " or address-dependent"
	}
	return s
}

func unlessZero(n uint32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d bytes", n)
}

func msText(ms float64) string {
	if ms == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", ms)
}

func portMappingText(m *pb.PortMapping) string {
	switch {
	case !m.GetEnabled():
		return "turned off"
	case m.GetProtocol() != "":
		return m.GetProtocol() + " at " + m.GetExternal()
	case m.GetDoubleNat():
		return "of no use: the gateway is itself behind a NAT"
	case m.GetGateway() == "":
		return "no gateway"
	}
	s := ""
	for i, p := range m.GetProtocols() {
		if i > 0 {
			s += ", "
		}
		s += p.GetName() + ": " + cmp.Or(p.GetReason(), "no answer yet")
	}
	return s
}
