package flagdoc

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

func TestMissing(t *testing.T) {
	root := &cobra.Command{Use: "tool"}
	root.Flags().String("state-dir", "", "")
	dig, fill := &cobra.Command{Use: "dig"}, &cobra.Command{Use: "fill"}
	dig.Flags().BoolP("deep", "d", false, "")
	dig.Flags().Bool("secret", false, "")
	dig.Flags().MarkHidden("secret")
	fill.Flags().Int("load", 0, "")
	dig.AddCommand(fill)
	root.AddCommand(dig)
	for _, tc := range []struct {
		page string
		want []string
	}{
		{"`tool dig -d`, `tool dig fill --load 3`, --state-dir", nil},
		{"`dig --deep` and `fill` take `--state-dir`, with the --loads", []string{`--load of "tool dig fill"`}},
		{"dug --deeper", []string{`--state-dir of "tool"`, `command "tool dig"`, `--deep of "tool dig"`, `command "tool dig fill"`, `--load of "tool dig fill"`}},
		{"", []string{`--state-dir of "tool"`, `command "tool dig"`, `--deep of "tool dig"`, `command "tool dig fill"`, `--load of "tool dig fill"`}},
	} {
		if diff := cmp.Diff(tc.want, Missing(root, []byte(tc.page))); diff != "" {
			t.Errorf("%q: %s", tc.page, diff)
		}
	}
}
