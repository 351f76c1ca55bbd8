package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	pb "warren/proto/warrenv1"
)

// The views are what --json prints, as in status.go.
type (
	routeJSON struct {
		Prefix   string        `json:"prefix"`
		Use      string        `json:"use"`
		Gateway  string        `json:"gateway,omitempty"`
		Gateways []gatewayJSON `json:"gateways"`
		// Reason and Interface are about another network with the same addresses.
		Reason    string `json:"reason,omitempty"`
		Interface string `json:"interface,omitempty"`
	}
	gatewayJSON struct {
		Name     string     `json:"name"`
		Priority uint32     `json:"priority"`
		Health   string     `json:"health"`
		RTT      float64    `json:"rtt_ms,omitempty"`
		Since    *time.Time `json:"since,omitempty"`
		Answered *time.Time `json:"answered,omitempty"`
	}
	advertisedJSON struct {
		Prefix   string     `json:"prefix"`
		LAN      string     `json:"lan,omitempty"`
		Kind     string     `json:"kind"`
		State    string     `json:"state"`
		Health   string     `json:"health"`
		Probe    string     `json:"probe,omitempty"`
		Answered *time.Time `json:"answered,omitempty"`
		Priority uint32     `json:"priority"`
	}
	exitJSON struct {
		Wanted   string `json:"wanted"`
		Node     string `json:"node"`
		AllowLAN bool   `json:"allow_lan"`
		IPv4     bool   `json:"ipv4"`
		IPv6     bool   `json:"ipv6"`
		Problem  string `json:"problem,omitempty"`
	}
)

func routesView(in []*pb.RouteStatus) []routeJSON {
	out := []routeJSON{}
	for _, r := range in {
		v := routeJSON{
			Prefix: r.GetPrefix(), Use: r.GetUse(), Gateway: r.GetGateway(), Gateways: []gatewayJSON{}, Reason: r.GetReason(), Interface: r.GetInterface(),
		}
		for _, g := range r.GetGateways() {
			v.Gateways = append(v.Gateways, gatewayJSON{g.GetName(), g.GetPriority(), g.GetHealth(), g.GetRttMs(), moment(g.GetSince()), moment(g.GetAnswered())})
		}
		out = append(out, v)
	}
	return out
}

func advertisedView(in []*pb.AdvertisedStatus) []advertisedJSON {
	out := []advertisedJSON{}
	for _, a := range in {
		out = append(out, advertisedJSON{
			a.GetPrefix(), a.GetLan(), a.GetKind(), a.GetState(), a.GetHealth(), a.GetProbe(), moment(a.GetAnswered()), a.GetPriority(),
		})
	}
	return out
}

func exitView(e *pb.ExitStatus) *exitJSON {
	if e == nil {
		return nil
	}
	return &exitJSON{e.GetWanted(), e.GetNode(), e.GetAllowLan(), e.GetIpv4(), e.GetIpv6(), e.GetProblem()}
}

// printRoutes prints what status has to say of CIDRs, exit node and kill switch; nothing where there is none.
func printRoutes(w io.Writer, s *pb.StatusResponse) error {
	if s.GetKillSwitch() {
		fmt.Fprintln(w, "kill switch on: nothing leaves this host but through the tunnel")
	}
	if e := s.GetExit(); e != nil {
		fmt.Fprintln(w, exitText(e))
	}
	if err := printTable(w, "ADVERTISED\tKIND\tSTATE\tLAN", s.GetAdvertised(), func(a *pb.AdvertisedStatus) string {
		prefix := a.GetPrefix()
		if a.GetLan() != "" {
			prefix = a.GetLan() + " as " + prefix
		}
		return strings.Join([]string{prefix, a.GetKind(), a.GetState(), lanText(a)}, "\t")
	}); err != nil {
		return err
	}
	if err := printTable(w, "ROUTE\tUSE\tGATEWAY\tHEALTH\tOTHERS", s.GetRoutes(), routeText); err != nil {
		return err
	}
	return waiting(w, s)
}

// waiting says what is to be done about CIDRs that nobody has approved.
func waiting(w io.Writer, s *pb.StatusResponse) error {
	var cidrs []string
	for _, a := range s.GetAdvertised() {
		if a.GetState() == "waiting" {
			cidrs = append(cidrs, a.GetPrefix())
		}
	}
	switch len(cidrs) {
	case 0:
		return nil
	case 1:
		cidrs[0] += " waits"
	default:
		cidrs[len(cidrs)-1] += " wait"
	}
	_, err := fmt.Fprintf(w, "%s for approval: an administrator runs \"warren-coordinator route approve %s\"\n", strings.Join(cidrs, ", "), s.GetSelf().GetName())
	return err
}

func printTable[T any](w io.Writer, head string, rows []T, text func(T) string) error {
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, head)
	for _, r := range rows {
		fmt.Fprintln(t, text(r))
	}
	return t.Flush()
}

func routeText(r *pb.RouteStatus) string {
	use, gateway, health := r.GetUse(), "-", "-"
	if r.GetReason() != "" {
		use += " (" + r.GetReason() + ")"
	}
	var others []string
	for _, g := range r.GetGateways() {
		if g.GetName() == r.GetGateway() {
			gateway, health = g.GetName(), healthText(g)
		} else {
			others = append(others, fmt.Sprintf("%s (%s)", g.GetName(), healthText(g)))
		}
	}
	return strings.Join([]string{r.GetPrefix(), use, gateway, health, orDash(strings.Join(others, ", "))}, "\t")
}

// healthText says why nothing is known of a gateway: one that there is no choice of is asked only while it is used.
func healthText(g *pb.GatewayStatus) string {
	switch {
	case g.GetHealth() != "unknown":
		return g.GetHealth()
	case g.GetAnswered() == nil:
		return "unused"
	}
	return "unused, answered " + agoText(g.GetAnswered())
}

func exitText(e *pb.ExitStatus) string {
	if e.GetNode() == "" {
		return "exit node " + e.GetWanted() + ": none: " + e.GetProblem()
	}
	text := "exit node " + e.GetNode()
	if e.GetWanted() == "auto" {
		text += " (chosen)"
	}
	switch {
	case !e.GetIpv6():
		text += ", IPv4 only: IPv6 is refused"
	case !e.GetIpv4():
		text += ", IPv6 only: IPv4 is refused"
	}
	if e.GetAllowLan() {
		text += "; networks of this host stay reachable"
	}
	if e.GetProblem() != "" {
		text += "; " + e.GetProblem()
	}
	return text
}

func lanText(a *pb.AdvertisedStatus) string {
	if a.GetProbe() == "" {
		return a.GetHealth()
	}
	return fmt.Sprintf("%s (%s, %s)", a.GetHealth(), a.GetProbe(), agoText(a.GetAnswered()))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
