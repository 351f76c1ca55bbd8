package flagdoc

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
)

// Check fails a test for each command and flag of a program of which docs/operations.md has no word, and for each of its command lines in README.md and docs
// that it would not take. top is the repository's directory; fresh gives the program's definitions.
func Check(t testing.TB, top string, fresh func() *cobra.Command) {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	docs := filepath.Join(top, "docs")
	for _, what := range Missing(fresh(), read(filepath.Join(docs, "operations.md"))) {
		t.Errorf("docs/operations.md: no word of %s", what)
	}
	pages, err := filepath.Glob(filepath.Join(docs, "*.md"))
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages in %s, %v", len(pages), docs, err)
	}
	for _, page := range append(pages, filepath.Join(top, "README.md")) {
		for _, what := range Misused(fresh, read(page)) {
			t.Errorf("%s: %s", filepath.Base(page), what)
		}
	}
}
