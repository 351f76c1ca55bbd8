// Command gendoc writes the manual pages and shell completions of warren below the directory that it is given.
package main

import (
	"warren/cmd/agent/internal/cli"
	"warren/internal/clidoc"
)

func main() { clidoc.Main(cli.Definitions()) }
