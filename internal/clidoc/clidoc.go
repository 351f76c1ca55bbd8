// Package clidoc writes the manual pages and shell completions of a program from the definitions of its command line. Main is all that a program
// for this does; Write writes both below one directory; Missing, for tests, says what the pages do not tell of. Nothing that is written depends on
// the time, the user or the host.
package clidoc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Main writes the files of root's program below the directory that is its only argument, and ends the program with a status if it cannot.
func Main(root *cobra.Command) {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gendoc DIRECTORY")
		os.Exit(2)
	}
	if err := Write(root, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "gendoc:", err)
		os.Exit(1)
	}
}

// Write makes the files of root's program below dir, laid out as below /usr/share:
//
//	man/man1/PROGRAM[-COMMAND…].1
//	bash-completion/completions/PROGRAM
//	zsh/vendor-completions/_PROGRAM
//	fish/vendor_completions.d/PROGRAM.fish
func Write(root *cobra.Command, dir string) error {
	for _, c := range commands(root) {
		if err := put(filepath.Join(dir, "man", "man1", pageName(c)+".1"), page(c)); err != nil {
			return err
		}
	}
	name := root.Name()
	for path, generate := range map[string]func(*bytes.Buffer) error{
		filepath.Join("bash-completion", "completions", name):       func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) },
		filepath.Join("zsh", "vendor-completions", "_"+name):        func(b *bytes.Buffer) error { return root.GenZshCompletion(b) },
		filepath.Join("fish", "vendor_completions.d", name+".fish"): func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) },
	} {
		var b bytes.Buffer
		if err := generate(&b); err != nil {
			return fmt.Errorf("completion %s: %w", path, err)
		}
		if err := put(filepath.Join(dir, path), b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

func put(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

// commands are root and all that is below it and shown by --help, parents first.
func commands(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			all = append(all, commands(c)...)
		}
	}
	return all
}

// Missing lists the flags that --help of root, or of a command below it, shows and the command's page does not, and those that are hidden and in the
// page all the same.
func Missing(root *cobra.Command) (missing []string) {
	if !root.HasAvailableSubCommands() {
		missing = append(missing, "any command")
	}
	for _, c := range commands(root) {
		missing = append(missing, missingFrom(string(page(c)), c)...)
	}
	return missing
}

func missingFrom(page string, c *cobra.Command) (missing []string) {
	for _, set := range []*pflag.FlagSet{c.LocalFlags(), c.InheritedFlags()} {
		set.VisitAll(func(f *pflag.Flag) {
			switch told := strings.Contains(page, "\\fB"+quote("--"+f.Name)+"\\fR"); {
			case f.Hidden && told:
				missing = append(missing, fmt.Sprintf("why --%s of %q is not hidden", f.Name, c.CommandPath()))
			case !f.Hidden && !told:
				missing = append(missing, fmt.Sprintf("--%s of %q", f.Name, c.CommandPath()))
			}
		})
	}
	return missing
}
