// Command warren joins this machine to a Warren network: "warren up" with a join token enrols it and starts the daemon that
// builds the tunnels; the other commands ask that daemon.
package main

import (
	"os"

	"warren/cmd/agent/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
