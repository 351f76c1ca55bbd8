// Command gendoc writes the manual pages and shell completions of warren-coordinator below the directory that it is given.
package main

import (
	"warren/cmd/coordinator/internal/cli"
	"warren/internal/clidoc"
)

func main() { clidoc.Main(cli.Definitions()) }
