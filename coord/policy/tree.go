package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"
)

// value is a JSON value that knows its place.
type value struct {
	*hujson.Value
	part string
}

func (v value) at() Offset { return Offset(v.StartOffset) }

// reader holds what is known while a document is read.
type reader struct {
	*Policy
	problems  Problems
	selectors int
	prefixes  int
	targets   int               // of tests
	names     map[string]Offset // of grants
	posture   []string          // defaultSrcPosture
	flooded   bool
}

func (r *reader) problem(at Offset, part, fix, format string, args ...any) {
	if len(r.problems) >= maxProblems {
		r.flooded = true
		return
	}
	r.problems = append(r.problems, newProblem(r.Position(at), part, fmt.Sprintf(format, args...), fix))
}

// fail notes a fault of v.
func (r *reader) fail(v value, fix, format string, args ...any) {
	r.problem(v.at(), v.part, fix, format, args...)
}

func (r *reader) warn(v value, fix, format string, args ...any) {
	r.warnAt(v.at(), v.part, fix, format, args...)
}

func (r *reader) warnAt(at Offset, part, fix, format string, args ...any) {
	if len(r.Warnings) < maxProblems {
		r.Warnings = append(r.Warnings, newProblem(r.Position(at), part, fmt.Sprintf(format, args...), fix))
	}
}

// tree parses text, whose size is bounded.
func (r *reader) tree() (value, bool) {
	if at, ok := tooDeep(r.text); ok {
		r.problem(Offset(at), "", fmt.Sprintf("a policy nests at most %d deep", maxDepth), "nested too deep")
		return value{}, false
	}
	root, err := hujson.Parse(r.text)
	if err != nil { // the library wants a line's end behind a comment, where a text may end; errors keep the places of the text as it is
		if ended, againErr := hujson.Parse(append(slices.Clip(r.text), '\n')); againErr == nil {
			root, err = ended, nil
		}
	}
	if err == nil {
		return value{&root, ""}, true
	}
	// The library gives the place in the text of its error only.
	var line, column int
	msg := err.Error()
	if n, _ := fmt.Sscanf(msg, "hujson: line %d, column %d:", &line, &column); n == 2 {
		_, msg, _ = strings.Cut(msg, "column ")
		_, msg, _ = strings.Cut(msg, ": ")
	}
	at := 0
	if line >= 1 && line <= len(r.lines) {
		at = min(r.lines[line-1]+max(column-1, 0), len(r.text))
	}
	r.problem(Offset(at), "", "", "not HuJSON: %s", clip(msg, 200))
	return value{}, false
}

// tooDeep finds where brackets nest beyond maxDepth, before a recursive parser sees them.
func tooDeep(b []byte) (at int, deep bool) {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '/':
			i = skipComment(b, i)
		case '{', '[':
			if depth++; depth > maxDepth {
				return i, true
			}
		case '}', ']':
			depth--
		}
	}
	return 0, false
}

// skipComment gives the last byte of the comment that begins at i, if one does.
func skipComment(b []byte, i int) int {
	end := ""
	switch {
	case bytes.HasPrefix(b[i:], []byte("//")):
		end = "\n"
	case bytes.HasPrefix(b[i:], []byte("/*")):
		end = "*/"
	default:
		return i
	}
	n := bytes.Index(b[i+2:], []byte(end))
	if n < 0 {
		return len(b)
	}
	return i + 2 + n + len(end) - 1
}

// kindName is for error texts.
func kindName(v value) string {
	switch v.Value.Value.Kind() {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	}
	return "a number"
}

func (v value) isNull() bool { return v.Value.Value.Kind() == 'n' }

// member is a named value of an object.
type member struct {
	name string
	key  value
	value
}

// members gives the members of an object, without those that are null, and notes duplicates. Names of fixed fields are the same in any case,
// as they are for Go programs that read such files; names that people choose are not.
func (r *reader) members(v value, fixed bool) []member {
	o, ok := v.Value.Value.(*hujson.Object)
	if !ok {
		r.fail(v, "", "%s, where an object is expected", kindName(v))
		return nil
	}
	seen := make(map[string]Offset, len(o.Members))
	var out []member
	for i := range o.Members {
		m := &o.Members[i]
		name := m.Name.Value.(hujson.Literal).String()
		part := name
		if v.part != "" {
			part = v.part + "." + name
		}
		key := value{&m.Name, part}
		id := name
		if fixed {
			id = strings.ToLower(name)
		}
		if first, ok := seen[id]; ok {
			r.fail(key, "write each name once", "%s is here twice, first in line %d", quote(name), r.Position(first).Line)
			continue
		}
		seen[id] = key.at()
		if val := (value{&m.Value, part}); !val.isNull() {
			out = append(out, member{name, key, val})
		}
	}
	return out
}

// field is how a member with a fixed name is read.
type field struct {
	name string
	read func(value)
}

// object reads an object whose members are known, and tells whether v is an object.
func (r *reader) object(v value, fields ...field) bool {
	if v.Value.Value.Kind() != '{' {
		r.fail(v, "", "%s, where an object is expected", kindName(v))
		return false
	}
	for _, m := range r.members(v, true) {
		i := slices.IndexFunc(fields, func(f field) bool { return strings.EqualFold(f.name, m.name) })
		if i >= 0 {
			m.value.part = strings.TrimSuffix(m.value.part, m.name) + fields[i].name
			fields[i].read(m.value)
			continue
		}
		var names []string
		for _, f := range fields {
			names = append(names, f.name)
		}
		fix := didYouMean(m.name, "", slices.Values(names))
		if fix == "" {
			slices.Sort(names)
			fix = "known here: " + strings.Join(names, ", ")
		}
		r.fail(m.key, fix, "unknown part %s", quote(m.name))
	}
	return true
}

// list gives the elements of a list. A single value is not taken for a list of one: Tailscale does not either.
func (r *reader) list(v value) []value {
	a, ok := v.Value.Value.(*hujson.Array)
	if !ok {
		r.fail(v, "write [ … ]", "%s, where a list is expected", kindName(v))
		return nil
	}
	out := make([]value, len(a.Elements))
	for i := range a.Elements {
		out[i] = value{&a.Elements[i], v.part + "[" + strconv.Itoa(i) + "]"}
	}
	return out
}

// string gives a string.
func (r *reader) string(v value) (string, bool) {
	lit, ok := v.Value.Value.(hujson.Literal)
	if !ok || lit.Kind() != '"' {
		r.fail(v, "", "%s, where a string is expected", kindName(v))
		return "", false
	}
	return lit.String(), true
}

// strings gives a list of strings.
func (r *reader) strings(v value) (out []string, at []value) {
	for _, e := range r.list(v) {
		if s, ok := r.string(e); ok {
			out, at = append(out, s), append(at, e)
		}
	}
	return out, at
}

// scalar gives a string, number or boolean as text.
func (r *reader) scalar(v value) (string, bool) {
	lit, ok := v.Value.Value.(hujson.Literal)
	switch {
	case !ok || lit.Kind() == 'n':
		r.fail(v, "", "%s, where a string, a number, true or false is expected", kindName(v))
		return "", false
	case lit.Kind() == '"':
		return lit.String(), true
	}
	return json.Number(lit).String(), true
}
