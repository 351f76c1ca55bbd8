package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"warren/cmd/internal/cmdline"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

type statusJSON struct {
	Version   string     `json:"version"`
	Network   string     `json:"network"`
	URLs      []string   `json:"urls"`
	Prefixes  []string   `json:"prefixes"`
	Epoch     uint64     `json:"epoch"`
	Revision  uint64     `json:"revision"`
	Devices   uint32     `json:"devices"`
	Online    uint32     `json:"devices_online"`
	StartedAt *time.Time `json:"started_at"`
}

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the running coordinator",
		Args:  cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.client().ServerStatus(cmd.Context(), connect.NewRequest(&pb.ServerStatusRequest{}))
			if err != nil {
				return err
			}
			v, err := statusView(r.Msg)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(v)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "network\t%s\nversion\t%s\nstarted\t%s\nreached at\t%s\naddresses from\t%s\nrevision\t%d\ndevices\t%d, %d online\n",
				v.Network, v.Version, when(v.StartedAt, "-"), strings.Join(v.URLs, " "), strings.Join(v.Prefixes, " "), v.Revision, v.Devices, v.Online)
			return w.Flush()
		},
	}
}

func statusView(m *pb.ServerStatusResponse) (statusJSON, error) {
	n, err := record.NetworkIDFromBytes(m.GetNetworkId())
	if err != nil {
		return statusJSON{}, err
	}
	prefixes, err := record.PrefixesFromProto(m.GetNetworkPrefixes(), record.MaxPrefixes)
	if err != nil {
		return statusJSON{}, err
	}
	v := statusJSON{
		Version: m.GetVersion(), Network: n.String(), URLs: []string{}, Prefixes: []string{}, Epoch: m.GetEpoch(), Revision: m.GetRevision(),
		Devices: m.GetDevices(), Online: m.GetDevicesOnline(), StartedAt: moment(m.GetStartedAt()),
	}
	for _, e := range m.GetEndpoints() {
		v.URLs = append(v.URLs, e.GetUrl())
	}
	for _, p := range prefixes {
		v.Prefixes = append(v.Prefixes, p.String())
	}
	return v, nil
}

type relayJSON struct {
	Name    string   `json:"name"`
	Region  string   `json:"region"`
	URLs    []string `json:"urls"`
	STUN    []string `json:"stun"`
	Online  bool     `json:"online"`
	BuiltIn bool     `json:"built_in"`
}

func (a *app) relays() *cobra.Command {
	list := &cobra.Command{
		Use:   "list",
		Short: "List the relays",
		Args:  cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.client().ListRelays(cmd.Context(), connect.NewRequest(&pb.ListRelaysRequest{}))
			if err != nil {
				return err
			}
			views := []relayJSON{}
			for _, s := range r.Msg.GetRelays() {
				d := s.GetRelay()
				views = append(views, relayJSON{d.GetName(), d.GetRegion(), append([]string{}, d.GetUrls()...), append([]string{}, d.GetStun()...), s.GetOnline(), s.GetBuiltIn()})
			}
			if a.json {
				return a.printJSON(views)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tREGION\tONLINE\tURLS\tSTUN")
			for _, v := range views {
				online := map[bool]string{true: "yes", false: "no"}[v.Online]
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", v.Name, dash(v.Region), online, strings.Join(v.URLs, " "), dash(strings.Join(v.STUN, " ")))
			}
			return w.Flush()
		},
	}
	remove := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a separate relay",
		Args:  cmdline.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			_, err := a.client().RemoveRelay(cmd.Context(), connect.NewRequest(&pb.RemoveRelayRequest{Name: given[0]}))
			return err
		},
	}
	return cmdline.Group("relays", "List and remove relays", list, remove)
}
