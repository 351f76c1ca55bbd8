package cli

// Defaults of the flags that every command has, on Windows.
const (
	defaultState  = `C:\ProgramData\Warren`
	defaultSocket = `C:\ProgramData\Warren\run\warren.sock`
	defaultTUN    = "Warren"
	// defaultConfig is read if it is there and the state directory is the default one: other daemons on a host have files of their own.
	defaultConfig = `C:\ProgramData\Warren\agent.toml`
)
