package field

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChoosePairs(t *testing.T) {
	for _, c := range []struct {
		names string
		want  []Pair
		err   string
	}{
		{"", Pairs(), ""},
		{"easy+hard", []Pair{{"easy", "hard", true}}, ""},
		{"hard+hard,none+none", []Pair{{"none", "none", true}, {"hard", "hard", false}}, ""},
		{"hard+easy", nil, `there is no pair "hard+easy"; they are: none+none, easy+easy`},
		{"none+none,", nil, `there is no pair ""`},
	} {
		t.Run(c.names, func(t *testing.T) {
			got, err := ChoosePairs(c.names)
			checkError(t, err, c.err)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("pairs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTablesGoBehindTheMark(t *testing.T) {
	file := filepath.Join(t.TempDir(), "doc")
	for _, c := range []struct{ name, text, want, err string }{
		{"first time", "head\n" + Mark + "\n", "head\n" + Mark + "\n\nnew\n", ""},
		{"again", "head\n" + Mark + "\n\nold\n", "head\n" + Mark + "\n\nnew\n", ""},
		{"no mark", "head\n", "head\n", "has no line"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			checkError(t, PutInto(file, "new\n"), c.err)
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Errorf("document (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDescribeMachine(t *testing.T) {
	const cpu = "processor\t: 0\nmodel name\t: Fast: One\nflags\t\t: aes\n\nprocessor\t: 1\nmodel name\t: Fast: One\n"
	if got, want := describeMachine(cpu, "6.1.0\n"), "2 cores of Fast: One, Linux 6.1.0"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := describeMachine("", "6.1.0"), "0 cores of unknown processor, Linux 6.1.0"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestVersions(t *testing.T) {
	_, err := Versions(t.TempDir(), []string{NameNebula})
	checkError(t, err, "make bench-field builds it")
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "warren")); err != nil {
		t.Fatal(err)
	}
	got, err := Versions(dir, []string{NameBare, NameWarren})
	if err != nil || len(got) <= len("warren ") || got[:7] != "warren " {
		t.Errorf("on %s: %q, %v", runtime.GOOS, got, err)
	}
}
