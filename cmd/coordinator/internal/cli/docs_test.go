package cli

import (
	"os"
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
