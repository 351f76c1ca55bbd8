package cli

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestReferenceFile: the file of the service's flags tells of each, with its default, and of no other, and what it suggests is taken.
func TestReferenceFile(t *testing.T) {
	b, err := os.ReadFile("../../../../packaging/config/warren.default")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^#   --([a-z-]+)=(\S*) `).FindAllStringSubmatch(string(b), -1) {
		if _, twice := told[m[1]]; twice {
			t.Errorf("--%s is told twice", m[1])
		}
		told[m[1]] = m[2]
	}
	cmd, _, err := Definitions().Find([]string{"daemon"})
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []*pflag.FlagSet{cmd.LocalFlags(), cmd.InheritedFlags()} {
		set.VisitAll(func(f *pflag.Flag) {
			value, ok := told[f.Name]
			delete(told, f.Name)
			if f.Hidden || f.Name == "json" { // which does nothing for a daemon
				return
			}
			if !ok || value != f.DefValue {
				t.Errorf("--%s: told %t, with %q; its default is %q", f.Name, ok, value, f.DefValue)
			}
		})
	}
	for name := range told {
		t.Errorf("--%s is told, and there is no such flag", name)
	}
	line := regexp.MustCompile(`(?m)^#WARREN_DAEMON_FLAGS="(.*)"$`).FindStringSubmatch(string(b))
	if line == nil {
		t.Fatal("no line to uncomment")
	}
	if err := cmd.ParseFlags(strings.Fields(line[1])); err != nil {
		t.Errorf("%s: %v", line[1], err)
	}
	unit, err := os.ReadFile("../../../../packaging/systemd/warren.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"EnvironmentFile=-/etc/default/warren", "ExecStart=/usr/bin/warren daemon $WARREN_DAEMON_FLAGS", "Type=notify"} {
		if !slices.Contains(strings.Split(string(unit), "\n"), want) {
			t.Errorf("the unit has no line %s", want)
		}
	}
}
