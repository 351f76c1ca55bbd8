//go:build !linux

// Command benchfield measures mesh VPNs in network namespaces, which only Linux has.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "benchfield: not yet on this system: it needs Linux' network namespaces")
	os.Exit(1)
}
