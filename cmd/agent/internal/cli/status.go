package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/cmd/internal/cmdline"
	"warren/cmd/internal/flowview"
	pb "warren/proto/warrenv1"
)

// The views are what --json prints. Their field names are an interface that stays stable.
type (
	statusJSON struct {
		State       string          `json:"state"`
		Version     string          `json:"version"`
		Interface   string          `json:"interface,omitempty"`
		Operator    string          `json:"operator,omitempty"`
		PID         uint32          `json:"pid"`
		Self        selfJSON        `json:"self"`
		Coordinator coordinatorJSON `json:"coordinator"`
		Peers       []peerJSON      `json:"peers"`
		Warnings    []string        `json:"warnings"`
		NAT         *natJSON        `json:"nat,omitempty"`
		// Routes are the CIDRs of others, Advertised are this device's own.
		Routes       []routeJSON      `json:"routes"`
		Advertised   []advertisedJSON `json:"advertised"`
		Exit         *exitJSON        `json:"exit,omitempty"`
		AcceptRoutes bool             `json:"accept_routes"`
		KillSwitch   bool             `json:"kill_switch"`
		// HostChanges is in words.
		HostChanges []string `json:"host_changes"`
		// Settings are by name; "warren config" shows them, too.
		Settings []settingJSON `json:"settings"`
		// Userspace is there if the tunnel has no interface.
		Userspace *userspaceJSON `json:"userspace,omitempty"`
	}
	userspaceJSON struct {
		SOCKS5    string   `json:"socks5,omitempty"`
		HTTPProxy string   `json:"http_proxy,omitempty"`
		Forward   []string `json:"forward"`
		Expose    []string `json:"expose"`
	}
	selfJSON struct {
		Name      string   `json:"name"`
		Addresses []string `json:"addresses"`
		NodeKey   string   `json:"node_key"`
		Owner     string   `json:"owner,omitempty"`
		Tags      []string `json:"tags,omitempty"`
	}
	coordinatorJSON struct {
		URL         string `json:"url"`
		Connected   bool   `json:"connected"`
		MapRevision uint64 `json:"map_revision"`
		MapAge      uint64 `json:"map_age_s"`
		Error       string `json:"error,omitempty"`
	}
	peerJSON struct {
		Name          string     `json:"name"`
		Addresses     []string   `json:"addresses"`
		NodeKey       string     `json:"node_key"`
		Online        bool       `json:"online"`
		Path          pathJSON   `json:"path"`
		LastHandshake *time.Time `json:"last_handshake"`
		RxBytes       uint64     `json:"rx_bytes"`
		TxBytes       uint64     `json:"tx_bytes"`
		Routes        []string   `json:"routes"`
		// History has the last changes of the path, oldest first.
		History []changeJSON `json:"history"`
	}
	pathJSON struct {
		Kind   string     `json:"kind"`
		Local  string     `json:"local"`
		Remote string     `json:"remote"`
		Relay  string     `json:"relay"`
		RTT    float64    `json:"rtt_ms"`
		MTU    uint32     `json:"mtu,omitempty"`
		Since  *time.Time `json:"since"`
	}
)

func list(s []string) []string { return append([]string{}, s...) }

func moment(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime()
	return &at
}

func statusView(s *pb.StatusResponse) statusJSON {
	self, c := s.GetSelf(), s.GetCoordinator()
	v := statusJSON{
		State: stateName(s.GetState()), Version: s.GetVersion(), Interface: s.GetInterface(), Operator: s.GetOperator(), PID: s.GetPid(),
		Self:        selfJSON{self.GetName(), list(self.GetAddresses()), self.GetNodeKey(), self.GetOwner(), self.GetTags()},
		Coordinator: coordinatorJSON{c.GetUrl(), c.GetConnected(), c.GetMapRevision(), c.GetMapAgeS(), c.GetError()},
		Peers:       []peerJSON{},
		Warnings:    list(s.GetWarnings()),
	}
	v.NAT, v.Settings = natView(s.GetNat()), settingsView(s.GetSettings())
	v.Routes, v.Advertised, v.Exit = routesView(s.GetRoutes()), advertisedView(s.GetAdvertised()), exitView(s.GetExit())
	v.AcceptRoutes, v.KillSwitch, v.HostChanges = s.GetAcceptRoutes(), s.GetKillSwitch(), list(s.GetHostChanges())
	if u := s.GetUserspace(); u != nil {
		v.Userspace = &userspaceJSON{u.GetSocks5(), u.GetHttpProxy(), list(u.GetForward()), list(u.GetExpose())}
	}
	for _, p := range s.GetPeers() {
		v.Peers = append(v.Peers, peerJSON{
			Name: p.GetName(), Addresses: list(p.GetAddresses()), NodeKey: p.GetNodeKey(), Online: p.GetOnline(),
			Path: pathView(p.GetPath()), LastHandshake: moment(p.GetLastHandshake()),
			RxBytes: p.GetRxBytes(), TxBytes: p.GetTxBytes(), Routes: list(p.GetRoutes()),
			History: historyView(p.GetHistory()),
		})
	}
	return v
}

