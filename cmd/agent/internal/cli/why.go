package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"warren/cmd/internal/cmdline"
	"warren/internal/ipproto"
	pb "warren/proto/warrenv1"
)

type (
	whyJSON struct {
		Peer    string       `json:"peer"`
		Path    pathJSON     `json:"path"`
		Now     string       `json:"now"`
		Tried   []string     `json:"tried"`
		Stopped []string     `json:"stopped"`
		Help    []string     `json:"help"`
		Self    sideJSON     `json:"self"`
		Remote  *sideJSON    `json:"remote"`
		Pairs   []pairJSON   `json:"pairs"`
		History []changeJSON `json:"history"`
		// Flows are there if a flow was asked about.
		Flows []answerJSON `json:"flows,omitempty"`
	}
	answerJSON struct {
		Direction   string     `json:"direction"`
		Source      string     `json:"source"`
		Destination string     `json:"destination"`
		Flow        string     `json:"flow"`
		Allowed     bool       `json:"allowed"`
		Grants      []string   `json:"grants"`
		Nearest     []missJSON `json:"nearest"`
	}
	missJSON struct {
		Grant string   `json:"grant"`
		Lacks []string `json:"lacks"`
		Text  string   `json:"text"`
	}
	sideJSON struct {
		UDP     string     `json:"udp"`
		Mapping string     `json:"mapping"`
		Path    string     `json:"path"`
		MTU     uint32     `json:"mtu,omitempty"`
		At      *time.Time `json:"at"`
	}
	pairJSON struct {
		Local      string     `json:"local"`
		Remote     string     `json:"remote"`
		Kind       string     `json:"kind"`
		Sent       uint32     `json:"sent"`
		Answered   uint32     `json:"answered"`
		RTT        float64    `json:"rtt_ms"`
		LastSent   *time.Time `json:"last_sent"`
		LastAnswer *time.Time `json:"last_answer"`
		InUse      bool       `json:"in_use"`
	}
	changeJSON struct {
		At     *time.Time `json:"at"`
		Kind   string     `json:"kind"`
		Local  string     `json:"local,omitempty"`
		Remote string     `json:"remote,omitempty"`
		Relay  string     `json:"relay,omitempty"`
		MTU    uint32     `json:"mtu,omitempty"`
		Cause  string     `json:"cause"`
		Reason string     `json:"reason"`
	}
)

func whyView(m *pb.WhyResponse) whyJSON {
	v := whyJSON{
		Peer: m.GetPeer(), Path: pathView(m.GetPath()), Now: m.GetNow(), Tried: list(m.GetTried()), Stopped: list(m.GetStopped()),
		Help: list(m.GetHelp()), Self: sideView(m.GetSelf()), Pairs: []pairJSON{}, History: historyView(m.GetHistory()),
	}
	if m.GetRemote() != nil {
		remote := sideView(m.GetRemote())
		v.Remote = &remote
	}
	for _, p := range m.GetPairs() {
		v.Pairs = append(v.Pairs, pairJSON{
			p.GetLocal(), p.GetRemote(), p.GetKind(), p.GetSent(), p.GetAnswered(), p.GetRttMs(), moment(p.GetLastSent()), moment(p.GetLastAnswer()),
			p.GetInUse(),
		})
	}
	for _, f := range m.GetFlows() {
		v.Flows = append(v.Flows, answerView(f))
	}
	return v
}

func answerView(m *pb.FlowAnswer) answerJSON {
	v := answerJSON{m.GetDirection(), m.GetSource(), m.GetDestination(), m.GetFlow(), len(m.GetGrants()) > 0, list(m.GetGrants()), []missJSON{}}
	for _, n := range m.GetNearest() {
		v.Nearest = append(v.Nearest, missJSON{n.GetGrant(), list(n.GetLacks()), n.GetText()})
	}
	return v
}

func sideView(s *pb.SideStatus) sideJSON {
	return sideJSON{s.GetUdp(), s.GetMapping(), s.GetPath(), s.GetMtu(), moment(s.GetAt())}
}

