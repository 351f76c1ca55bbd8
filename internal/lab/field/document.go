package field

import (
	"fmt"
	"os"
	"strings"
)

// Mark is the line of a document behind which the tables stand.
const Mark = "<!-- made by make bench-field -->"

// PutInto replaces all that stands behind the mark of a document, to its end.
func PutInto(document, tables string) error {
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, _, ok := strings.Cut(string(text), Mark)
	if !ok {
		return fmt.Errorf("%s has no line %q to put the tables behind", document, Mark)
	}
	return os.WriteFile(document, []byte(before+Mark+"\n\n"+tables), 0o644)
}
