// Command warren-coordinator tells the devices of a Warren network about each other: "warren-coordinator serve" runs it, with a STUN
// server and a relay inside; the other commands talk to the running one.
package main

import (
	"os"

	"warren/cmd/coordinator/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr))
}
