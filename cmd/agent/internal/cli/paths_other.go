//go:build !darwin && !windows

package cli

// Defaults of the flags that every command has.
const (
	defaultState  = "/var/lib/warren"
	defaultSocket = "/run/warren/warren.sock"
	defaultTUN    = "warren0"
	// defaultConfig is read if it is there and the state directory is the default one: other daemons on a host have files of their own.
	defaultConfig = "/etc/warren/agent.toml"
)
