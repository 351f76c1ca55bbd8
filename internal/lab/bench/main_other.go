//go:build !linux

// Command bench measures a Warren network in network namespaces, which only Linux has.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: not yet on this system: it needs Linux' network namespaces")
	os.Exit(1)
}
