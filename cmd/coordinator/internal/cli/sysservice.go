package cli

import (
	"github.com/spf13/cobra"

	"warren/cmd/internal/servicecmd"
	"warren/internal/sysservice"
	"warren/packaging"
)

// service is the command that makes the coordinator, or a separate relay, a service of the system.
func (a *app) service() *cobra.Command {
	var relay bool
	cmd := servicecmd.New(servicecmd.Options{
		Service: func() sysservice.Service {
			if relay {
				return relayService()
			}
			return coordinatorService()
		},
		Program: "warren-coordinator", Out: a.out, JSON: &a.json,
	})
	cmd.PersistentFlags().BoolVar(&relay, "relay", false, "the separate relay, warren-relay, in place of the coordinator")
	return cmd
}

func coordinatorService() sysservice.Service {
	const name, settings = "warren-coordinator", defaultConfig
	return sysservice.Service{
		Name: name, Title: "Warren coordinator", Packaged: "/usr/bin/warren-coordinator",
		Systemd:  []sysservice.Text{{Name: name, Text: packaging.Systemd(name)}},
		OpenRC:   []sysservice.Text{{Name: name, Text: packaging.OpenRC(name)}},
		Settings: []sysservice.Settings{{Path: settings, Text: packaging.Config("coordinator.toml")}},
		Args:     []string{"serve", "--config", settings},
	}
}

func relayService() sysservice.Service {
	const name = "warren-relay"
	return sysservice.Service{
		Name: name, Title: "Warren relay", Packaged: "/usr/bin/warren-coordinator",
		Systemd: []sysservice.Text{{Name: name, Text: packaging.Systemd(name)}},
		OpenRC:  []sysservice.Text{{Name: name, Text: packaging.OpenRC(name)}},
		Args:    []string{"relay"},
	}
}
