// Package flagdoc compares the commands and flags of a program with a Markdown page, for tests: Missing says what the page does not tell of.
package flagdoc

import (
	"fmt"
	"regexp"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Missing lists the commands below root, and the flags that their --help shows, of which the page has no word.
func Missing(root *cobra.Command, page []byte) (missing []string) {
	told := func(word string) bool { return regexp.MustCompile("[` ]" + regexp.QuoteMeta(word) + "\\b").Match(page) }
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.HasParent() && !told(c.Name()) {
			missing = append(missing, fmt.Sprintf("command %q", c.CommandPath()))
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && f.Name != "help" && !told("--"+f.Name) && !(f.Shorthand != "" && told("-"+f.Shorthand)) {
				missing = append(missing, fmt.Sprintf("--%s of %q", f.Name, c.CommandPath()))
			}
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return missing
}
