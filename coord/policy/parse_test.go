package policy

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// problemsOf parses a text that is wrong.
func problemsOf(t *testing.T, text string) Problems {
	t.Helper()
	p, err := Parse([]byte(text))
	ps, ok := errors.AsType[Problems](err)
	if !ok || len(ps) == 0 || p != nil {
		t.Fatalf("%.100s: parsed: %v, %.500v", text, p != nil, err)
	}
	return ps
}

// TestBounds gives policies that are too large in each way. What counts besides the message is that it comes at all.
func TestBounds(t *testing.T) {
	many := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	deepGroups := many(maxGroupPath+5, `"group:g%d": ["group:x"],`)
	for i := range maxGroupPath + 5 {
		deepGroups = strings.Replace(deepGroups, `"group:x"`, fmt.Sprintf(`"group:g%d"`, i+1), 1)
	}
	var doubling strings.Builder // each group holds the one before, and users of its own
	for i := range 60 {
		fmt.Fprintf(&doubling, `"group:g%d": ["group:g%d", %s],`, i, i-1, many(200, fmt.Sprintf(`"u%d-%%d",`, i)))
	}
	for name, c := range map[string]struct{ text, want string }{
		"10 MB":           {`{"hosts": {` + strings.Repeat(" ", 10<<20) + `}}`, "10485773 bytes, more than 4194304"},
		"deep":            {strings.Repeat("[", 1<<20), "nested too deep"},
		"deep objects":    {strings.Repeat(`{"a":`, 1<<19), "nested too deep"},
		"deep in strings": {`{"` + strings.Repeat("[", 1000) + `": 1}`, "unknown part"},
		"deep comments":   {`{/*` + strings.Repeat("[", 1000) + "*/ //" + strings.Repeat("{", 1000) + "\n\"a\": 1}", "unknown part"},
		"open comment":    {`{/* [[[`, "not HuJSON"},
		"open string":     {`{"\`, "not HuJSON"},
		"grants":          {`{"grants": [` + many(MaxGrants+1, `{"src":["u%d"],"dst":["*"],"ip":["*"]},`) + `]}`, "more than 4096 grants"},
		"selectors":       {`{"grants": [{"src": [` + many(MaxSelectors+1, `"u%d",`) + `], "dst": ["*"], "ip": ["*"]}]}`, "more than 200000 selectors"},
		"group members":   {`{"groups": {"group:a": [` + many(MaxSelectors+1, `"u%d",`) + `]}}`, "more than 200000 selectors"},
		"nested groups":   {`{"groups": {` + deepGroups + `}}`, "nest more than 64 deep"},
		"doubling groups": {`{"groups": {` + doubling.String() + `}}`, "name more than 200000 users"},
		"prefixes":        {`{"ipsets": {"ipset:a": [` + many(MaxPrefixes+1, `"10.0.0.%d",`) + `]}}`, "not an address"},
		"doubled sets":    {`{"ipsets": {"ipset:a": ["autogroup:internet"], ` + many(1000, `"ipset:s%d": ["ipset:a", "10.0.0.0/8"],`) + `}}`, "more than 100000 prefixes"},
		"tests":           {`{"tests": [{"src": "ann", "deny": [` + many(maxTargets+1, `"tag:t%d:80",`) + `]}]}`, "more than 10000 destinations"},
		"long name":       {`{"groups": {"group:` + strings.Repeat("x", 300) + `": []}}`, "at most 256 bytes"},
		"long user":       {`{"groups": {"group:a": ["` + strings.Repeat("x", 300) + `"]}}`, "at most 256 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			ps := problemsOf(t, c.text)
			if !strings.Contains(ps.Error(), c.want) {
				t.Errorf("%.300s\ndoes not say %q", ps.Error(), c.want)
			}
			if len(ps.Error()) > 40_000 {
				t.Errorf("the problems have %d bytes", len(ps.Error()))
			}
		})
	}
}

// TestLarge reads a policy that is near the bound on its size.
func TestLarge(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`{"groups": {"group:all": [`)
	for i := 0; b.Len() < MaxSize-100_000; i++ {
		fmt.Fprintf(&b, "\"%s%d@\",\n", strings.Repeat("x", 20), i)
	}
	b.WriteString(`]}, "grants": [{"src": ["group:all"], "dst": ["tag:web"], "ip": ["443"]}]}`)
	p, err := Parse(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(p.Groups["all"].Users); n < 100_000 {
		t.Errorf("%d users", n)
	}
	if _, warnings := p.Check(Names{}); len(warnings) != maxProblems {
		t.Errorf("%d warnings", len(warnings))
	}
}

func TestByteOrderMark(t *testing.T) {
	p, err := Parse([]byte("\ufeff{\"acls\": []}"))
	if err != nil || len(p.Warnings) != 1 || p.Warnings[0].Position != (Position{1, 1}) {
		t.Errorf("parsed: %v, %v", p != nil, err)
	}
}

// TestEndsInComment: a text may end without a line's end; one that ends within a comment is told of where it is.
func TestEndsInComment(t *testing.T) {
	for text, ok := range map[string]bool{"{\"grants\": []} // end": true, "{\"grants\": []} /* end */": true, "{\"grants\": []}\n/* end": false, "{\"grants\": [] // end": false} {
		p, err := Parse([]byte(text))
		if (err == nil) != ok || (p != nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestFirstTexts holds that what Warren writes by itself is right.
func TestFirstTexts(t *testing.T) {
	for name, text := range map[string][]byte{
		"starter": Starter(nil), "starter for some": Starter(nil, "bob", "ann@example.org", "a\"b\n", "with space"), "built-in": BuiltIn(),
	} {
		p, err := Parse(text)
		if err != nil || len(p.Warnings) > 0 {
			t.Errorf("%s: %v\n%s", name, err, text)
			continue
		}
		if errs, _ := p.Check(Names{}); len(errs) > 0 {
			t.Errorf("%s: %v", name, errs)
		}
		if want := []string{"ann@example.org", "bob", "with space"}; name == "starter for some" && !slices.Equal(p.Groups["admins"].Users, want) {
			t.Errorf("administrators are %q", p.Groups["admins"].Users)
		}
	}
	// What stands in comments of the starter is right too.
	text := strings.NewReplacer("// {\n", "{\n", "// }", "}", "// \t", "\t", "// \"", "\"", "// {\"src", "{\"src").Replace(string(Starter(nil, "ann")))
	p, err := Parse([]byte(text))
	if err != nil || len(p.Grants) != 6 || len(p.Tests) != 1 || len(p.Hosts) != 1 || len(p.TagOwners) != 2 || len(p.Approvers) != 1 ||
		len(p.ExitApprover) != 1 {
		t.Errorf("with its examples: %v\n%s", err, text)
	}
}

func TestCheck(t *testing.T) {
	p, err := Parse([]byte(`{
	"groups": {"group:eng": ["ann", "bbo"]},
	"hosts": {"printer": "10.0.0.1", "ann": "10.0.0.2"},
	"tagOwners": {"tag:db": []},
	"grants": [
		{"src": ["group:eng", "group:egn", "group:idp"], "dst": ["tag:web", "tag:wbe", "tag:db"], "ip": ["443"]},
		{"src": ["prnter", "ann@", "bbo"], "dst": ["tag:web"], "ip": ["443"]},
	],
}`))
	if err == nil { // "ann" is a host in this policy
		t.Fatal(p.Groups)
	}
	text := strings.Replace(string(`{
	"groups": {"group:eng": ["ann@", "bbo"]},
	"hosts": {"printer": "10.0.0.1", "ann": "10.0.0.2"},
	"tagOwners": {"tag:db": []},
	"grants": [
		{"src": ["group:eng", "group:egn", "group:idp"], "dst": ["tag:web", "tag:wbe", "tag:db"], "ip": ["443"]},
		{"src": ["prnter", "ann@", "bbo"], "dst": ["tag:web"], "ip": ["443"]},
	],
}`), "\t", " ", -1)
	if p, err = Parse([]byte(text)); err != nil {
		t.Fatal(err)
	}
	errs, warnings := p.Check(Names{
		Users: map[string]bool{"ann": true, "bob": true}, Groups: map[string]bool{"idp": true}, Tags: map[string]bool{"web": true},
	})
	want := `6:25: grants[0].src[1]: group "group:egn" is defined neither in groups nor by sign-in; did you mean "group:eng"?`
	if got := errs.Error(); got != want {
		t.Errorf("errors:\n%s", got)
	}
	want = `2:35: groups.group:eng[1]: there is no user "bbo", nor a host of that name; did you mean "bob"?
3:35: hosts.ann: "ann" is a user too: alone it means the host; write "ann@" for the user
6:71: grants[0].dst[1]: no device has "tag:wbe", and it is not in tagOwners; did you mean "tag:web"?
7:12: grants[1].src[0]: there is no user "prnter", nor a host of that name; did you mean "printer"?`
	if got := warnings.Error(); got != want {
		t.Errorf("warnings:\n%s", got)
	}
}

func TestNearest(t *testing.T) {
	names := slices.Values([]string{"grants", "groups", "hosts", "tests", "acls", "a"})
	for s, want := range map[string]string{
		"grant": "grants", "Grants": "grants", "gruops": "groups", "tset": "", "tess": "tests", "acl": "acls", "firewall": "", "b": "", "": "", "hots": "hosts",
		strings.Repeat("grants", 50): "",
	} {
		if got := nearest(s, names); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

// FuzzParse holds that whatever the text, problems are short, printable and have a place in it, and that what parses has a meaning.
func FuzzParse(f *testing.F) {
	for _, folder := range []string{"good", "bad"} {
		for _, text := range seeds(f, folder) {
			f.Add(text)
		}
	}
	f.Add(Starter(nil, "ann"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err != nil {
			ps, ok := errors.AsType[Problems](err)
			if !ok || p != nil || len(ps) == 0 || len(ps) > maxProblems+1 {
				t.Fatalf("parsed: %v, %.500v", p != nil, err)
			}
			checkProblems(t, text, ps)
			return
		}
		checkProblems(t, text, p.Warnings)
		errs, warnings := p.Check(Names{Users: map[string]bool{"ann": true}})
		checkProblems(t, text, errs)
		checkProblems(t, text, warnings)
		for _, g := range p.Grants {
			if g.ID == "" || len(g.Flows) == 0 || len(g.Src) == 0 || len(g.Dst) == 0 || !slices.Equal(g.Flows, NormalFlows(g.Flows)) {
				t.Fatalf("grant %+v", g)
			}
			for _, s := range append(slices.Clone(g.Src), g.Dst...) {
				if s.Kind == ByAddress && !slices.IsSortedFunc(s.Prefixes, netip.Prefix.Compare) {
					t.Fatalf("selector %+v", s)
				}
			}
		}
	})
}

func checkProblems(t *testing.T, text []byte, ps Problems) {
	t.Helper()
	for _, p := range ps {
		line := p.Error()
		if p.Line < 1 || p.Line > bytes.Count(text, []byte("\n"))+1 || p.Column < 1 || p.Column > len(text)+1 || p.What == "" {
			t.Fatalf("problem %+v", p)
		}
		if len(line) > 2000 || !utf8.ValidString(line) || strings.ContainsFunc(line, func(c rune) bool { return !unicode.IsPrint(c) }) {
			t.Fatalf("problem %q", line)
		}
	}
}

// BenchmarkParse reads a policy of 1,000 grants.
func BenchmarkParse(b *testing.B) {
	var text bytes.Buffer
	text.WriteString(`{"grants": [`)
	for i := range 1000 {
		fmt.Fprintf(&text, `{"src": ["group:g%d", "u%d@"], "dst": ["tag:t%d", "10.%d.0.0/16"], "ip": ["tcp:443", "80-90"]},`, i%50, i, i%70, i%256)
	}
	text.WriteString(`]}`)
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		if _, err := Parse(text.Bytes()); err != nil {
			b.Fatal(err)
		}
	}
}
