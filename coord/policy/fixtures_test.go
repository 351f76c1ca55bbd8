package policy

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what the fixtures give")

// golden compares with the file beside a fixture.
func golden(t *testing.T, fixture, got string) {
	t.Helper()
	name := strings.TrimSuffix(fixture, ".hujson") + ".want"
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Error(d)
	}
}

func fixtures(t *testing.T, folder string, least int) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/" + folder + "/*.hujson")
	if err != nil || len(files) < least {
		t.Fatalf("%d fixtures in %s, want %d: %v", len(files), folder, least, err)
	}
	return files
}

// TestGood reads policies that are right: what they mean, and of what they are warned, stands beside each.
func TestGood(t *testing.T) {
	for _, file := range fixtures(t, "good", 22) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".hujson"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			errs, warnings := p.Check(Names{})
			golden(t, file, p.dump()+"\nwarnings:\n"+p.Warnings.In("")+"\nwhere nobody is known:\n"+errs.In("")+warnings.In(""))
		})
	}
}

// TestBad reads policies with faults of each kind.
func TestBad(t *testing.T) {
	for _, file := range fixtures(t, "bad", 25) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".hujson"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Parse(text)
			ps, ok := errors.AsType[Problems](err)
			if !ok || p != nil {
				t.Fatalf("parsed: %v, %v", p != nil, err)
			}
			golden(t, file, ps.In("policy.hujson"))
		})
	}
}

// dump writes out what a policy means.
func (p *Policy) dump() string {
	var b strings.Builder
	section := func(name string, lines []string) {
		slices.Sort(lines)
		for i, l := range lines {
			if i == 0 {
				fmt.Fprintf(&b, "%s:\n", name)
			}
			b.WriteString("  " + l + "\n")
		}
	}
	var lines []string
	for name, g := range p.Groups {
		lines = append(lines, fmt.Sprintf("%s = %q, of sign-in %q", name, g.Users, g.Foreign))
	}
	section("groups", lines)
	lines = nil
	for name, by := range p.TagOwners {
		lines = append(lines, fmt.Sprintf("%s by %s", name, describe(by)))
	}
	section("tag owners", lines)
	for _, g := range p.Grants {
		fmt.Fprintf(&b, "%s: %s > %s on %v", g.ID, describe(g.Src), describe(g.Dst), g.Flows)
		if g.Via != nil {
			fmt.Fprintf(&b, " via %v", g.Via)
		}
		if g.Postures != nil {
			fmt.Fprintf(&b, " if %v", g.Postures)
		}
		if g.Schedule != nil {
			for _, w := range g.Schedule.Windows {
				fmt.Fprintf(&b, " when %v %d-%d %s", w.Days, w.From, w.To, w.Zone)
			}
			if !g.Schedule.Until.IsZero() {
				fmt.Fprintf(&b, " until %s", g.Schedule.Until.UTC().Format(time.RFC3339))
			}
		}
		b.WriteString("\n")
	}
	p.dumpRest(&b, section)
	return b.String()
}

func (p *Policy) dumpRest(b *strings.Builder, section func(string, []string)) {
	var lines []string
	for name, posture := range p.Postures {
		for _, c := range posture.Conditions {
			lines = append(lines, fmt.Sprintf("%s: %q %q %q", name, c.Fact, c.Op, c.Values))
		}
	}
	section("postures", lines)
	lines = nil
	for _, a := range p.Approvers {
		lines = append(lines, fmt.Sprintf("%s by %s", a.Route, describe(a.By)))
	}
	if p.ExitApprover != nil {
		lines = append(lines, "exit nodes by "+describe(p.ExitApprover))
	}
	section("approved", lines)
	lines = nil
	for _, a := range p.NodeAttrs {
		lines = append(lines, fmt.Sprintf("%s: %q", describe(a.Target), a.Attrs))
	}
	section("attributes", lines)
	for _, t := range p.Tests {
		fmt.Fprintf(b, "%s: %s with %v", t.ID, describe([]Selector{t.Src}), t.Facts)
		for _, a := range t.Accept {
			fmt.Fprintf(b, ", must reach %s on %v", describe([]Selector{a.Dst}), a.Flows)
		}
		for _, a := range t.Deny {
			fmt.Fprintf(b, ", must not reach %s on %v", describe([]Selector{a.Dst}), a.Flows)
		}
		b.WriteString("\n")
	}
}

func describe(list []Selector) string {
	kinds := []string{"any", "user", "group", "tag", "addresses", "members", "tagged", "admins", "self", "internet"}
	var out []string
	for _, s := range list {
		text := kinds[s.Kind]
		if s.Name != "" {
			text += " " + s.Name
		}
		if n := len(s.Prefixes); n > 12 {
			text += fmt.Sprintf(" %v and %d more", s.Prefixes[:3], n-3)
		} else if n > 0 {
			text += fmt.Sprintf(" %v", s.Prefixes)
		}
		out = append(out, text)
	}
	return strings.Join(out, " + ")
}

// seeds gives the texts of fixtures.
func seeds(f *testing.F, folder string) (out [][]byte) {
	files, err := filepath.Glob("testdata/" + folder + "/*.hujson")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		out = append(out, text)
	}
	return out
}
