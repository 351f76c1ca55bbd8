package cli

import (
	"fmt"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/cmd/internal/cmdline"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// deviceJSON is what --json prints of a device; its names are an interface that stays stable.
type deviceJSON struct {
	Name      string     `json:"name"`
	Addresses []string   `json:"addresses"`
	Online    bool       `json:"online"`
	Remote    string     `json:"remote,omitempty"`
	User      string     `json:"user"`
	Tags      []string   `json:"tags"`
	Routes    []string   `json:"routes"`
	Ephemeral bool       `json:"ephemeral"`
	DeviceKey string     `json:"device_key"`
	NodeKey   string     `json:"node_key"`
	CreatedAt *time.Time `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at"`
	Expired   bool       `json:"expired"`
	LastSeen  *time.Time `json:"last_seen"`
	Hostname  string     `json:"hostname"`
	OS        string     `json:"os"`
	OSVersion string     `json:"os_version"`
	Version   string     `json:"agent_version"`
	Duplicate string     `json:"duplicate,omitempty"`
}

func deviceView(d *pb.Device) deviceJSON {
	v := deviceJSON{
		Name: d.GetName(), Addresses: []string{}, Online: d.GetOnline(), Remote: d.GetRemote(), User: d.GetOwner(),
		Tags: append([]string{}, d.GetTags()...), Routes: []string{}, Ephemeral: d.GetEphemeral(),
		CreatedAt: moment(d.GetCreatedAt()), ExpiresAt: moment(d.GetExpiresAt()), Expired: d.GetExpired(), LastSeen: moment(d.GetLastSeen()),
		Hostname: d.GetHostname(), OS: d.GetOs(), OSVersion: d.GetOsVersion(), Version: d.GetAgentVersion(), Duplicate: d.GetDuplicate(),
	}
	for _, b := range d.GetAddresses() {
		if addr, ok := netip.AddrFromSlice(b); ok {
			v.Addresses = append(v.Addresses, addr.String())
		}
	}
	if routes, err := record.PrefixesFromProto(d.GetRoutes(), record.MaxRoutes); err == nil {
		for _, p := range routes {
			v.Routes = append(v.Routes, p.String())
		}
	}
	if k, err := key.DevicePublicFromBytes(d.GetDeviceKey()); err == nil {
		v.DeviceKey = k.String()
	}
	if k, err := key.NodePublicFromBytes(d.GetNodeKey()); err == nil {
		v.NodeKey = k.String()
	}
	return v
}

func (a *app) device() *cobra.Command {
	return cmdline.Group("device", "List, show, rename, remove and expire devices",
		a.deviceList(), a.deviceShow(), a.deviceRename(), a.deviceRemove(), a.deviceExpire())
}

func (a *app) devices(cmd *cobra.Command) ([]deviceJSON, error) {
	r, err := a.client().ListDevices(cmd.Context(), connect.NewRequest(&pb.ListDevicesRequest{}))
	if err != nil {
		return nil, err
	}
	views := []deviceJSON{}
	for _, d := range r.Msg.GetDevices() {
		views = append(views, deviceView(d))
	}
	return views, nil
}

func (a *app) deviceList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the devices",
		Args:  cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			views, err := a.devices(cmd)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(views)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tADDRESS\tSTATE\tUSER\tTAGS\tROUTES\tEXPIRES\tNOTE")
			for _, d := range views {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Name, first(d.Addresses), d.condition(), dash(d.User),
					dash(strings.Join(d.Tags, ",")), dash(brief(d.Routes)), when(d.ExpiresAt, "never"), dash(d.Duplicate))
			}
			return w.Flush()
		},
	}
}

// brief joins a few texts, and counts the rest.
func brief(list []string) string {
	const most = 3
	if len(list) > most {
		return fmt.Sprintf("%s,+%d", strings.Join(list[:most], ","), len(list)-most)
	}
	return strings.Join(list, ",")
}

