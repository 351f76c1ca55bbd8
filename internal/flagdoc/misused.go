package flagdoc

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Misused lists the command lines of root's program in a page, in blocks that are indented or fenced, that it would not take: commands and flags that
// there are not, and numbers of arguments. fresh gives root's definitions, anew for each line.
func Misused(fresh func() *cobra.Command, page []byte) (wrong []string) {
	name := fresh().Name()
	line := regexp.MustCompile(`^\s*(?:- )?(?:[a-z0-9]*\$\s+)?(?:sudo )?` + regexp.QuoteMeta(name) + `((?: .*)?)$`)
	fenced := false
	for n, text := range strings.Split(string(page), "\n") {
		if strings.HasPrefix(text, "```") {
			fenced = !fenced
			continue
		}
		m := line.FindStringSubmatch(text)
		if m == nil || !fenced && !strings.HasPrefix(text, "    ") {
			continue
		}
		for _, alternative := range alternatives(words(m[1])) {
			if err := misuse(fresh(), alternative); err != nil {
				wrong = append(wrong, fmt.Sprintf("line %d: %s: %v", n+1, strings.TrimSpace(text), err))
			}
		}
	}
	return wrong
}

// words are those of a line of a shell before a comment, a pipe or a redirection.
func words(line string) (out []string) {
	for _, w := range regexp.MustCompile(`'[^']*'|"[^"]*"|\S+`).FindAllString(line, -1) {
		if strings.HasPrefix(w, "#") || slices.Contains([]string{"|", ">", "<", "&&", "&", ";"}, w) || strings.HasPrefix(w, ">") {
			break
		}
		out = append(out, strings.Trim(w, `'"`))
	}
	return out
}

// alternatives takes "policy get / check" for two lines.
func alternatives(line []string) (out [][]string) {
	i := slices.Index(line, "/")
	if i < 1 || i+1 == len(line) {
		return [][]string{line}
	}
	head := line[:i-1]
	out = append(out, line[:i])
	for _, rest := range alternatives(line[i+1:]) {
		out = append(out, slices.Concat(head, rest))
	}
	return out
}

func misuse(root *cobra.Command, line []string) error {
	c, rest, err := root.Find(line)
	if err != nil {
		return err
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	if !c.Runnable() {
		return fmt.Errorf("%s is no command by itself", c.CommandPath())
	}
	if c == root && len(line) > 0 {
		return fmt.Errorf("there is no command %q", line[0])
	}
	return c.ValidateArgs(c.Flags().Args())
}
