package cli

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

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
		Use:   "why PEER",
		Short: "Explain the path to a peer: why it is direct or not, and what would help",
		Long: `Tells in words which path the packets to a peer take, given by name, address or node key: since when, what was tried, what
stops a better one and what would help. The peer is asked for its own view, if it can be reached.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			r, err := a.client().Why(cmd.Context(), connect.NewRequest(&pb.WhyRequest{Peer: given[0]}))
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(whyView(r.Msg))
			}
			return printWhy(a.out, r.Msg)
		},
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
