package cli

import (
	"os"
	"path/filepath"
	"testing"

	"warren/internal/flagdoc"
)

// TestFlagsAreTold: docs/operations.md names every command and every flag that --help shows.
func TestFlagsAreTold(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range flagdoc.Missing((&app{}).root(), page) {
		t.Errorf("no word of %s", what)
	}
}

// TestCommandsOfThePages: each command line that README or a page of docs shows is one that this program takes.
func TestCommandsOfThePages(t *testing.T) {
	pages, err := filepath.Glob("../../../../docs/*.md")
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, page := range append(pages, "../../../../README.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, what := range flagdoc.Misused(Definitions, b) {
			t.Errorf("%s: %s", filepath.Base(page), what)
		}
	}
}
