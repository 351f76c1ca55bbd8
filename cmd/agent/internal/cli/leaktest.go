package cli

import (
	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"warren/cmd/internal/cmdline"
	pb "warren/proto/warrenv1"
)

func (a *app) leakTest() *cobra.Command {
	return &cobra.Command{
		Use:   "leaktest",
		Short: "Show whether anything leaves this host outside the tunnel",
		Long: `Tries, while an exit node is used or the kill switch is on, whether anything leaves this host outside of the tunnel: asks the kernel
how it sends packets of both families, the tunnel's own and all others; sends UDP, TCP and ICMP as any program does, and as one that has chosen the
link itself, and looks at the links for them; asks a server for a name that does not exist, which only the exit node can answer; and sees
whether connected networks, the resolver's file and the kill switch are as they should be. What is wrong is told with what to do about it. Its exit
status is 1 if a check failed. What it sends goes to addresses that nobody has.`,
		Args: cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			stream, err := a.client().LeakTest(cmd.Context(), connect.NewRequest(&pb.LeakTestRequest{}))
			if err != nil {
				return err
			}
			defer stream.Close()
			return a.reportChecks(func() (*pb.CheckResult, bool) {
				more := stream.Receive()
				return stream.Msg().GetResult(), more
			}, stream.Err)
		},
	}
}
