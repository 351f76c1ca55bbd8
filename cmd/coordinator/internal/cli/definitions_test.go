package cli

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"warren/internal/clidoc"
)

// TestPages: each command has a manual page, and each flag of its --help stands in it.
func TestPages(t *testing.T) {
	commands := clidoc.Commands(Definitions())
	if len(commands) < 10 {
		t.Fatalf("%d commands", len(commands))
	}
	for _, c := range commands {
		page := string(clidoc.Page(c))
		for _, want := range []string{"\n.SH NAME\n", "\n.SH SYNOPSIS\n", "\n.SH DESCRIPTION\n"} {
			if !strings.Contains(page, want) {
				t.Errorf("%s: the page has no %q", c.CommandPath(), want)
			}
		}
		for _, set := range []*pflag.FlagSet{c.LocalFlags(), c.InheritedFlags()} {
			set.VisitAll(func(f *pflag.Flag) {
				entry := fmt.Sprintf("\\fB\\-\\-%s\\fR", strings.ReplaceAll(f.Name, "-", `\-`))
				if strings.Contains(page, entry) == f.Hidden {
					t.Errorf("%s: --%s is hidden: %t, and in the page: %t", c.CommandPath(), f.Name, f.Hidden, f.Hidden)
				}
			})
		}
	}
}
