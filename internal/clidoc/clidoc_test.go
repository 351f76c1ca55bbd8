package clidoc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

func digger() *cobra.Command {
	run := func(*cobra.Command, []string) {}
	root := &cobra.Command{Use: "tool", Short: "Make holes"}
	root.PersistentFlags().String("state", "/var/lib/tool", "state `directory` of the tool")
	dig := &cobra.Command{
		Use: "dig [WHERE | -]", Short: "Dig a hole", Run: run, Example: "  tool dig .here\n  tool dig -",
		Long: "Digs a hole, as deep as \"asked\".\n.Dots at a line's start are text, and so is \\n.\n\n    kept  as it is\n\n'Quoted' and ~.",
	}
	dig.Flags().BoolP("deep", "d", false, "dig deeper")
	dig.Flags().Bool("soil", true, "HTTP for earth")
	dig.Flags().Int("rate", 3, "`holes` in a second")
	dig.Flags().String("by", "", "who digs (default: nobody)")
	dig.Flags().Bool("secret", false, "")
	if err := dig.Flags().MarkHidden("secret"); err != nil {
		panic(err)
	}
	root.AddCommand(dig, &cobra.Command{Use: "fill", Short: "Fill it", Run: run}, &cobra.Command{Use: "bury", Short: "Not told", Hidden: true, Run: run})
	return root
}

const digPage = `.TH "TOOL\-DIG" 1 "" "" "Warren"
.SH NAME
tool\-dig \- dig a hole
.SH SYNOPSIS
\fBtool dig\fR [WHERE | \-] [flags]
.SH DESCRIPTION
Digs a hole, as deep as "asked".
\&.Dots at a line\(aqs start are text, and so is \en.
.PP
.nf
    kept  as it is
.fi
.PP
\&\(aqQuoted\(aq and \(ti.
.SH OPTIONS
.TP
\fB\-\-by\fR \fIstring\fR
Who digs (default: nobody).
.TP
\fB\-d\fR, \fB\-\-deep\fR
Dig deeper.
.TP
\fB\-h\fR, \fB\-\-help\fR
Help for dig.
.TP
\fB\-\-rate\fR \fIholes\fR
Holes in a second (default 3).
.TP
\fB\-\-soil\fR
HTTP for earth (default true).
.SH OPTIONS OF EVERY COMMAND
.TP
\fB\-\-state\fR \fIdirectory\fR
State directory of the tool (default "/var/lib/tool").
.SH EXAMPLES
.nf
  tool dig .here
  tool dig \-
.fi
.SH EXIT STATUS
0 done, 1 failed, 2 wrong usage.
.SH SEE ALSO
\fBtool\fR(1),
\fBtool\-fill\fR(1)
`

func TestPage(t *testing.T) {
	c, _, err := digger().Find([]string{"dig"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(digPage, string(page(c))); diff != "" {
		t.Error(diff)
	}
}

func TestMissing(t *testing.T) {
	if missing := Missing(digger()); missing != nil {
		t.Errorf("missing %q", missing)
	}
	if diff := cmp.Diff([]string{"any command"}, Missing(&cobra.Command{Use: "tool"})); diff != "" {
		t.Error(diff)
	}
	c, _, err := digger().Find([]string{"dig"})
	if err != nil {
		t.Fatal(err)
	}
	whole := string(page(c))
	without := strings.NewReplacer(`\-\-state\fR`, "", `\-\-rate\fR`, `\-\-secret\fR`).Replace(whole)
	want := []string{`--rate of "tool dig"`, `why --secret of "tool dig" is not hidden`, `--state of "tool dig"`}
	if diff := cmp.Diff(want, missingFrom(without, c)); diff != "" {
		t.Error(diff)
	}
}

func TestWrite(t *testing.T) {
	once, twice := files(t), files(t)
	if diff := cmp.Diff(once, twice); diff != "" {
		t.Errorf("written twice: %s", diff)
	}
	for path, word := range map[string]string{
		"man/man1/tool.1":                     "\\fBdig\\fR\nDig a hole; see \\fBtool\\-dig\\fR(1).",
		"man/man1/tool-dig.1":                 "SYNOPSIS",
		"man/man1/tool-fill.1":                "Fill it.",
		"bash-completion/completions/tool":    "__start_tool",
		"zsh/vendor-completions/_tool":        "#compdef tool",
		"fish/vendor_completions.d/tool.fish": "complete -c tool",
	} {
		if !strings.Contains(once[path], word) {
			t.Errorf("%s does not have %q", path, word)
		}
		delete(once, path)
	}
	for path := range once {
		t.Errorf("%s: not wanted", path)
	}
}

func files(t *testing.T) map[string]string {
	t.Helper()
	dir, all := t.TempDir(), map[string]string{}
	if err := Write(digger(), dir); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		all[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWriteWhereItCannot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(digger(), file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("below a file: %v", err)
	}
}
