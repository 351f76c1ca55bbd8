package cli

import (
	"os"
	"regexp"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestFlagsAreTold: docs/operations.md names every command and every flag that --help shows.
func TestFlagsAreTold(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	told := func(word string) bool { return regexp.MustCompile("[` ]" + word + "\\b").Match(page) }
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.HasParent() && !told(c.Name()) {
			t.Errorf("no word of the command %q", c.CommandPath())
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && f.Name != "help" && !told("--"+f.Name) && !(f.Shorthand != "" && told("-"+f.Shorthand)) {
				t.Errorf("no word of --%s of %q", f.Name, c.CommandPath())
			}
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{}).root())
}
