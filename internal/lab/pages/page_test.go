package pages

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	const page = "# A page\n\n```console\ncoord$ sudo token create\nwrn1…\nlaptop$ sudo up TOKEN\n```\n\n    laptop$ not run\n\n```toml\n# server: /etc/a.toml\nname = \"x\"\n```\n\n```json\n{}\n```\n"
	got, err := Parse(page)
	want := []Step{
		{Host: "coord", Command: "sudo token create", Output: []string{"wrn1…"}, Line: 4}, {Host: "laptop", Command: "sudo up TOKEN", Line: 6},
		{Host: "server", File: "/etc/a.toml", Content: "# server: /etc/a.toml\nname = \"x\"\n", Line: 11},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	for _, bad := range []string{"```console\noutput\n```", "```console\nhost$ a\n", "```console\n$ a\n```"} {
		if steps, err := Parse(bad); err == nil {
			t.Errorf("%q: %v", bad, steps)
		}
	}
}

func TestShows(t *testing.T) {
	for _, test := range []struct {
		page   []string
		output string
		want   bool
	}{
		{nil, "anything\n", true}, {[]string{"a b"}, "a   b\n", true}, {[]string{"a b"}, "a   b\nc\n", false}, {[]string{"a b"}, "ab\n", false},
		{[]string{"a"}, "", false}, {[]string{"…"}, "", true}, {[]string{"…"}, "a\nb\n", true}, {[]string{"x is up: …"}, "x is up: 100.64.0.1\n", true},
		{[]string{"x is up: …"}, "y is up: 100.64.0.1\n", false}, {[]string{"a", "…"}, "a\nb\nc", true}, {[]string{"a", "…", "c"}, "a\nb\nb\nc\n", true},
		{[]string{"a", "…", "c"}, "a\nb\n", false}, {[]string{"…no grant…"}, "x: no grant in it\n", true}, {[]string{"(a.b)"}, "(axb)\n", false}, {[]string{"  a"}, "a\n", true},
	} {
		if got := (Step{Output: test.page}).Shows(test.output); got != test.want {
			t.Errorf("%q shows %q: %t", test.page, test.output, got)
		}
	}
}

func TestFails(t *testing.T) {
	for first, want := range map[string]bool{"": false, "warren: no": true, "warren-coordinator: no": true, "warren is up": false} {
		if got := (Step{Output: []string{first, "…"}}).Fails(); got != want {
			t.Errorf("%q fails: %t", first, got)
		}
	}
	if (Step{}).Fails() {
		t.Error("a command without output fails")
	}
}

func TestLines(t *testing.T) {
	got := Lines("sudo text\n\n    sudo a b   # c\n    output\n    $ warren why desk\n    desk: direct\n    warren: 3 checks failed\n")
	if diff := cmp.Diff([]Step{{Command: "sudo a b", Line: 3}, {Command: "warren why desk", Line: 5}}, got); diff != "" {
		t.Error(diff)
	}
}
