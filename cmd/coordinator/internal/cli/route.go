package cli

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"warren/cmd/internal/cmdline"
	"warren/proto/cidr"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// routeJSON is what --json prints of a route; its names are an interface that stays stable.
type routeJSON struct {
	Gateway string `json:"gateway"`
	Route   string `json:"route"`
	// Kind is "masqueraded", "site", "translated" or "exit"; empty if the gateway does not advertise it.
	Kind       string     `json:"kind"`
	LAN        string     `json:"lan,omitempty"`
	Priority   uint32     `json:"priority,omitempty"`
	State      string     `json:"state"`
	By         string     `json:"by,omitempty"`
	At         *time.Time `json:"at"`
	Advertised bool       `json:"advertised"`
	// Granted says that another device may use it, Named that a grant speaks of it, if only for those who are not there yet.
	Granted bool `json:"granted"`
	Named   bool `json:"named"`
	Online  bool `json:"online"`

	prefix netip.Prefix
}

func routeView(m *pb.Route) (routeJSON, error) {
	p, err := record.PrefixFromProto(m.GetPrefix())
	v := routeJSON{
		Gateway: m.GetDevice(), Route: p.String(), Priority: m.GetPriority(), State: m.GetState(), By: m.GetBy(), At: moment(m.GetAt()),
		Advertised: m.GetAdvertised(), Granted: m.GetGranted(), Named: m.GetNamed(), Online: m.GetOnline(), prefix: p,
	}
	if err != nil {
		return v, fmt.Errorf("route of %s: %w", m.GetDevice(), err)
	}
	if m.GetLan() != nil {
		lan, err := record.PrefixFromProto(m.GetLan())
		if err != nil {
			return v, fmt.Errorf("route of %s: %w", m.GetDevice(), err)
		}
		v.LAN = lan.String()
	}
	switch {
	case !m.GetAdvertised():
	case m.GetExit():
		v.Kind = cidr.Exit.String()
	case v.LAN != "":
		v.Kind = cidr.Translated.String()
	case m.GetSite():
		v.Kind = cidr.Site.String()
	default:
		v.Kind = cidr.Masqueraded.String()
	}
	return v, nil
}

func routeViews(in []*pb.Route) ([]routeJSON, error) {
	out := []routeJSON{}
	for _, m := range in {
		v, err := routeView(m)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// approved reports whether the gateway may carry it; carried, whether it does.
func (r routeJSON) approved() bool { return r.State == "approved" }
func (r routeJSON) carried() bool  { return r.approved() && r.Advertised }
func (r routeJSON) exit() bool     { return r.prefix.Bits() == 0 }

func (a *app) route() *cobra.Command {
	return cmdline.Group("route", "List, approve and revoke what gateways and exit nodes carry", a.routeList(), a.routeApprove(), a.routeRevoke())
}

func (a *app) routes(cmd *cobra.Command, device string) ([]routeJSON, error) {
	r, err := a.client().ListRoutes(cmd.Context(), connect.NewRequest(&pb.ListRoutesRequest{Device: device}))
	if err != nil {
		return nil, err
	}
	return routeViews(r.Msg.GetRoutes())
}

func (a *app) routeList() *cobra.Command {
	return &cobra.Command{
		Use:   "list [DEVICE]",
		Short: "List what devices advertise, and what was approved or revoked",
		Args:  cmdline.Args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			views, err := a.routes(cmd, strings.Join(given, ""))
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(views)
			}
			all := views
			if len(given) > 0 {
				if all, err = a.routes(cmd, ""); err != nil {
					return err
				}
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "GATEWAY\tROUTE\tKIND\tPRIORITY\tSTATE\tBY\tSINCE\tNOTE")
			for _, r := range views {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Gateway, r.Route, r.kind(), r.rank(), r.State, dash(r.By), when(r.At, "-"),
					dash(strings.Join(r.notes(all), ", ")))
			}
			return w.Flush()
		},
	}
}

func (r routeJSON) kind() string {
	if r.LAN != "" {
		return "for " + r.LAN
	}
	return dash(r.Kind)
}

func (r routeJSON) rank() string {
	if r.Priority == 0 {
		return "-"
	}
	return fmt.Sprint(r.Priority)
}

// notes say in a few words what of a route deserves a look.
func (r routeJSON) notes(all []routeJSON) (out []string) {
	if !r.Advertised {
		out = append(out, "not advertised")
	}
	if !r.Online {
		out = append(out, "gateway offline")
	}
	switch {
	case !r.carried() || r.Granted:
	case r.Named:
		out = append(out, "nobody may use it yet")
	default:
		out = append(out, "no grant")
	}
	if r.exit() || !r.carried() {
		return out
	}
	for _, o := range all {
		if o.Gateway == r.Gateway || !o.carried() || o.exit() {
			continue
		}
		switch {
		case o.prefix == r.prefix:
			out = append(out, "also by "+o.Gateway)
		case o.prefix.Overlaps(r.prefix):
			out = append(out, fmt.Sprintf("overlaps %s of %s", o.Route, o.Gateway))
		}
	}
	return out
}