func (d deviceJSON) condition() string {
	switch {
	case d.Expired:
		return "expired"
	case d.Online:
		return "online"
	}
	return "offline since " + when(d.LastSeen, "ever")
}

func first(s []string) string {
	if len(s) == 0 {
		return "-"
	}
	return s[0]
}

func when(t *time.Time, never string) string {
	if t == nil {
		return never
	}
	return t.Local().Format(time.DateTime)
}

func (a *app) deviceShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show DEVICE",
		Short: "Show all that is known of a device, given by name, address or device key",
		Args:  cmdline.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			views, err := a.devices(cmd)
			if err != nil {
				return err
			}
			for _, d := range views {
				if d.is(given[0]) {
					return a.printDevice(d)
				}
			}
			return fmt.Errorf("no device has the name, address or key %q; \"device list\" shows them", given[0])
		},
	}
}

func (d deviceJSON) is(text string) bool {
	if d.Name == text || d.DeviceKey == text || d.NodeKey == text {
		return true
	}
	want, err := netip.ParseAddr(text)
	if err != nil {
		return false
	}
	for _, s := range d.Addresses {
		if own, err := netip.ParseAddr(s); err == nil && own == want {
			return true
		}
	}
	return false
}

func (a *app) printDevice(d deviceJSON) error {
	if a.json {
		return a.printJSON(d)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"name", d.Name}, {"addresses", strings.Join(d.Addresses, " ")}, {"state", d.condition()}, {"connected from", dash(d.Remote)},
		{"user", dash(d.User)}, {"tags", dash(strings.Join(d.Tags, ","))}, {"routes", dash(strings.Join(d.Routes, " "))},
		{"expires", when(d.ExpiresAt, "never")}, {"created", when(d.CreatedAt, "-")}, {"host", dash(d.Hostname)},
		{"system", dash(strings.TrimSpace(d.OS + " " + d.OSVersion))}, {"agent", dash(d.Version)}, {"device key", d.DeviceKey}, {"node key", d.NodeKey}, {"note", dash(d.Duplicate)},
	} {
		fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
	}
	return w.Flush()
}

// done prints a changed device with --json, and nothing otherwise.
func (a *app) done(d *pb.Device) error {
	if a.json {
		return a.printJSON(deviceView(d))
	}
	return nil
}

func (a *app) deviceRename() *cobra.Command {
	return &cobra.Command{
		Use:   "rename DEVICE NAME",
		Short: "Give a device another name",
		Args:  cmdline.Args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, given []string) error {
			r, err := a.client().RenameDevice(cmd.Context(), connect.NewRequest(&pb.RenameDeviceRequest{Device: given[0], Name: given[1]}))
			if err != nil {
				return err
			}
			return a.done(r.Msg.GetDevice())
		},
	}
}

func (a *app) deviceRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove DEVICE",
		Short: "Remove a device for good; its traffic stops within a second",
		Args:  cmdline.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			r, err := a.client().RemoveDevice(cmd.Context(), connect.NewRequest(&pb.RemoveDeviceRequest{Device: given[0]}))
			if err != nil {
				return err
			}
			return a.done(r.Msg.GetDevice())
		},
	}
}

func (a *app) deviceExpire() *cobra.Command {
	var in time.Duration
	cmd := &cobra.Command{
		Use:   "expire DEVICE",
		Short: "End a device's membership, now or later, until it joins again by a token",
		Args:  cmdline.Args(cobra.ExactArgs(1)),
	}
	cmd.Flags().DurationVar(&in, "in", 0, "after this `time` instead of now")
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		if in < 0 {
			return cmdline.Usagef("device expire: --in %s is in the past", in)
		}
		req := &pb.ExpireDeviceRequest{Device: given[0]}
		if in > 0 {
			req.At = timestamppb.New(time.Now().Add(in))
		}
		r, err := a.client().ExpireDevice(cmd.Context(), connect.NewRequest(req))
		if err != nil {
			return err
		}
		return a.done(r.Msg.GetDevice())
	}
	return cmd
}
