package cli

import (
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"warren/cmd/internal/cmdline"
	pb "warren/proto/warrenv1"
)

type checkJSON struct {
	Name    string `json:"name"`
	Outcome string `json:"outcome"`
	Text    string `json:"text"`
	Help    string `json:"help,omitempty"`
}

func (a *app) site() *cobra.Command {
	cmd := &cobra.Command{Use: "site", Short: "Look after the networks behind this gateway", Args: cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(a.siteCheck())
	return cmd
}

func (a *app) siteCheck() *cobra.Command {
	var host string
	cmd := &cobra.Command{
		Use:   "check [TARGET]",
		Short: "Prove, end to end, that this gateway joins its network with others",
		Long: `Checks on a gateway, for each CIDR that it advertises: that it may carry it, that the host forwards, that a host on the LAN is
reached through that, and that the LAN knows the way back, which it tries by echo requests from the other network's first
address, one that no host has. And for each CIDR behind another gateway: the path, the grants in both directions, whether a
host there answers, and how long packets may be. TARGET is the address of such a host; without, one is taken that is
heard of just now. What is wrong is told with what to do about it. Its exit status is 1 if a check failed.`,
		Args: cmdline.Args(cobra.MaximumNArgs(1)),
	}
	cmd.Flags().StringVar(&host, "host", "", "`address` of a host on this gateway's own LAN, as others see it; otherwise one that is known")
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		req := &pb.SiteCheckRequest{Host: host}
		if len(given) > 0 {
			req.Target = given[0]
		}
		stream, err := a.client().SiteCheck(cmd.Context(), connect.NewRequest(req))
		if err != nil {
			return err
		}
		defer stream.Close()
		return a.reportChecks(func() (*pb.CheckResult, bool) {
			more := stream.Receive()
			return stream.Msg().GetResult(), more
		}, stream.Err)
	}
	return cmd
}

// reportChecks prints results as they come, until there are no more, and fails if one of them has.
func (a *app) reportChecks(next func() (r *pb.CheckResult, more bool), ended func() error) error {
	failed, results := 0, []checkJSON{}
	for r, more := next(); more; r, more = next() {
		if r.GetOutcome() == "failed" {
			failed++
		}
		results = append(results, checkJSON{r.GetName(), r.GetOutcome(), r.GetText(), r.GetHelp()})
		if !a.json {
			a.printCheck(r)
		}
	}
	if err := ended(); err != nil {
		return err
	}
	if a.json {
		if err := a.printJSON(results); err != nil {
			return err
		}
	}
	switch failed {
	case 0:
		return nil
	case 1:
		return errors.New("one check failed")
	}
	return fmt.Errorf("%d checks failed", failed)
}

func (a *app) printCheck(r *pb.CheckResult) {
	fmt.Fprintf(a.out, "%-8s %-13s %s\n", r.GetOutcome(), r.GetName(), r.GetText())
	if r.GetHelp() != "" {
		fmt.Fprintf(a.out, "%22s > %s\n", "", r.GetHelp())
	}
}