func historyView(list []*pb.PathChange) []changeJSON {
	out := []changeJSON{}
	for _, c := range list {
		out = append(out, changeJSON{
			moment(c.GetAt()), c.GetKind(), c.GetLocal(), c.GetRemote(), c.GetRelay(), c.GetMtu(), c.GetCause(), c.GetReason(),
		})
	}
	return out
}

func (a *app) why() *cobra.Command {
	return &cobra.Command{
		Use:   "why PEER [FLOW]",
		Short: "Explain the path to a peer, or which grant allows a flow",
		Long: `Tells in words which path the packets to a peer take, given by name, address or node key: since when, what was tried, what
stops a better one and what would help. The peer is asked for its own view, if it can be reached.

With a flow, such as tcp/443, udp/53 or icmp, it first tells which grants in this device's map allow it, from here to there and from there to
here, or what the closest ones lack. The peer has a map of its own, and drops what that does not allow.`,
		Args: cmdline.Args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, given []string) error {
			req := &pb.WhyRequest{Peer: given[0]}
			if len(given) == 2 {
				if _, err := ipproto.ParseFlow(given[1]); err != nil {
					return cmdline.UsageError{Err: err}
				}
				req.Flow = given[1]
			}
			r, err := a.client().Why(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(whyView(r.Msg))
			}
			printAnswers(a.out, r.Msg)
			return printWhy(a.out, r.Msg)
		},
	}
}

// printAnswers tells what grants say of the flow, if one was asked about.
func printAnswers(w io.Writer, m *pb.WhyResponse) {
	for _, f := range m.GetFlows() {
		way := "from this device to " + m.GetPeer()
		if f.GetDirection() == "in" {
			way = "from " + m.GetPeer() + " to this device"
		}
		fmt.Fprintf(w, "%s %s (%s to %s): ", f.GetFlow(), way, f.GetSource(), f.GetDestination())
		switch grants := f.GetGrants(); {
		case len(grants) == 1:
			fmt.Fprintf(w, "allowed by grant %s\n", grants[0])
		case len(grants) > 1:
			fmt.Fprintf(w, "allowed by grants %s\n", strings.Join(grants, ", "))
		case len(f.GetNearest()) == 0:
			fmt.Fprintln(w, "no grant in this device's map allows it, nor anything like it")
		default:
			fmt.Fprintln(w, "no grant in this device's map allows it")
			for _, n := range f.GetNearest() {
				fmt.Fprintf(w, "  - grant %s: %s\n", n.GetGrant(), n.GetText())
			}
		}
	}
	if len(m.GetFlows()) > 0 {
		fmt.Fprintln(w)
	}
}

// printWhy leaves out what there is nothing to say of.
func printWhy(w io.Writer, m *pb.WhyResponse) error {
	fmt.Fprintf(w, "%s: %s\n", m.GetPeer(), m.GetNow())
	for _, part := range []struct {
		title string
		lines []string
	}{
		{"What was tried", m.GetTried()}, {"What stops a better path", m.GetStopped()}, {"What would help", m.GetHelp()},
	} {
		if len(part.lines) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s:\n", part.title)
		for _, l := range part.lines {
			fmt.Fprintf(w, "  - %s\n", l)
		}
	}
	if h := m.GetHistory(); len(h) > 0 {
		fmt.Fprintln(w, "\nThe path so far:")
		for _, c := range h[max(0, len(h)-5):] {
			fmt.Fprintf(w, "  %s  %s: %s\n", c.GetAt().AsTime().Local().Format(time.TimeOnly), changeText(c), c.GetReason())
		}
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SIDE\tUDP\tNAT MAPPING\tITS PATH")
	for _, side := range []struct {
		name string
		s    *pb.SideStatus
	}{{"this device", m.GetSelf()}, {m.GetPeer(), m.GetRemote()}} {
		if side.s == nil {
			fmt.Fprintf(t, "%s\tit has not told\t\t\n", side.name)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", side.name, side.s.GetUdp(), side.s.GetMapping(), side.s.GetPath())
	}
	return t.Flush()
}

func changeText(c *pb.PathChange) string {
	switch {
	case c.GetKind() == "direct":
		return "direct " + c.GetRemote()
	case c.GetRelay() != "":
		return "relay " + c.GetRelay()
	}
	return c.GetKind()
}
