// Command testcount runs "go test -json" with the arguments after --, prints what failed, and ends with one line that says how many tests
// passed, failed and were skipped. Its exit status is that of the tests.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// event is a line of "go test -json" (go doc test2json).
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

// tally counts tests, and keeps the output of those that have not ended.
type tally struct {
	passed, failed, skipped, packages int
	output                            map[string]*strings.Builder
	broken                            bool
}

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	os.Exit(run(args, os.Stdout))
}

func run(args []string, w io.Writer) int {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testcount:", err)
		return 1
	}
	t := &tally{output: map[string]*strings.Builder{}}
	t.read(out, w)
	err = cmd.Wait()
	fmt.Fprintf(w, "%d tests passed, %d failed, %d skipped, in %d packages\n", t.passed, t.failed, t.skipped, t.packages)
	if err != nil || t.broken || t.failed > 0 {
		return 1
	}
	return 0
}

func (t *tally) read(r io.Reader, w io.Writer) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			fmt.Fprintln(w, in.Text()) // such as a compiler's message
			continue
		}
		t.add(e, w)
	}
}

func (t *tally) add(e event, w io.Writer) {
	name := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		b := t.output[name]
		if b == nil {
			b = new(strings.Builder)
			t.output[name] = b
		}
		b.WriteString(e.Output)
		return
	case "build-fail":
		t.broken = true
	case "pass", "fail", "skip":
	default:
		return
	}
	said := t.output[name]
	delete(t.output, name)
	if (e.Action == "fail" || e.Action == "build-fail") && said != nil {
		fmt.Fprint(w, said.String())
	}
	if e.Test == "" {
		t.packages++
		if e.Action == "fail" {
			t.broken = true
		}
		if e.Action != "skip" {
			fmt.Fprintf(w, "%-4s  %s  %.1fs\n", e.Action, e.Package, e.Elapsed)
		}
		return
	}
	switch e.Action {
	case "pass":
		t.passed++
	case "fail":
		t.failed++
	case "skip":
		t.skipped++
	}
}
