// Package tomlfile reads configuration files of one kind: TOML, each setting a value at the top, no tables. Read parses the whole file before anything
// is taken from it; its errors name file, line, setting and what is allowed.
package tomlfile

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Form is what the value of a setting looks like.
type Form struct {
	// Fits tells whether a value, as toml.Decode gives it into an any, has the right type.
	Fits func(any) bool
	// Want says so to a person, after "want", with the range.
	Want string
}

// Text is the form of a text. Ranges, here and below, are for the caller to check.
func Text(want string) Form { return Form{isText, want} }

// Texts is the form of a list of texts.
func Texts(want string) Form { return Form{isTexts, want} }

// Bool is the form of true and false.
func Bool() Form { return Form{isBool, "true or false"} }

// Whole is the form of a whole number.
func Whole(want string) Form { return Form{isWhole, want} }

// Duration is the form of a text that time.ParseDuration reads.
func Duration(want string) Form { return Form{isDuration, want} }

func isText(v any) bool { _, ok := v.(string); return ok }

func isWhole(v any) bool { _, ok := v.(int64); return ok }

func isBool(v any) bool { _, ok := v.(bool); return ok }

func isTexts(v any) bool {
	list, ok := v.([]any)
	return ok && !slices.ContainsFunc(list, func(v any) bool { return !isText(v) })
}

func isDuration(v any) bool {
	text, ok := v.(string)
	_, err := time.ParseDuration(text)
	return ok && err == nil
}

// File is a file whose settings all have their form.
type File struct {
	path, text string
	values     map[string]any
	at         map[string]string
}

// maxSize is more than any configuration has, in bytes.
const maxSize = 1 << 20

// Read reads a file. The error of one that cannot be read is an *fs.PathError; any other names file, line, setting and what is allowed.
func Read(path string, forms map[string]Form) (*File, error) {
	text, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	f := &File{path: path, text: text, values: map[string]any{}, at: map[string]string{}}
	meta, err := toml.Decode(text, &f.values)
	var parse toml.ParseError
	switch {
	case errors.As(err, &parse):
		return nil, fmt.Errorf("configuration %s:%d: %s", path, max(parse.Position.Line, 1), parse.Message)
	case err != nil:
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	for _, k := range meta.Keys() {
		name := k[0]
		at := f.place(name)
		form, known := forms[name]
		if !known {
			return nil, fmt.Errorf("configuration %s: unknown setting %.60s; there are %s", at, name, strings.Join(slices.Sorted(maps.Keys(forms)), ", "))
		}
		if !form.Fits(f.values[name]) {
			return nil, fmt.Errorf("configuration %s: %s: want %s%s", at, name, form.Want, found(f.values[name]))
		}
		f.at[name] = at
	}
	return f, nil
}

// found ends an error by the value that is there, where it is a short one.
func found(v any) string {
	switch v.(type) {
	case string:
		return fmt.Sprintf(", not %.60q", v)
	case bool, int64, float64:
		return fmt.Sprintf(", not %v", v)
	}
	return ""
}

func read(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(b) > maxSize {
		err = fmt.Errorf("%s: more than %d bytes", path, maxSize)
	}
	return string(b), err
}

// place is FILE:LINE of a setting or table.
func (f *File) place(name string) string {
	at := regexp.MustCompile(`(?m)^[ \t]*\[*[ \t]*["']?` + regexp.QuoteMeta(name) + `["']?[ \t]*[=.\]]`).FindStringIndex(f.text)
	if at == nil {
		return f.path
	}
	return fmt.Sprintf("%s:%d", f.path, strings.Count(f.text[:at[0]], "\n")+1)
}

// At is FILE:LINE of a setting; empty if the file does not have it.
func (f *File) At(name string) string { return f.at[name] }

// Value is a setting as toml.Decode gives it into an any: string, int64, bool, []any; nil if the file does not have it.
func (f *File) Value(name string) any { return f.values[name] }

// Decode puts all settings into the fields of a struct that have their names as tags.
func (f *File) Decode(into any) error {
	if _, err := toml.Decode(f.text, into); err != nil {
		return fmt.Errorf("configuration %s: %w", f.path, err)
	}
	return nil
}
