package cli

import (
	"testing"

	"warren/internal/flagdoc"
)

// TestDocs: docs/operations.md tells of every command and flag, and each command line that a page shows is one that this program takes.
func TestDocs(t *testing.T) { flagdoc.Check(t, "../../../..", Definitions) }
