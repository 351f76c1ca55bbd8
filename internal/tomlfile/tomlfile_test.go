package tomlfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func forms() map[string]Form {
	return map[string]Form{
		"name": Text(`a name in quotes`), "urls": Texts(`a list of URLs`), "relay": Bool(), "rate": Whole("a whole number, from 0 to 9"),
		"max-age": Duration(`a duration in quotes, from "1h" to "2h"`),
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	path := write(t, "# first\nname = \"desk\"\n\n  'urls' = [\"https://a.example\"]\nrelay=false\n\"rate\" = 3\nmax-age = \"90m\"\n")
	f, err := Read(path, forms())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		value any
		at    string
	}{
		"name": {"desk", ":2"}, "urls": {[]any{"https://a.example"}, ":4"}, "relay": {false, ":5"}, "rate": {int64(3), ":6"}, "max-age": {"90m", ":7"},
	} {
		if diff := cmp.Diff(want.value, f.Value(name)); diff != "" || f.At(name) != path+want.at {
			t.Errorf("%s at %s: %s", name, f.At(name), diff)
		}
	}
	if f.At("nonesuch") != "" || f.Value("nonesuch") != nil {
		t.Errorf("what the file does not have is %v, at %s", f.Value("nonesuch"), f.At("nonesuch"))
	}
	var into struct {
		Name   string
		URLs   []string      `toml:"urls"`
		MaxAge time.Duration `toml:"max-age"`
		Kept   int
	}
	into.Kept = 7
	if err := f.Decode(&into); err != nil || into.Name != "desk" || into.URLs[0] != "https://a.example" || into.MaxAge != 90*time.Minute || into.Kept != 7 {
		t.Errorf("%+v, %v", into, err)
	}
	var wrong struct{ Name int }
	if err := f.Decode(&wrong); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("into a struct of other types: %v", err)
	}
}

// An error names the file, the line, and what is allowed.
func TestBadFiles(t *testing.T) {
	for text, want := range map[string]string{
		"relay = true\nnmae = \"x\"":                ":2: unknown setting nmae; there are max-age, name, rate, relay, urls",
		"\n[server]\nname = \"x\"":                  ":2: unknown setting server",
		"[[urls]]\na = 1":                           ":1: urls: want a list of URLs",
		"name.first = \"x\"":                        ":1: name: want a name in quotes",
		"name = 443":                                ":1: name: want a name in quotes, not 443",
		"urls = \"https://a.example\"":              ":1: urls: want a list of URLs",
		"urls = [\"https://a.example\", 1]":         ":1: urls: want a list of URLs",
		"relay = \"yes\"":                           `:1: relay: want true or false, not "yes"`,
		"rate = \"fast\"":                           ":1: rate: want a whole number, from 0 to 9",
		"# a\n\nrate = 1.5":                         ":3: rate: want a whole number, from 0 to 9, not 1.5",
		"max-age = \"a month\"":                     ":1: max-age: want a duration in quotes",
		"max-age = 3600":                            ":1: max-age: want a duration in quotes",
		"relay = true\nname = ":                     ":2: ",
		"name = \"a\"\nname = \"b\"":                "name",
		"name = \"\xff\"":                           ":1: ",
		"\x00":                                      ":1: ",
		"rate = 99999999999999999999":               ":1: ",
		strings.Repeat("#", maxSize+1):              "more than 1048576 bytes",
		"\"" + strings.Repeat("long", 999) + "\"=1": "unknown setting longlonglonglonglonglonglonglonglonglonglonglonglonglonglong; there",
	} {
		path := write(t, text)
		if f, err := Read(path, forms()); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, %v, want it to name %s and %q", text, f, err, path, want)
		}
	}
	if _, err := Read("/does/not/exist", forms()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	var unreadable *fs.PathError
	if _, err := Read(t.TempDir(), forms()); !errors.As(err, &unreadable) {
		t.Errorf("a directory: %v", err)
	}
}

// FuzzRead: whatever is in a file, it is read whole with right types, or refused with the file's name.
func FuzzRead(f *testing.F) {
	for _, s := range []string{"name = \"a\"", "urls = []", "[a]\nb=1", "rate = 0x1F", "name = \"\"\"\nrate = 1\n\"\"\"", "a.b.c = {}"} {
		f.Add(s)
	}
	path := filepath.Join(f.TempDir(), "fuzz.toml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := Read(path, forms())
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		for name, v := range file.values {
			if form, ok := forms()[name]; !ok || !form.Fits(v) || !strings.HasPrefix(file.At(name), path) {
				t.Errorf("%q: %s = %v at %q", text, name, v, file.At(name))
			}
		}
	})
}
