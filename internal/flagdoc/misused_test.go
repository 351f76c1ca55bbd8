package flagdoc

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

func digger() *cobra.Command {
	run := func(*cobra.Command, []string) {}
	root := &cobra.Command{Use: "tool"}
	dig, fill := &cobra.Command{Use: "dig", Run: run, Args: cobra.ExactArgs(1)}, &cobra.Command{Use: "fill", Run: run, Args: cobra.NoArgs}
	dig.Flags().Int("depth", 0, "")
	root.AddCommand(dig, fill)
	return root
}

func TestMisused(t *testing.T) {
	for text, want := range map[string]string{
		"    tool dig here":                          "",
		"    host$ sudo tool dig --depth 3 here":     "",
		"    tool dig here # and not \"tool dug\"":   "",
		"    tool fill | less":                       "",
		"    tool fill >file":                        "",
		"    tool dig 'two words'":                   "",
		"    toolbox dug":                            "",
		"tool dug is text":                           "",
		"```console\nhost$ tool fill\n```\ntool dug": "",
		"    tool fill / dig here":                   "",
		"    tool dug":                               `line 1: tool dug: `,
		"    $ tool dig --deep here":                 "line 1: $ tool dig --deep here: unknown flag: --deep",
		"    tool dig --depth far here":              "invalid argument",
		"    tool dig":                               "accepts 1 arg",
		"    tool fill it":                           "unknown command \"it\"",
		"    tool fill / bury":                       "bury",
		"```\nhost$ sudo tool dug\n```":              "line 2: host$ sudo tool dug: ",
	} {
		got := strings.Join(Misused(digger, []byte(text)), "\n")
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestAlternatives(t *testing.T) {
	got := alternatives(strings.Fields("policy get / check / set"))
	want := [][]string{{"policy", "get"}, {"policy", "check"}, {"policy", "set"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
