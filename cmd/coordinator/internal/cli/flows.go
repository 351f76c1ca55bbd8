package cli

import (
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"warren/cmd/internal/cmdline"
	"warren/cmd/internal/flowview"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

func (a *app) flows() *cobra.Command {
	var refused bool
	var since time.Duration
	req := &pb.RefusedFlowsRequest{}
	cmd := &cobra.Command{
		Use:   "flows --refused DEVICE",
		Short: "Ask a device which flows it has refused",
		Long: `Asks a device, given by name, address or key, which flows it has refused lately, since no grant allows them. The device must be online. It
answers with records of refused flows and nothing else, and its log says that it was asked. Names of peers are as the device tells them, and times
by its clock.`,
		Example: "  warren-coordinator flows --refused db1 --since 1h",
		Args:    cmdline.Args(cobra.ExactArgs(1)),
	}
	f := cmd.Flags()
	f.BoolVar(&refused, "refused", false, "the refused ones; no others leave a device")
	f.DurationVar(&since, "since", 0, "only records of this `time` up to now, such as 1h")
	f.Uint32Var(&req.Limit, "limit", 200, fmt.Sprintf("`number` of records at most, up to %d; the newest count", record.MaxFlows))
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		switch {
		case !refused:
			return cmdline.Usagef("flows: say --refused; flows that are allowed do not leave the device, where \"warren flows\" lists them")
		case req.Limit == 0 || req.Limit > record.MaxFlows:
			return cmdline.Usagef("flows: --limit %d: want 1 to %d", req.Limit, record.MaxFlows)
		case cmd.Flags().Changed("since") && since <= 0:
			return cmdline.Usagef("flows: --since %s: want a time that has gone by, such as 10m", since)
		case since > 0:
			req.Since = durationpb.New(since)
		}
		req.Device = given[0]
		r, err := a.client().RefusedFlows(cmd.Context(), connect.NewRequest(req))
		if err != nil {
			return err
		}
		return a.printFlows(r.Msg)
	}
	return cmd
}

// printFlows prints as "warren flows" does.
func (a *app) printFlows(m *pb.RefusedFlowsResponse) error {
	list, err := flowview.AllFromWire(m.GetFlows())
	if err != nil {
		return err
	}
	if n := m.GetLeftOut(); n > 0 {
		fmt.Fprintf(a.err, "%d older records are not shown; see --limit and --since\n", n)
	}
	if ahead := m.GetClockAhead(); ahead != nil {
		fmt.Fprintf(a.err, "times are by the clock of %s, which is %s\n", m.GetDevice(), ofClock(ahead.AsDuration()))
	}
	if a.json {
		return a.printJSON(list)
	}
	return flowview.Table(a.out, list)
}

func ofClock(ahead time.Duration) string {
	if d := ahead.Round(time.Second); d < 0 {
		return (-d).String() + " behind"
	} else {
		return d.String() + " ahead"
	}
}
