package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const referenceFile = "../../../../packaging/config/coordinator.toml"

// TestReferenceFile: the file that the packages install changes nothing as it is, and uncommented says each setting once, with its default.
func TestReferenceFile(t *testing.T) {
	b, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	want := Default("/var/lib/warren-coordinator")
	got := want
	if err := got.Load(referenceFile); err != nil {
		t.Fatal(err)
	}
	same := cmp.Options{cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateEmpty()}
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Errorf("as it is: %s", diff)
	}

	setting := regexp.MustCompile(`(?m)^#([a-z0-9-]+) = `)
	count := map[string]int{}
	for _, m := range setting.FindAllStringSubmatch(string(b), -1) {
		count[m[1]]++
	}
	for name := range forms() {
		if count[name] != 1 {
			t.Errorf("%s is there %d times", name, count[name])
		}
	}
	all := filepath.Join(t.TempDir(), "all.toml")
	if err := os.WriteFile(all, setting.ReplaceAll(b, []byte("$1 = ")), 0o600); err != nil {
		t.Fatal(err)
	}
	var uncommented Config
	if err := uncommented.Load(all); err != nil {
		t.Fatal(err)
	}
	if err := uncommented.Check(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(want, uncommented, same); diff != "" {
		t.Errorf("uncommented: %s", diff)
	}
	for _, bound := range []string{`"` + minMapMaxAge.String() + `" to "` + maxMapMaxAge.String() + `"`, "from 1 to 1000000;"} {
		if !strings.Contains(string(b), bound) {
			t.Errorf("the range %s is not told", bound)
		}
	}
}
