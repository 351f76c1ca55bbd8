package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"warren/cmd/agent/internal/local"
	"warren/cmd/internal/cmdline"
	"warren/cmd/internal/flowview"
	pb "warren/proto/warrenv1"
	"warren/tunnel/flowlog"
)

type whoIsJSON struct {
	Device    string           `json:"device"`
	User      string           `json:"user"`
	Groups    []string         `json:"groups"`
	Tags      []string         `json:"tags"`
	Addresses []string         `json:"addresses"`
	Self      bool             `json:"self"`
	Gateway   string           `json:"gateway,omitempty"`
	Route     string           `json:"route,omitempty"`
	Flows     []flowlog.Record `json:"flows"`
}

func whoIsView(m *pb.WhoIsResponse) (whoIsJSON, error) {
	flows, err := flowview.AllFromWire(m.GetFlows())
	return whoIsJSON{
		Device: m.GetDevice(), User: m.GetUser(), Groups: list(m.GetGroups()), Tags: list(m.GetTags()), Addresses: list(m.GetAddresses()), Self: m.GetSelf(),
		Gateway: m.GetGateway(), Route: m.GetRoute(), Flows: flows,
	}, err
}

func (a *app) whoIs() *cobra.Command {
	return &cobra.Command{
		Use:   "whois ADDRESS[:PORT]",
		Short: "Tell who is behind an address: device, user, groups and tags",
		Long: `Tells whose address it is, by the records that the network's authority has signed. With a port, as a service sees its client, it
shows the flows through the tunnel that have it as an end: what has none did not come through the tunnel. A service asks the same over
the daemon's socket; see docs/identity.md.`,
		Args: cmdline.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			_, port, err := local.ParseEnd(given[0])
			if err != nil {
				return cmdline.UsageError{Err: err}
			}
			r, err := a.client().WhoIs(cmd.Context(), connect.NewRequest(&pb.WhoIsRequest{Address: given[0]}))
			if err != nil {
				return err
			}
			v, err := whoIsView(r.Msg)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(v)
			}
			return printWhoIs(a.out, v, port != 0)
		},
	}
}

// printWhoIs leaves out what there is not. withPort says that flows were asked for.
func printWhoIs(w io.Writer, v whoIsJSON, withPort bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	device := v.Device
	if v.Self {
		device += " (this device)"
	}
	if v.Gateway != "" {
		device = fmt.Sprintf("somebody behind %s, which carries %s", v.Gateway, v.Route)
	}
	for _, line := range [][2]string{
		{"device", device}, {"user", v.User}, {"groups", strings.Join(v.Groups, " ")}, {"tags", strings.Join(v.Tags, " ")}, {"addresses", strings.Join(v.Addresses, " ")},
	} {
		if line[1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", line[0], line[1])
		}
	}
	for i := range v.Flows {
		fmt.Fprintf(t, "flow\t%s\n", v.Flows[i].String())
	}
	if withPort && len(v.Flows) == 0 {
		fmt.Fprintln(t, "flow\tnone through the tunnel")
	}
	return t.Flush()
}
