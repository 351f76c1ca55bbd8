// Package config lets each flag of the daemon be set in three more ways: Fill gives those that the command line did not name the value of the
// environment's variable, or else of agent.toml. A flag --exit-node is the variable WARREN_EXIT_NODE and the setting exit-node of the file. The result
// tells where each value is from, so that whatever turns out to be wrong later can be told with its place.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"warren/internal/tomlfile"
)

// prefix begins the variables.
const prefix = "WARREN_"

// hidden marks a flag that --help does not show and that file and environment have all the same.
const hidden = "warren-config"

// Range is what a whole number may be, both ends included.
type Range struct{ Min, Max int }

func (r Range) String() string { return fmt.Sprintf("%d to %d", r.Min, r.Max) }

// Source is where values come from besides the command line.
type Source struct {
	// File is the path of agent.toml; empty: there is none. One that is Optional may be missing.
	File     string
	Optional bool
	// Environ is as os.Environ gives it.
	Environ []string
	// Except are flags that only the command line sets.
	Except []string
	// Ranges are those of whole numbers, by flag.
	Ranges map[string]Range
	// Wants say what a flag's value looks like in a file, where its type does not say it all.
	Wants map[string]string
}

// Filled tells where values are from.
type Filled struct {
	origin map[string]origin
	// Unknown are variables that look like settings and are none.
	Unknown []string
}

type kind int

// Where a value is from; the lesser goes before the greater.
const (
	fromFlag kind = iota + 1
	fromEnvironment
	fromFile
)

type origin struct {
	kind  kind
	place string
}

// Hide hides a flag from --help, and keeps it for file and environment: one whose value should not show in a list of processes.
func Hide(f *pflag.FlagSet, name string) {
	flag := f.Lookup(name)
	flag.Hidden = true
	flag.Annotations = map[string][]string{hidden: {}}
}

// Settings are the flags of f that file and environment may set, by name.
func (s Source) Settings(f *pflag.FlagSet) []*pflag.Flag {
	var out []*pflag.Flag
	f.VisitAll(func(flag *pflag.Flag) {
		_, kept := flag.Annotations[hidden]
		if (!flag.Hidden || kept) && !slices.Contains(s.Except, flag.Name) {
			out = append(out, flag)
		}
	})
	return out
}

