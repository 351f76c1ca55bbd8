package clidoc

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// pageName is the name of a command's page, without its section.
func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// page is the manual page of one command, in man(7)'s macros. The texts of --help are taken as they are: blank lines part paragraphs, and lines
// that are indented stay as they were laid out.
func page(c *cobra.Command) []byte {
	c.InitDefaultHelpFlag()
	b := new(bytes.Buffer)
	fmt.Fprintf(b, ".TH \"%s\" 1 \"\" \"\" \"Warren\"\n", strings.ToUpper(quote(pageName(c))))
	fmt.Fprintf(b, ".SH NAME\n%s \\- %s\n", quote(pageName(c)), line(lowerFirst(c.Short)))
	fmt.Fprintf(b, ".SH SYNOPSIS\n\\fB%s\\fR%s\n", quote(c.CommandPath()), quote(strings.TrimPrefix(c.UseLine(), c.CommandPath())))
	b.WriteString(".SH DESCRIPTION\n")
	description := c.Long
	if description == "" {
		description = c.Short + "."
	}
	paragraphs(b, description)
	subcommands(b, c)
	options(b, "OPTIONS", c.NonInheritedFlags())
	options(b, "OPTIONS OF EVERY COMMAND", c.InheritedFlags())
	if c.Example != "" {
		fmt.Fprintf(b, ".SH EXAMPLES\n.nf\n%s.fi\n", lines(c.Example))
	}
	b.WriteString(".SH EXIT STATUS\n0 done, 1 failed, 2 wrong usage.\n")
	seeAlso(b, c)
	return b.Bytes()
}

// paragraphs fills lines that are not indented.
func paragraphs(b *bytes.Buffer, text string) {
	for i, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		if strings.HasPrefix(p, " ") {
			fmt.Fprintf(b, ".nf\n%s.fi\n", lines(p))
			continue
		}
		b.WriteString(lines(p))
	}
}

func subcommands(b *bytes.Buffer, c *cobra.Command) {
	title := ".SH COMMANDS\n"
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			fmt.Fprintf(b, "%s.TP\n\\fB%s\\fR\n%s; see \\fB%s\\fR(1).\n", title, quote(sub.Name()), line(sub.Short), quote(pageName(sub)))
			title = ""
		}
	}
}

func options(b *bytes.Buffer, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		b.WriteString(".TP\n")
		if f.Shorthand != "" {
			fmt.Fprintf(b, "\\fB\\-%s\\fR, ", quote(f.Shorthand))
		}
		fmt.Fprintf(b, "\\fB%s\\fR", quote("--"+f.Name))
		if value != "" {
			fmt.Fprintf(b, " \\fI%s\\fR", quote(value))
		}
		fmt.Fprintf(b, "\n%s%s.\n", line(upperFirst(usage)), quote(defaultOf(f)))
	})
}

// defaultOf tells a default that is more than the zero of its type and that the usage does not tell itself.
func defaultOf(f *pflag.Flag) string {
	switch d := f.DefValue; {
	case d == "", d == "0", d == "false", d == "[]", d == "0s", strings.Contains(f.Usage, "(default"):
		return ""
	case f.Value.Type() == "string":
		return fmt.Sprintf(" (default %q)", d)
	default:
		return fmt.Sprintf(" (default %s)", d)
	}
}

func seeAlso(b *bytes.Buffer, c *cobra.Command) {
	var pages []string
	if c.HasParent() {
		for _, near := range append([]*cobra.Command{c.Parent()}, c.Parent().Commands()...) {
			if near != c && (near == c.Parent() || near.IsAvailableCommand()) {
				pages = append(pages, fmt.Sprintf("\\fB%s\\fR(1)", quote(pageName(near))))
			}
		}
	}
	if len(pages) > 0 {
		fmt.Fprintf(b, ".SH SEE ALSO\n%s\n", strings.Join(pages, ",\n"))
	}
}

// quote keeps troff from reading s as more than text: a hyphen stays one that can be searched and copied.
func quote(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, "…", `\&...`, "→", `\->`).Replace(s)
}

// line is text that starts a line, where a dot or an apostrophe would be a request.
func line(s string) string {
	s = quote(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, `\(aq`) {
		s = `\&` + s
	}
	return s
}

func lines(text string) string {
	var b strings.Builder
	for l := range strings.Lines(strings.TrimRight(text, "\n")) {
		b.WriteString(line(strings.TrimRight(l, "\n")) + "\n")
	}
	return b.String()
}

func lowerFirst(s string) string { return firstOf(s, strings.ToLower) }
func upperFirst(s string) string { return firstOf(s, strings.ToUpper) }

// firstOf changes the first letter, unless the first word is an abbreviation or a name with capitals inside.
func firstOf(s string, change func(string) string) string {
	word, _, _ := strings.Cut(s, " ")
	if s == "" || len(word) > 1 && strings.ToLower(word[1:]) != word[1:] {
		return s
	}
	return change(s[:1]) + s[1:]
}
