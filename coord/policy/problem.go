package policy

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxProblems bounds how many problems are collected.
const maxProblems = 50

// Position is a place in the text; both count from 1, and Column counts characters.
type Position struct{ Line, Column int }

// Problem is one fault of a policy, or one thing that a person should know.
type Problem struct {
	Position
	Part string // the path to it, such as grants[3].src[0]
	What string
	// Fix is what would be right; it may be empty.
	Fix string
}

// Error is the problem in one line, without the file's name.
func (p Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:%d: ", p.Line, p.Column)
	if p.Part != "" {
		b.WriteString(p.Part + ": ")
	}
	b.WriteString(p.What)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

// Problems are all that was found, in the order of the text.
type Problems []Problem

// Error gives one line for each problem.
func (ps Problems) Error() string { return strings.TrimSuffix(ps.In(""), "\n") }

// In gives the problems, one a line, each after the name of the file.
func (ps Problems) In(file string) string {
	var b strings.Builder
	for _, p := range ps {
		if file != "" {
			b.WriteString(file + ":")
		}
		b.WriteString(p.Error() + "\n")
	}
	return b.String()
}

func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
}

// lineStarts gives the offset of each line.
func lineStarts(text []byte) []int {
	starts := []int{0}
	for i, c := range text {
		if c == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

func position(text []byte, lines []int, at int) Position {
	i, ok := slices.BinarySearch(lines, at)
	if !ok {
		i--
	}
	return Position{Line: i + 1, Column: utf8.RuneCount(text[lines[i]:at]) + 1}
}

// plain makes text from a document fit for a line of a terminal.
func plain(s string, most int) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, s)
	return clip(s, most)
}

func clip(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// newProblem makes one of text that may be hostile.
func newProblem(at Position, part, what, fix string) Problem {
	return Problem{at, plain(part, 200), plain(what, 800), plain(fix, 500)}
}

// quote shows a value from the text; hostile texts must not flood or confuse a terminal.
func quote(s string) string {
	return fmt.Sprintf("%q", clip(s, 80))
}
