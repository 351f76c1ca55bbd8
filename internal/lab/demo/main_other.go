//go:build !linux

// Command demo shows Warren's main job in network namespaces, which only Linux has.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "demo: not yet on this system: it needs Linux' network namespaces")
	os.Exit(1)
}
