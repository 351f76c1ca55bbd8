package main

import (
	"fmt"
	"os"
	"strings"
)

// publish prints the table of a part, or puts it into the document in place of the table behind the part's mark.
func (b *bench) publish(part, table string) error {
	if b.doc == "" {
		fmt.Print(table)
		return nil
	}
	text, err := os.ReadFile(b.doc)
	if err != nil {
		return err
	}
	mark := fmt.Sprintf("<!-- made by make bench-%s -->\n\n", part)
	before, after, ok := strings.Cut(string(text), mark)
	if !ok {
		return fmt.Errorf("%s has no line %q with an empty one after it to put the table behind", b.doc, strings.TrimSpace(mark))
	}
	for strings.HasPrefix(after, "|") {
		_, after, _ = strings.Cut(after, "\n")
	}
	return os.WriteFile(b.doc, []byte(before+mark+table+after), 0o644)
}
