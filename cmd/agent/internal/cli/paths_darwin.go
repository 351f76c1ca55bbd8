package cli

// Defaults of the flags that every command has, on macOS. The system chooses the number of the interface.
const (
	defaultState  = "/var/db/warren"
	defaultSocket = "/var/run/warren/warren.sock"
	defaultTUN    = "utun"
	// defaultConfig is read if it is there and the state directory is the default one: other daemons on a host have files of their own.
	defaultConfig = "/etc/warren/agent.toml"
)