// routePrefixes reads the CIDRs that a person names for a gateway, or for an exit node.
func routePrefixes(texts []string) (out []*pb.Prefix, err error) {
	for _, s := range texts {
		p, err := netip.ParsePrefix(s)
		if err != nil || p != netip.PrefixFrom(netip.IPv4Unspecified(), 0) && p != netip.PrefixFrom(netip.IPv6Unspecified(), 0) {
			if p, err = cidr.ParsePrefix(s); err != nil {
				return nil, cmdline.UsageError{Err: err}
			}
		}
		out = append(out, record.PrefixToProto(p))
	}
	return out, nil
}

func (a *app) routeApprove() *cobra.Command {
	return &cobra.Command{
		Use:   "approve DEVICE [CIDR...]",
		Short: "Let a device carry CIDRs, or be an exit node; by default all that waits",
		Long: `Lets a device carry the CIDRs, or, without any, all that it advertises and that nobody has revoked. A CIDR that it does not advertise yet is
carried as soon as it does. Who may use the route, the policy says. An exit node carries 0.0.0.0/0 and ::/0.`,
		Example: "  warren-coordinator route approve office-gw\n  warren-coordinator route approve office-gw 192.168.10.0/24",
		Args:    cmdline.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			prefixes, err := routePrefixes(given[1:])
			if err != nil {
				return err
			}
			r, err := a.client().ApproveRoutes(cmd.Context(), connect.NewRequest(&pb.ApproveRoutesRequest{Device: given[0], Prefixes: prefixes}))
			if err != nil {
				return err
			}
			approved, err := routeViews(r.Msg.GetRoutes())
			if err != nil {
				return err
			}
			all, err := a.routes(cmd, "")
			if err != nil {
				return err
			}
			for _, w := range routeWarnings(approved, all) {
				fmt.Fprintf(a.err, "warning: %s\n", w)
			}
			if a.json {
				return a.printJSON(approved)
			}
			for _, r := range approved {
				fmt.Fprintf(a.out, "%s may carry %s%s\n", r.Gateway, r.Route, r.since())
			}
			return nil
		},
	}
}

// since tells from when on an approval counts, unless that is now.
func (r routeJSON) since() string {
	if !r.Advertised {
		return ", once it advertises it"
	}
	return ""
}

func (a *app) routeRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke DEVICE [CIDR...]",
		Short: "Take a device's CIDRs away, by default all, whoever approved them",
		Long: `Takes the CIDRs away from a device, or, without any, all that it advertises or may carry. The policy's autoApprovers do not give them back:
only "route approve" does.`,
		Args: cmdline.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			prefixes, err := routePrefixes(given[1:])
			if err != nil {
				return err
			}
			r, err := a.client().RevokeRoutes(cmd.Context(), connect.NewRequest(&pb.RevokeRoutesRequest{Device: given[0], Prefixes: prefixes}))
			if err != nil {
				return err
			}
			revoked, err := routeViews(r.Msg.GetRoutes())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(revoked)
			}
			for _, r := range revoked {
				fmt.Fprintf(a.out, "%s may not carry %s, until \"route approve\"\n", r.Gateway, r.Route)
			}
			return nil
		},
	}
}

// routeWarnings say what an administrator who approved routes may not have thought of; all are the routes of all devices.
func routeWarnings(approved, all []routeJSON) (out []string) {
	for _, r := range approved {
		for _, o := range all {
			if o.Gateway != r.Gateway && o.approved() && !o.exit() && !r.exit() {
				if w := clash(r, o); w != "" {
					out = append(out, w)
				}
			}
		}
	}
	return append(out, withoutGrant(approved)...)
}

// clash says what follows from two gateways' routes.
func clash(r, o routeJSON) string {
	switch {
	case r.prefix == o.prefix:
		return fmt.Sprintf("%s is carried by %s too: devices use the one that works, of higher priority first. If these are different networks, show one "+
			"under another CIDR: \"warren up --advertise %s=ANOTHER\" on %s", r.Route, o.Gateway, cmp.Or(r.LAN, r.Route), r.Gateway)
	case !r.prefix.Overlaps(o.prefix):
		return ""
	case r.prefix.Bits() > o.prefix.Bits():
		return fmt.Sprintf("%s is a part of %s, which %s carries: its addresses are reached through %s, and through %s while that fails", r.Route,
			o.Route, o.Gateway, r.Gateway, o.Gateway)
	}
	return fmt.Sprintf("%s holds %s, whose addresses are reached through %s, and through %s while that fails", r.Route, o.Route, o.Gateway, r.Gateway)
}

// withoutGrant tells which routes nobody may use, and a grant that would change it.
func withoutGrant(approved []routeJSON) []string {
	var routes, quoted []string
	exit, site := false, false
	for _, r := range approved {
		if !r.carried() || r.Granted || r.Named {
			continue
		}
		routes = append(routes, r.Route)
		to := r.Route
		if r.exit() {
			to = "autogroup:internet"
		}
		if to = fmt.Sprintf("%q", to); !strings.Contains(strings.Join(quoted, " "), to) {
			quoted = append(quoted, to)
		}
		exit, site = exit || r.exit(), site || r.Kind == cidr.Site.String()
	}
	if len(routes) == 0 {
		return nil
	}
	from := `"autogroup:member"`
	if site && !exit {
		from += `, "CIDR-OF-THE-OTHER-SITE"`
	}
	return []string{fmt.Sprintf("no grant of the policy lets anybody use %s; one such as this does:\n"+
		"  {\"src\": [%s], \"dst\": [%s], \"ip\": [\"*\"]},", strings.Join(routes, ", "), from, strings.Join(quoted, ", "))}
}
