package runlog

import (
	"bytes"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLevels(t *testing.T) {
	for _, name := range Levels() {
		l, err := ParseLevel(name)
		if err != nil || LevelName(l) != name {
			t.Errorf("%s: %v, %v, %s", name, l, err, LevelName(l))
		}
	}
	for _, bad := range []string{"", "INFO", "info+1", "warning", "4", strings.Repeat("x", 1000)} {
		if l, err := ParseLevel(bad); err == nil || len(err.Error()) > 120 || !strings.Contains(err.Error(), "debug, info, warn, error") {
			t.Errorf("%.10q: %v, %v", bad, l, err)
		}
	}
}

// TestLevelChanges: what is written follows the level, that of loggers made from the first one too, and every change stands in the log.
func TestLevelChanges(t *testing.T) {
	var out bytes.Buffer
	l := Open(&out, slog.LevelInfo)
	part := l.With("part", "nat")
	say := func() { part.Debug("quiet"); part.Warn("loud") }
	say()
	for _, to := range []string{"debug", "error", "", "error", "warn"} {
		if got, err := Change(l.Level, l.Logger, to); err != nil || to != "" && got != to {
			t.Errorf("%q: %q, %v", to, got, err)
		}
		say()
	}
	if _, err := Change(l.Level, l.Logger, "all"); err == nil || l.Level.Level() != slog.LevelWarn {
		t.Errorf("a level that is none: %v, and it is %v now", err, l.Level)
	}
	want := []string{
		`level=WARN msg=loud part=nat`,
		`level=INFO msg="log level changed" from=info to=debug`, `level=DEBUG msg=quiet part=nat`, `level=WARN msg=loud part=nat`,
		`level=INFO msg="log level changed" from=debug to=error`,
		`level=INFO msg="log level changed" from=error to=warn`, `level=WARN msg=loud part=nat`,
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		got = append(got, rest)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if out.String() != string(l.Recent.Bytes()) {
		t.Errorf("recent: %s", l.Recent.Bytes())
	}
}

// TestJournal: each line begins with the priority of its level, has no time of its own, and keeps its fields; those that are remembered have times.
func TestJournal(t *testing.T) {
	var out bytes.Buffer
	l := open(&out, slog.LevelDebug, true)
	part := l.With("peer", "desk").WithGroup("path")
	part.Debug("a", "mtu", 1420)
	part.Info("b", "time", "noon")
	part.Warn("c\n<0>forged", "x", "y\nz")
	part.Error("d")
	part.Log(t.Context(), slog.LevelWarn+2, "e")
	l.Level.Set(slog.LevelError)
	part.Warn("not this")
	const want = `<7>level=DEBUG msg=a peer=desk path.mtu=1420
<6>level=INFO msg=b peer=desk path.time=noon
<4>level=WARN msg="c\n<0>forged" peer=desk path.x="y\nz"
<3>level=ERROR msg=d peer=desk
<4>level=WARN+2 msg=e peer=desk
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	recent := regexp.MustCompile(`(?m)^time=\S+ `).ReplaceAll(l.Recent.Bytes(), nil)
	if diff := cmp.Diff(regexp.MustCompile(`(?m)^<\d>`).ReplaceAllString(want, ""), string(recent)); diff != "" {
		t.Error(diff)
	}
}

// TestRecentIsBounded: the newest lines are kept, whole ones where they are not too long.
func TestRecentIsBounded(t *testing.T) {
	r := new(Recent)
	long := append(bytes.Repeat([]byte("x"), 2*maxLine), '\n')
	for i := range 5000 {
		fmt.Fprintf(r, "line %d %s\n", i, strings.Repeat("y", i%200))
		if i%100 == 0 {
			if n, err := r.Write(long); n != len(long) || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	got := r.Bytes()
	if len(got) > maxRecent || len(got) < maxRecent-2*maxLine {
		t.Errorf("%d bytes are kept, of %d", len(got), maxRecent)
	}
	if !bytes.HasSuffix(got, []byte("line 4999 "+strings.Repeat("y", 4999%200)+"\n")) {
		t.Error("the newest line is not the last")
	}
	for line := range bytes.Lines(got) {
		if len(line) > maxLine || !bytes.HasPrefix(line, []byte("line ")) && !bytes.HasSuffix(line, []byte("x…\n")) {
			t.Fatalf("%d bytes: %.40q", len(line), line)
		}
	}
}
