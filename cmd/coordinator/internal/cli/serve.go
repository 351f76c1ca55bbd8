package cli

import (
	"context"
	"errors"
	"io/fs"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"warren/cmd/coordinator/internal/config"
	"warren/cmd/coordinator/internal/serve"
	"warren/cmd/internal/cmdline"
	"warren/internal/runlog"
)

// relayRateUsage tells of a flag that serve and relay share.
const relayRateUsage = "how many `Mbit/s` each device may send through the relay; 0 for any amount"

func (a *app) serve() *cobra.Command {
	var file string
	flags := config.Default("")
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the coordinator, with STUN server and relay",
		Long: `Runs the coordinator. The first start makes the network: keys, database, TLS identity, address prefixes; on a terminal it
prints the command that adds a device. Settings come from the defaults, then --config, then flags. On SIGHUP they are read again, and so are the
files of --tls: a new certificate and log level hold at once, what else has changed after a restart.`,
		Args: cmdline.Args(cobra.NoArgs),
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "read settings from this TOML `file`")
	f.StringVar(&flags.Listen, "listen", flags.Listen, "TCP `address` for agents and relayed packets")
	f.StringArrayVar(&flags.URLs, "url", nil, "`URL` at which devices find the coordinator; may be repeated (default: the host's own addresses)")
	f.StringVar(&flags.STUN, "stun", flags.STUN, "UDP `address` of the STUN server, or off")
	f.StringVar(&flags.TLS, "tls", flags.TLS, "self, off, or the two files `CERT,KEY`")
	f.StringVar(&flags.Metrics, "metrics", "", "serve Prometheus metrics on this `address`")
	f.StringVar(&flags.Region, "region", "", "where this relay is, in a `word` for people")
	f.BoolVar(&flags.Relay, "relay", true, "run a relay")
	f.IntVar(&flags.RelayRate, "relay-rate", 0, relayRateUsage)
	f.StringVar(&flags.IPv4, "ipv4", "", "`prefix` of devices' IPv4 addresses, at the first start (default: a random /16 of 100.64.0.0/10)")
	f.StringVar(&flags.IPv6, "ipv6", "", "`prefix` of devices' IPv6 addresses, at the first start (default: a random unique local /48)")
	f.StringVar(&flags.LogLevel, "log-level", flags.LogLevel, cmdline.LogLevelUsage)
	f.DurationVar(&flags.MapMaxAge, "map-max-age", flags.MapMaxAge, "how long devices may use a map while the coordinator is away")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.settings(cmd.Flags(), file, flags)
		if err != nil {
			return err
		}
		if err := c.Check(); err != nil {
			return cmdline.UsageError{Err: err}
		}
		level, err := runlog.ParseLevel(c.LogLevel)
		if err != nil {
			return err
		}
		log := runlog.Open(a.err, level)
		o := serve.Options{Config: c, Log: log.Logger, LogLevel: log.Level, RecentLog: log.Recent.Bytes, Out: a.out, Terminal: terminal(a.out)}
		a.state = c.State
		o.Read = func() (config.Config, error) {
			c, err := a.settings(cmd.Flags(), file, flags)
			if err == nil {
				err = c.Check()
			}
			return c, err
		}
		return a.asService(cmd.Context(), o.Log, a.answers(), func(ctx context.Context, v service) error {
			o.Ready, o.Handover, o.Reload = v.ready, v.handover, v.reload
			return serve.Run(ctx, o)
		})
	}
	return cmd
}

// settings puts flags that were named over the file, and the file over the defaults.
func (a *app) settings(set *pflag.FlagSet, file string, flags config.Config) (config.Config, error) {
	c := config.Default(a.state)
	if file != "" {
		var unreadable *fs.PathError
		if err := c.Load(file); errors.As(err, &unreadable) {
			return c, err
		} else if err != nil {
			return c, cmdline.UsageError{Err: err}
		}
	}
	for name, take := range map[string]func(){
		"state":       func() { c.State = a.state },
		"listen":      func() { c.Listen = flags.Listen },
		"url":         func() { c.URLs = flags.URLs },
		"stun":        func() { c.STUN = flags.STUN },
		"tls":         func() { c.TLS = flags.TLS },
		"metrics":     func() { c.Metrics = flags.Metrics },
		"relay":       func() { c.Relay = flags.Relay },
		"relay-rate":  func() { c.RelayRate = flags.RelayRate },
		"region":      func() { c.Region = flags.Region },
		"ipv4":        func() { c.IPv4 = flags.IPv4 },
		"ipv6":        func() { c.IPv6 = flags.IPv6 },
		"log-level":   func() { c.LogLevel = flags.LogLevel },
		"map-max-age": func() { c.MapMaxAge = flags.MapMaxAge },
	} {
		if set.Changed(name) {
			c.Named(name)
			take()
		}
	}
	return c, nil
}