func pathView(p *pb.PathStatus) pathJSON {
	return pathJSON{p.GetKind(), p.GetLocal(), p.GetRemote(), p.GetRelay(), p.GetRttMs(), p.GetMtu(), moment(p.GetSince())}
}

func stateName(s pb.StatusResponse_State) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(s.String(), "STATE_"), "_", " "))
}

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show this device, its coordinator and its peers",
		Args:  cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.client().Status(cmd.Context(), connect.NewRequest(&pb.StatusRequest{}))
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(statusView(r.Msg))
			}
			return printStatus(a.out, r.Msg)
		},
	}
}

func printStatus(w io.Writer, s *pb.StatusResponse) error {
	for _, warning := range s.GetWarnings() {
		fmt.Fprintln(w, "warning:", warning)
	}
	if s.GetState() == pb.StatusResponse_STATE_NOT_ENROLLED {
		_, err := fmt.Fprintln(w, "not enrolled; join a network with \"warren up TOKEN\"")
		return err
	}
	self, c := s.GetSelf(), s.GetCoordinator()
	fmt.Fprintf(w, "%s  %s  %s\n", self.GetName(), strings.Join(self.GetAddresses(), " "), stateName(s.GetState()))
	age := (time.Duration(c.GetMapAgeS()) * time.Second).String()
	switch {
	case c.GetConnected():
		fmt.Fprintf(w, "coordinator %s  connected, revision %d\n", c.GetUrl(), c.GetMapRevision())
	case c.GetError() != "":
		fmt.Fprintf(w, "coordinator %s  not connected: %s; map is %s old\n", c.GetUrl(), c.GetError(), age)
	default:
		fmt.Fprintf(w, "coordinator %s  not connected; map is %s old\n", c.GetUrl(), age)
	}
	printUserspace(w, s.GetUserspace())
	printNAT(w, s.GetNat())
	if err := printRoutes(w, s); err != nil {
		return err
	}
	if len(s.GetPeers()) == 0 {
		_, err := fmt.Fprintln(w, "\nno peers yet: run \"warren up\" with a token on another device")
		return err
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PEER\tADDRESS\tONLINE\tPATH\tRTT\tHANDSHAKE\tRECEIVED\tSENT")
	for _, p := range s.GetPeers() {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.GetName(), first(p.GetAddresses()), yesNo(p.GetOnline()),
			pathText(p.GetPath()), rttText(p.GetPath()), agoText(p.GetLastHandshake()), flowview.Bytes(p.GetRxBytes()), flowview.Bytes(p.GetTxBytes()))
	}
	return t.Flush()
}

func printUserspace(w io.Writer, u *pb.UserspaceStatus) {
	if u == nil {
		return
	}
	line := "userspace    no interface"
	if u.GetSocks5() != "" {
		line += "; SOCKS5 proxy at " + u.GetSocks5()
	}
	if u.GetHttpProxy() != "" {
		line += "; HTTP proxy at " + u.GetHttpProxy()
	}
	fmt.Fprintln(w, line)
	for _, f := range u.GetForward() {
		fmt.Fprintln(w, "forwards    ", f)
	}
	for _, e := range u.GetExpose() {
		fmt.Fprintln(w, "exposes     ", e)
	}
}

func first(s []string) string {
	if len(s) == 0 {
		return "-"
	}
	return s[0]
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func pathText(p *pb.PathStatus) string {
	switch p.GetKind() {
	case "direct":
		return "direct " + p.GetRemote()
	case "relay":
		return "relay " + p.GetRelay()
	}
	return "-"
}

func rttText(p *pb.PathStatus) string {
	if p.GetRttMs() == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", p.GetRttMs())
}

func agoText(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return time.Since(t.AsTime()).Round(time.Second).String() + " ago"
}

func (a *app) ip() *cobra.Command {
	var v4, v6 bool
	cmd := &cobra.Command{
		Use:   "ip [PEER]",
		Short: "Print the addresses of this device, or of a peer",
		Args:  cmdline.Args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			r, err := a.client().Status(cmd.Context(), connect.NewRequest(&pb.StatusRequest{}))
			if err != nil {
				return err
			}
			found, err := addressesOf(r.Msg, given)
			if err != nil {
				return err
			}
			var out []string
			for _, addr := range found {
				is6 := strings.Contains(addr, ":")
				if v4 == v6 || v6 == is6 {
					out = append(out, addr)
				}
			}
			if a.json {
				return a.printJSON(map[string][]string{"addresses": list(out)})
			}
			for _, addr := range out {
				fmt.Fprintln(a.out, addr)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&v4, "ipv4", "4", false, "IPv4 only")
	cmd.Flags().BoolVarP(&v6, "ipv6", "6", false, "IPv6 only")
	return cmd
}

func addressesOf(s *pb.StatusResponse, given []string) ([]string, error) {
	if len(given) == 0 {
		if len(s.GetSelf().GetAddresses()) == 0 {
			return nil, errors.New("no address yet: join a network with \"warren up TOKEN\"")
		}
		return s.GetSelf().GetAddresses(), nil
	}
	for _, p := range s.GetPeers() {
		if p.GetName() == given[0] {
			return p.GetAddresses(), nil
		}
	}
	return nil, fmt.Errorf("no peer is called %q; \"warren status\" lists them", given[0])
}
