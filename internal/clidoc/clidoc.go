// Package clidoc writes the manual pages and shell completions of a program from the definitions of its command line. Write writes both below
// one directory; Page gives a single page. Nothing that is written depends on the time, the user or the host.
package clidoc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// Write makes the files of root's program below dir, laid out as below /usr/share:
//
//	man/man1/PROGRAM[-COMMAND…].1
//	bash-completion/completions/PROGRAM
//	zsh/vendor-completions/_PROGRAM
//	fish/vendor_completions.d/PROGRAM.fish
func Write(root *cobra.Command, dir string) error {
	for _, c := range Commands(root) {
		if err := put(filepath.Join(dir, "man", "man1", PageName(c)+".1"), Page(c)); err != nil {
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

// Commands are root and all that is below it and shown by --help, parents first.
func Commands(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			all = append(all, Commands(c)...)
		}
	}
	return all
}
