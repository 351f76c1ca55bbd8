// Package pages types what pages of docs tell people to type, on the hosts that they name, in the lab. Parse takes a page apart; the tests run it.
package pages

import (
	"fmt"
	"regexp"
	"strings"
)

// Step is one thing that a page has people do on a host: to run a command, whose output looks as Output says, or to write a file.
type Step struct {
	Host    string
	Command string
	// Output has the lines that the page shows below the command: of its standard output, or of what it complains of if it Fails; … is any text, a line of … alone any lines, and none at all anything.
	Output []string
	// File is to be written with Content, if it is not empty.
	File, Content string
	// Line is where the step is in the page.
	Line int
}

var (
	prompt = regexp.MustCompile(`^([a-z][a-z0-9]*)\$ +(.+)$`)
	inFile = regexp.MustCompile(`^(?:#|//) ([a-z][a-z0-9]*): (\S+)$`)
)

// Parse gives the steps of a page: of blocks fenced as console the commands, and of other fenced blocks that begin with a comment HOST: PATH the file.
func Parse(page string) ([]Step, error) {
	var steps []Step
	lines := strings.Split(page, "\n")
	for i := 0; i < len(lines); i++ {
		kind, fenced := strings.CutPrefix(lines[i], "```")
		if !fenced {
			continue
		}
		begin := i + 1
		for i++; i < len(lines) && lines[i] != "```"; i++ {
		}
		if i == len(lines) {
			return nil, fmt.Errorf("line %d: a block that does not end", begin)
		}
		block := lines[begin:i]
		if kind == "console" {
			console, err := parseConsole(block, begin+1)
			if err != nil {
				return nil, err
			}
			steps = append(steps, console...)
			continue
		}
		if len(block) == 0 {
			continue
		}
		if m := inFile.FindStringSubmatch(block[0]); m != nil {
			steps = append(steps, Step{Host: m[1], File: m[2], Content: strings.Join(block, "\n") + "\n", Line: begin})
		}
	}
	return steps, nil
}

func parseConsole(block []string, line int) ([]Step, error) {
	var steps []Step
	for i, text := range block {
		if m := prompt.FindStringSubmatch(text); m != nil {
			steps = append(steps, Step{Host: m[1], Command: m[2], Line: line + i})
			continue
		}
		if len(steps) == 0 {
			return nil, fmt.Errorf("line %d: %q is output of no command; commands are written HOST$ COMMAND", line+i, text)
		}
		last := &steps[len(steps)-1]
		last.Output = append(last.Output, text)
	}
	return steps, nil
}

// Fails reports whether the page shows what a program of ours complains of.
func (s Step) Fails() bool {
	return len(s.Output) > 0 && (strings.HasPrefix(s.Output[0], "warren: ") || strings.HasPrefix(s.Output[0], "warren-coordinator: "))
}

// Shows reports whether output is what the page shows of it.
func (s Step) Shows(output string) bool {
	if len(s.Output) == 0 {
		return true
	}
	var b strings.Builder
	b.WriteString(`^`)
	for _, line := range s.Output {
		if strings.TrimSpace(line) == "…" {
			b.WriteString(`(?:.*\n)*`)
			continue
		}
		parts := strings.Split(strings.TrimSpace(line), "…")
		for i := range parts {
			parts[i] = regexp.MustCompile(`\s+`).ReplaceAllString(regexp.QuoteMeta(parts[i]), `\s+`)
		}
		b.WriteString(`\s*` + strings.Join(parts, `.*`) + `\s*?\n`)
	}
	b.WriteString(`$`)
	return regexp.MustCompile(b.String()).MatchString(strings.TrimRight(output, "\n") + "\n")
}

// typed is a command of ours, of a shell or of the system in an indented block, at its beginning or after a prompt.
var typed = regexp.MustCompile(`^    (?:\$ )?((?:sudo |warren |warren-coordinator |tar |sha256sum |podman |skopeo |make ).*)$`)

// Lines gives the commands of a page whose blocks are indented and name no hosts. Comments behind them are left out.
func Lines(page string) []Step {
	var steps []Step
	for i, text := range strings.Split(page, "\n") {
		if m := typed.FindStringSubmatch(text); m != nil {
			command, _, _ := strings.Cut(m[1], " # ")
			steps = append(steps, Step{Command: strings.TrimSpace(command), Line: i + 1})
		}
	}
	return steps
}
