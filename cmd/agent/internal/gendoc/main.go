// Command gendoc writes the manual pages and shell completions of warren below the directory that it is given.
package main

import (
	"fmt"
	"os"

	"warren/cmd/agent/internal/cli"
	"warren/internal/clidoc"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gendoc DIRECTORY")
		os.Exit(2)
	}
	if err := clidoc.Write(cli.Definitions(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "gendoc:", err)
		os.Exit(1)
	}
}
