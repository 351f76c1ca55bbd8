package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"warren/cmd/agent/internal/local"
	pb "warren/proto/warrenv1"
	"warren/tunnel/flowlog"
)

func (a *app) flows() *cobra.Command {
	var req pb.FlowsRequest
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "List the flows that pass, and those that began, ended and were refused lately",
		Long: `Lists flows through the tunnel with the peer at the other end, its user, the grant that allows them, and what went each way: those
that pass now ("live"), and the newest records of those that began ("new"), ended, or were refused because no grant allows them. Alike flows
of one second are told as one; what there was too much of is counted as "omitted".

With --follow it prints what happens from now on; with --json that is one record a line.`,
		Args: args(cobra.NoArgs),
	}
	f := cmd.Flags()
	f.StringSliceVar(&req.Kinds, "kind", nil, "only these `kinds`: live, new, ended, refused, omitted")
	f.StringVar(&req.Peer, "peer", "", "only with this `peer`: name, address or node key")
	f.StringVar(&req.User, "user", "", "only with devices of this `user`")
	f.StringVar(&req.Grant, "grant", "", "only those that this `grant` allows")
	f.StringVar(&req.Flow, "flow", "", "only this `protocol`, or with a port, such as tcp/443")
	f.DurationVar(&since, "since", 0, "only records of this `time` up to now, such as 10m")
	f.Uint32Var(&req.Limit, "limit", 1000, "`number` of records at most; the newest count")
	f.BoolVarP(&req.Follow, "follow", "f", false, "print what happens from now on")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("since") {
			req.Since = durationpb.New(since)
		}
		if req.Limit == 0 {
			return usagef("flows: --limit is at least 1")
		}
		stream, err := a.client().Flows(cmd.Context(), connect.NewRequest(&req))
		if err != nil {
			return err
		}
		defer stream.Close()
		if req.Follow {
			return a.followFlows(stream)
		}
		return a.listFlows(stream)
	}
	return cmd
}

// listFlows prints them as a table, or as one JSON array.
func (a *app) listFlows(stream *connect.ServerStreamForClient[pb.FlowsResponse]) error {
	list, leftOut := []flowlog.Record{}, uint64(0)
	for stream.Receive() {
		records, err := flowRecords(stream.Msg())
		if err != nil {
			return err
		}
		list = append(list, records...)
		leftOut += stream.Msg().GetLeftOut()
	}
	if err := stream.Err(); err != nil {
		return err
	}
	if leftOut > 0 {
		fmt.Fprintf(a.err, "%d older records are not shown; see --limit, --kind, --peer and --since\n", leftOut)
	}
	if a.json {
		return a.printJSON(list)
	}
	t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TIME\tKIND\tPEER\tUSER\tFLOW\tFROM\tTO\tGRANT\tRECEIVED\tSENT\tWHY")
	for i := range list {
		printFlow(t, &list[i], "\t")
	}
	return t.Flush()
}

// followFlows prints each as it comes.
func (a *app) followFlows(stream *connect.ServerStreamForClient[pb.FlowsResponse]) error {
	lines := json.NewEncoder(a.out)
	for stream.Receive() {
		list, err := flowRecords(stream.Msg())
		if err != nil {
			return err
		}
		for i := range list {
			if a.json {
				err = lines.Encode(&list[i])
			} else {
				err = printFlow(a.out, &list[i], "  ")
			}
			if err != nil {
				return err
			}
		}
		if n := stream.Msg().GetLeftOut(); n > 0 {
			fmt.Fprintf(a.err, "%d records are not shown: they came faster than they were read\n", n)
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	return errors.New("the daemon has ended")
}

func flowRecords(m *pb.FlowsResponse) (out []flowlog.Record, err error) {
	for _, r := range m.GetRecords() {
		record, err := local.FlowFromWire(r)
		if err != nil {
			return nil, err
		}
		out = append(out, record)
	}
	return out, nil
}

// printFlow prints one line, its columns separated as given.
func printFlow(w io.Writer, r *flowlog.Record, separator string) error {
	why, flow, from, to := r.Reason, r.Protocol, flowEnd(r.Source, r.SourcePort), flowEnd(r.Destination, r.DestinationPort)
	if r.Flows > 1 {
		flow += " x " + strconv.FormatUint(r.Flows, 10)
	}
	if r.Kind == flowlog.Omitted {
		why = fmt.Sprintf("%d new, %d ended, %d refused", r.OmittedNew, r.OmittedEnded, r.OmittedRefused)
	}
	if r.Kind == flowlog.Refused {
		why = "no grant"
	}
	columns := []string{
		r.At.Local().Format(time.TimeOnly), r.Kind, r.Device, r.User, flow, from, to, r.Grant,
		amount(r.ReceivedBytes, r.ReceivedPackets), amount(r.SentBytes, r.SentPackets), why,
	}
	for i, c := range columns {
		if c == "" {
			columns[i] = "-"
		}
	}
	if columns[len(columns)-1] == "-" {
		columns = slices.Delete(columns, len(columns)-1, len(columns))
	}
	for i, c := range columns {
		if i > 0 {
			c = separator + c
		}
		if _, err := io.WriteString(w, c); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func flowEnd(a netip.Addr, port uint16) string {
	switch {
	case !a.IsValid():
		return ""
	case port == 0:
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}

// amount is bytes and packets.
func amount(bytes, packets uint64) string {
	if packets == 0 {
		return ""
	}
	return fmt.Sprintf("%s in %d", bytesText(bytes), packets)
}
