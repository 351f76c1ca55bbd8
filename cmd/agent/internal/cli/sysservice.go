package cli

import (
	"github.com/spf13/cobra"

	"warren/cmd/internal/servicecmd"
	"warren/internal/sysservice"
	"warren/packaging"
)

// service is the command that makes the daemon a service of the system.
func (a *app) service() *cobra.Command {
	return servicecmd.New(servicecmd.Options{
		Service: agentService, Program: "warren", Out: a.out, JSON: &a.json,
	})
}

func agentService() sysservice.Service {
	const name, killswitch = "warren", "warren-killswitch"
	return sysservice.Service{
		Name: name, Title: "Warren agent", Packaged: "/usr/bin/warren",
		Systemd:  []sysservice.Text{{Name: name, Text: packaging.Systemd(name)}, {Name: killswitch, Text: packaging.Systemd(killswitch), Early: true}},
		OpenRC:   []sysservice.Text{{Name: name, Text: packaging.OpenRC(name)}, {Name: killswitch, Text: packaging.OpenRC(killswitch), Early: true}},
		Settings: []sysservice.Settings{{Path: "/etc/warren/agent.toml", Text: packaging.Config("agent.toml")}},
		Args:     []string{"daemon"},
		After:    []string{"cleanup", "--kill-switch"},
	}
}
