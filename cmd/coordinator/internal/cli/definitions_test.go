package cli

import (
	"testing"

	"warren/internal/clidoc"
)

// TestPages: each command has a manual page, and each flag of its --help stands in it.
func TestPages(t *testing.T) {
	for _, what := range clidoc.Missing(Definitions()) {
		t.Errorf("no word of %s", what)
	}
}
