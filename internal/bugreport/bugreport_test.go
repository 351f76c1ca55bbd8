package bugreport

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// unpack gives the files of a report.
func unpack(t *testing.T, b []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for archive := tar.NewReader(z); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil || h.Mode != 0o600 {
			t.Fatalf("%s: mode %o, %v", h.Name, h.Mode, err)
		}
		out[strings.TrimPrefix(h.Name, "report/")] = string(content)
	}
}

func write(t *testing.T, r *Redactor, sources ...Source) map[string]string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(t.Context(), &b, r, time.Unix(0, 0), sources); err != nil {
		t.Fatal(err)
	}
	return unpack(t, b.Bytes())
}

// TestWrite: whatever a source does, the report has a file for it.
func TestWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, release := time.Now(), make(chan struct{})
		defer close(release)
		got := write(t, NewRedactor(false),
			Text("good.txt", "fine\n"),
			Source{Name: "bad.txt", Collect: func(context.Context) ([]byte, error) { return []byte("half\n"), errors.New("broke") }},
			Source{Name: "panics.txt", Collect: func(context.Context) ([]byte, error) { panic("aua") }},
			Source{Name: "slow.txt", Collect: func(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }, Patience: time.Second},
			Source{Name: "stuck.txt", Collect: func(context.Context) ([]byte, error) { <-release; return nil, nil }},
		)
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("it took %s", took)
		}
		for name, want := range map[string]string{
			"good.txt": "fine\n", "bad.txt": "half\ncould not be had: broke\n", "panics.txt": "could not be had: aua\n",
			"slow.txt": "could not be had: ", "stuck.txt": "could not be had: no answer within 10s\n",
		} {
			if !strings.HasPrefix(got[name], want) {
				t.Errorf("%s: %.80q, want %q", name, got[name], want)
			}
		}
		if len(got) != 5 {
			t.Errorf("%d files", len(got))
		}
	})
}

// TestSizeIsBounded: of too much the beginning is kept, of a log the end, in whole lines.
func TestSizeIsBounded(t *testing.T) {
	var lines bytes.Buffer
	for i := 0; lines.Len() < 3*maxRaw; i++ {
		fmt.Fprintf(&lines, "line %d\n", i)
	}
	all := func(context.Context) ([]byte, error) { return lines.Bytes(), nil }
	got := write(t, NewRedactor(false), Source{Name: "first", Collect: all}, Source{Name: "last", Collect: all, Newest: true},
		Source{Name: "one line", Collect: func(context.Context) ([]byte, error) { return bytes.Repeat([]byte("x"), 2*maxRaw), nil }})
	for name, b := range got {
		if len(b) > MaxFile || len(b) < MaxFile-100 {
			t.Errorf("%s: %d bytes", name, len(b))
		}
	}
	if !strings.HasPrefix(got["first"], "line 0\nline 1\n") || !strings.HasSuffix(got["first"], "\n[cut here]\n") {
		t.Errorf("first: %.20q…", got["first"])
	}
	tail := lines.Bytes()[lines.Len()-40:]
	if !strings.HasPrefix(got["last"], "[cut here]\nline ") || !strings.HasSuffix(got["last"], string(tail)) {
		t.Errorf("last: %.40q…%q", got["last"], got["last"][len(got["last"])-40:])
	}
}

// TestSources: programs and files, those that are there and those that are not.
func TestSources(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "in"), 0o700), os.WriteFile(filepath.Join(dir, "in", "key"), []byte("hush"), 0o600)); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, append(bytes.Repeat([]byte("old\n"), maxRaw/4), "new\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	got := write(t, NewRedactor(false),
		Command("echo", "echo", "a b"), Command("none", "no-such-program-here"), Command("fails", "sh", "-c", "echo x; echo y >&2; exit 3"),
		Commands("both", "echo one", "no-such-program-here", "echo two"), File("long", long, true), File("nothing", dir+"/nothing", false), Directory("dir", dir),
		File("proc", "/proc/version", false), File("pipe", "/dev/null", false))
	for name, want := range map[string]string{
		"echo": "a b\n", "none": "could not be had: exec:", "fails": "x\ny\ncould not be had: exit status 3\n", "both": "# echo one\none\n\n# no-such-program-here\ncould not",
		"long": "[cut here]\nold\n", "nothing": "could not be had: open ", "proc": "Linux version", "pipe": "could not be had: /dev/null is no file",
	} {
		if !strings.HasPrefix(got[name], want) {
			t.Errorf("%s: %.100q, want %q", name, got[name], want)
		}
	}
	if !strings.HasSuffix(got["long"], "old\nnew\n") || !strings.HasSuffix(got["both"], "# echo two\ntwo\n\n") {
		t.Errorf("long ends %q", got["long"][len(got["long"])-10:])
	}
	if !strings.Contains(got["dir"], "-rw------- ") || !strings.Contains(got["dir"], "in/key\n") || strings.Contains(got["dir"], "hush") {
		t.Error(got["dir"])
	}
}

func TestProcess(t *testing.T) {
	registry := prometheus.NewRegistry()
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holes_total", Help: "Holes dug."}, []string{"where"})
	registry.MustRegister(c)
	c.WithLabelValues("wrn1abcdefghijklmnop").Inc()
	got := map[string]string{}
	for _, p := range Process(NewRedactor(false), registry, func() []byte { return []byte("password=hunter22x\n") }, Piece{"settings.json", []byte(`{"proxy":"http://u:pw@p"}`)}) {
		got[p.Name] = string(p.Content)
	}
	stacks := got["goroutines.txt"]
	delete(got, "goroutines.txt")
	want := map[string]string{
		"log.txt": "password=[secret]\n", "metrics.txt": "# HELP holes_total Holes dug.\n# TYPE holes_total counter\nholes_total{where=\"[secret]\"} 1\n",
		"settings.json": `{"proxy":"http://[secret]@p"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(stacks, "TestProcess") {
		t.Errorf("%.200s", stacks)
	}
	if got := Process(NewRedactor(false), nil, nil); len(got) != 1 {
		t.Errorf("%d pieces", len(got))
	}
}
