package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"warren/cmd/internal/cmdline"
	"warren/cmd/internal/flowview"
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
		Args: cmdline.Args(cobra.NoArgs),
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
			return cmdline.Usagef("flows: --limit is at least 1")
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
		records, err := flowview.AllFromWire(stream.Msg().GetRecords())
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
	return flowview.Table(a.out, list)
}

// followFlows prints each as it comes.
func (a *app) followFlows(stream *connect.ServerStreamForClient[pb.FlowsResponse]) error {
	lines := json.NewEncoder(a.out)
	for stream.Receive() {
		list, err := flowview.AllFromWire(stream.Msg().GetRecords())
		if err != nil {
			return err
		}
		for i := range list {
			if a.json {
				err = lines.Encode(&list[i])
			} else {
				err = flowview.Line(a.out, &list[i], "  ")
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
