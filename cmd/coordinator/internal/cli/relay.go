package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"warren/cmd/coordinator/internal/config"
	"warren/cmd/coordinator/internal/serve"
	"warren/cmd/internal/cmdline"
	"warren/internal/connectproxy"
	"warren/internal/runlog"
	"warren/proto/record"
	"warren/proto/token"
)

// tokenVariable may hold the join token, so that it need not show in a process list.
const tokenVariable = "WARREN_TOKEN"

func (a *app) relay() *cobra.Command {
	o := serve.RelayOptions{Listen: config.DefaultListen, STUN: config.DefaultSTUN}
	var text, levelName string
	cmd := &cobra.Command{
		Use:   "relay",
		Short: "Run a relay and STUN server alone, for a coordinator elsewhere",
		Long: `Runs a relay and STUN server for the network of a coordinator elsewhere. The first start needs a token from
"warren-coordinator token create --relay", by --token or ` + tokenVariable + `.`,
		Args: cmdline.Args(cobra.NoArgs),
	}
	f := cmd.Flags()
	f.StringVar(&o.Name, "name", "", "`name` of the relay (default: made from the host's name)")
	f.StringVar(&o.Region, "region", "", "where this relay is, in a `word` for people")
	f.StringVar(&text, "token", "", "join `token` for a relay")
	f.StringVar(&o.Listen, "listen", o.Listen, "TCP `address` for relayed packets")
	f.StringArrayVar(&o.URLs, "url", nil, "`URL` at which devices find the relay; may be repeated (default: the host's own addresses)")
	f.StringVar(&o.STUN, "stun", o.STUN, "UDP `address` of the STUN server, or off")
	f.StringVar(&o.Proxy, "proxy", "", "reach the coordinator through this HTTP proxy `URL`, or off (default: HTTPS_PROXY of the environment)")
	f.IntVar(&o.Rate, "relay-rate", 0, relayRateUsage)
	f.StringVar(&levelName, "log-level", "info", cmdline.LogLevelUsage)
	f.StringVar(&o.Metrics, "metrics", "", "serve Prometheus metrics on this `address`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := record.CheckLabel(o.Name); o.Name != "" && err != nil {
			return cmdline.Usagef("--name: %w", err)
		}
		if err := checkRelay(o, levelName); err != nil {
			return cmdline.UsageError{Err: err}
		}
		level, err := runlog.ParseLevel(levelName)
		if err != nil {
			return err
		}
		if text == "" {
			text = os.Getenv(tokenVariable)
		}
		if text != "" {
			t, err := token.Parse(text)
			if err != nil {
				return err
			}
			o.Token = t
		}
		o.State, o.Log, o.Out = a.state, runlog.Open(a.err, level).Logger, a.out
		err = a.asService(cmd.Context(), o.Log, nil, func(ctx context.Context, v service) error {
			o.Ready, o.Handover = v.ready, v.handover
			return serve.RunRelay(ctx, o)
		})
		if errors.Is(err, serve.ErrNoToken) {
			return fmt.Errorf("%w; make one with \"warren-coordinator token create --relay\" and give it by --token", err)
		}
		return err
	}
	return cmd
}

// checkRelay finds what cannot work before anything is opened or made.
func checkRelay(o serve.RelayOptions, level string) error {
	c := config.Default(o.State)
	c.Listen, c.STUN, c.Metrics, c.Region, c.URLs, c.RelayRate, c.LogLevel = o.Listen, o.STUN, o.Metrics, o.Region, o.URLs, o.Rate, level
	if err := c.Check(); err != nil {
		return err
	}
	if err := connectproxy.Check(o.Proxy); err != nil {
		return fmt.Errorf("--proxy: %w", err)
	}
	return nil
}