// Variable is the name of a flag's variable.
func Variable(flag string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Fill sets flags of f that are not set yet; what it has set when it fails is of no use. The error of a file that cannot be read is an *fs.PathError.
func Fill(f *pflag.FlagSet, s Source) (*Filled, error) {
	settings := s.Settings(f)
	file, err := s.read(settings)
	if err != nil {
		return nil, err
	}
	filled := &Filled{origin: map[string]origin{}}
	environ := variables(s.Environ)
	values := map[string][]string{}
	for _, flag := range settings {
		variable := Variable(flag.Name)
		text, inEnvironment := environ[variable]
		delete(environ, variable)
		switch {
		case flag.Changed:
			filled.origin[flag.Name] = origin{fromFlag, "--" + flag.Name}
		case inEnvironment:
			if values[flag.Name], err = s.fromText(flag, text); err != nil {
				return nil, fmt.Errorf("%s: %w", variable, err)
			}
			filled.origin[flag.Name] = origin{fromEnvironment, variable}
		case file != nil && file.At(flag.Name) != "":
			values[flag.Name] = fromValue(file.Value(flag.Name))
			filled.origin[flag.Name] = origin{fromFile, file.At(flag.Name)}
		}
	}
	for _, flag := range settings {
		if v, ok := values[flag.Name]; ok {
			if err := set(flag, v); err != nil {
				return nil, fmt.Errorf("%s: %.60q: want %s", filled.Place(flag.Name), strings.Join(v, ","), s.want(flag))
			}
		}
	}
	for name := range environ {
		filled.Unknown = append(filled.Unknown, name)
	}
	slices.Sort(filled.Unknown)
	return filled, nil
}

// read reads the file, if there is one.
func (s Source) read(settings []*pflag.Flag) (*tomlfile.File, error) {
	if s.File == "" {
		return nil, nil
	}
	forms := map[string]tomlfile.Form{}
	for _, flag := range settings {
		forms[flag.Name] = s.form(flag)
	}
	file, err := tomlfile.Read(s.File, forms)
	if s.Optional && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return file, err
}

// variables are those that may be settings. One that is empty counts as not set: files for containers name variables that nobody has set.
func variables(environ []string) map[string]string {
	out := map[string]string{}
	for _, v := range environ {
		if name, text, _ := strings.Cut(v, "="); strings.HasPrefix(name, prefix) && text != "" {
			out[name] = text
		}
	}
	return out
}

func (s Source) form(flag *pflag.Flag) tomlfile.Form {
	want := s.want(flag)
	switch {
	case isList(flag):
		return tomlfile.Texts(want)
	case flag.Value.Type() == "bool":
		return tomlfile.Bool()
	case isNumber(flag):
		form := tomlfile.Whole(want)
		if r, ok := s.Ranges[flag.Name]; ok {
			fits := form.Fits
			form.Fits = func(v any) bool { return fits(v) && v.(int64) >= int64(r.Min) && v.(int64) <= int64(r.Max) }
		}
		return form
	}
	return tomlfile.Text(want)
}

// want says what a value must look like.
func (s Source) want(flag *pflag.Flag) string {
	if w := s.Wants[flag.Name]; w != "" {
		return w
	}
	what, _ := pflag.UnquoteUsage(flag)
	switch {
	case isList(flag):
		return fmt.Sprintf("a list of texts, such as [\"%s\"]", what)
	case flag.Value.Type() == "bool":
		return "true or false"
	case isNumber(flag):
		if r, ok := s.Ranges[flag.Name]; ok {
			return "a whole number, from " + r.String()
		}
		return "a whole number"
	}
	return "a text in quotes"
}

func isNumber(flag *pflag.Flag) bool {
	return strings.HasPrefix(flag.Value.Type(), "int") || strings.HasPrefix(flag.Value.Type(), "uint")
}

func isList(flag *pflag.Flag) bool {
	_, ok := flag.Value.(pflag.SliceValue)
	return ok
}

// fromText takes a variable apart: lists have commas.
func (s Source) fromText(flag *pflag.Flag, text string) ([]string, error) {
	if isList(flag) {
		parts := strings.Split(text, ",")
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
		}
		return parts, nil
	}
	if r, ok := s.Ranges[flag.Name]; ok {
		if n, err := strconv.Atoi(text); err != nil || n < r.Min || n > r.Max {
			return nil, fmt.Errorf("%.60q: want %s", text, s.want(flag))
		}
	}
	return []string{text}, nil
}

func fromValue(v any) []string {
	list, ok := v.([]any)
	if !ok {
		return []string{fmt.Sprint(v)}
	}
	out := []string{}
	for _, e := range list {
		out = append(out, fmt.Sprint(e))
	}
	return out
}

func set(flag *pflag.Flag, values []string) error {
	flag.Changed = true
	if list, ok := flag.Value.(pflag.SliceValue); ok {
		return list.Replace(values)
	}
	return flag.Value.Set(values[0])
}

// Origin tells a person where the value of a flag is from: --NAME, the variable, or FILE:LINE; empty for a default.
func (f *Filled) Origin(flag string) string { return f.origin[flag].place }

// First is which of two flags goes before the other by where they are from; empty if neither is set, or both in the same place.
func (f *Filled) First(a, b string) string {
	switch x, y := f.rank(a), f.rank(b); {
	case x < y:
		return a
	case x > y:
		return b
	}
	return ""
}

func (f *Filled) rank(flag string) kind { return cmp.Or(f.origin[flag].kind, fromFile+1) }

// Place names a flag's value by where it is from, as an error begins.
func (f *Filled) Place(flag string) string {
	switch o := f.origin[flag]; o.kind {
	case fromFile:
		return fmt.Sprintf("configuration %s: %s", o.place, flag)
	case fromEnvironment:
		return o.place
	}
	return "--" + flag
}

// Copy sets the flags of to, as far as it has them, that are set in from.
func Copy(to, from *pflag.FlagSet) error {
	var err error
	from.VisitAll(func(flag *pflag.Flag) {
		target := to.Lookup(flag.Name)
		if target == nil || !flag.Changed {
			return
		}
		values := []string{flag.Value.String()}
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		err = errors.Join(err, set(target, values))
	})
	return err
}
