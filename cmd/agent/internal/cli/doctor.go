package cli

import (
	"context"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"warren/cmd/agent/internal/doctor"
	"warren/cmd/internal/cmdline"
	"warren/internal/buildversion"
	pb "warren/proto/warrenv1"
	"warren/tunnel/dnsforward"
	"warren/tunnel/router"
)

func (a *app) doctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Find out what keeps Warren from working on this host",
		Long: `Checks what a tunnel needs, with and without a running daemon: the TUN device, rights, the state directory and its space, the daemon and its
service, settings, membership, names, the coordinator and this machine's clock, UDP, relays, the size of packets, other VPNs and networks with the same
addresses, rules of the routing policy, forwarding and firewalls. Each check is ok, a warning, failed or unknown; what is wrong is told with what to do
about it. It changes nothing. Its exit status is 1 if a check failed.`,
		Args: cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			live := a.liveLine()
			live.show("looking at this host and its network")
			found := a.diagnose(cmd.Context())
			live.clear()
			return a.reportChecks(func() (*pb.CheckResult, bool) {
				if len(found) == 0 {
					return nil, false
				}
				f := found[0]
				found = found[1:]
				return &pb.CheckResult{Name: f.Name, Outcome: f.Outcome, Text: f.Text, Help: f.Help}, true
			}, func() error { return nil })
		},
	}
}

func (a *app) diagnose(ctx context.Context) []doctor.Finding {
	c := doctor.Config{
		StateDir: a.state, Socket: a.socket, Version: buildversion.Get(), ResolvConf: dnsforward.ResolvConf, TUN: router.TUNFile, Now: a.now,
	}
	// What a daemon would find that is started here without flags: the proxy and the interface's name, or that the file is wrong.
	f, o := pflag.NewFlagSet("daemon", pflag.ContinueOnError), new(daemonOptions)
	newReloader(a, f).register(o, f)
	l, err := a.load(o, f, nil)
	c.Settings.Err = err
	if err == nil {
		c.Proxy = l.cfg.Proxy
		if _, err := os.Stat(l.source.File); err == nil {
			c.Settings.File = l.source.File
		}
	}
	c.Interface = f.Lookup("tun").Value.String()
	return doctor.Judge(doctor.Gather(ctx, c))
}
