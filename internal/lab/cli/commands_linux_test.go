package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

const (
	// patience bounds every wait; what a transcript is about it says otherwise.
	patience = 20 * time.Second
	// pollEvery is how often "until" looks.
	pollEvery = 50 * time.Millisecond
)

type command = func(ts *testscript.TestScript, neg bool, args []string)

func commands() map[string]command {
	return map[string]command{
		"host": cmdHost, "on": withStatus(0), "fail": withStatus(1), "misuse": withStatus(2), "until": cmdUntil,
		"start": starter(warrennet.StartCommand), "terminal": starter(warrennet.StartOnTerminal),
		"await": cmdAwait, "said": cmdSaid, "end": cmdEnd, "kill9": cmdKill, "keep": cmdKeep, "patch": cmdPatch, "certificates": cmdCertificates,
	}
}

// need ends the transcript unless there are enough arguments and the command is not negated.
func need(ts *testscript.TestScript, neg bool, args []string, n int, usage string) {
	if neg || len(args) < n {
		ts.Fatalf("usage: %s", usage)
	}
}

func cmdHost(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "host NAME [NAT]")
	b, nat := of(ts), lab.None
	if len(args) > 1 {
		known := map[string]lab.NAT{}
		for _, n := range []lab.NAT{lab.None, lab.Easy, lab.Hard, lab.UDPBlocked} {
			known[n.String()] = n
		}
		var ok bool
		if nat, ok = known[args[1]]; !ok {
			ts.Fatalf("unknown NAT %q", args[1])
		}
	}
	h, err := b.lab.Host(args[0], nat)
	ts.Check(err)
	b.hosts[args[0]] = h
}

func withStatus(want int) command {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		need(ts, neg, args, 2, "on|fail|misuse HOST PROGRAM [ARG ...]")
		if got := execOn(ts, of(ts).host(ts, args[0]), args[1:]); got != want {
			ts.Fatalf("exit status %d, want %d", got, want)
		}
	}
}

func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 3, "until TEXT HOST PROGRAM [ARG ...]")
	h, text := of(ts).host(ts, args[1]), regexp.MustCompile("(?m)"+args[0])
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		cmd := commandOn(ts, h, args[2:])
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if err == nil && text.MatchString(stdout.String()) {
			_, err := fmt.Fprint(ts.Stdout(), stdout.String())
			ts.Check(err)
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("%v, and no match for %q in:\n%s%s", err, args[0], &stdout, &stderr)
		case <-tick.C:
		}
	}
}

// commandOn makes a command that runs on a host beside the transcript.
func commandOn(ts *testscript.TestScript, h *lab.Host, argv []string) *exec.Cmd {
	line, key, value := h.Line(argv[0], argv[1:]...)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), append(os.Environ(), key+"="+value)
	for _, name := range []string{"PATH", "WORK", "HOME"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	return cmd
}

func starter(start func(*exec.Cmd) (*warrennet.Daemon, error)) command {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		need(ts, neg, args, 3, "start|terminal NAME HOST PROGRAM [ARG ...]")
		b, name := of(ts), args[0]
		d, err := start(commandOn(ts, b.host(ts, args[1]), args[2:]))
		ts.Check(err)
		if b.started[name] == nil {
			b.order = append(b.order, name)
		}
		b.started[name] = d
		ts.Setenv("PID_"+name, strconv.Itoa(d.PID()))
	}
}

func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "await NAME TEXT")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ts.Check(of(ts).program(ts, args[0]).AwaitLog(ctx, args[1]))
}

func cmdSaid(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "said NAME")
	_, err := fmt.Fprint(ts.Stdout(), of(ts).program(ts, args[0]).Log())
	ts.Check(err)
}

func cmdEnd(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "end NAME")
	ts.Check(of(ts).program(ts, args[0]).Signal(syscall.SIGTERM))
}

func cmdKill(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "kill9 NAME")
	_ = of(ts).program(ts, args[0]).Signal(syscall.SIGKILL) // which its status tells of
}

// cmdKeep follows field names, and numbers into lists.
func cmdKeep(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "keep VARIABLE [FIELD ...]")
	text := strings.TrimSpace(ts.ReadFile("stdout"))
	if len(args) == 1 {
		ts.Setenv(args[0], text)
		return
	}
	var v any
	ts.Check(json.Unmarshal([]byte(text), &v))
	for _, field := range args[1:] {
		switch in := v.(type) {
		case map[string]any:
			v = in[field]
		case []any:
			i, err := strconv.Atoi(field)
			if err != nil || i >= len(in) {
				ts.Fatalf("no element %s in a list of %d", field, len(in))
			}
			v = in[i]
		default:
			ts.Fatalf("no field %s in %v", field, v)
		}
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

func cmdPatch(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 3, "patch FILE OLD NEW")
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("no %q in %s:\n%s", args[1], args[0], text)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, args[1], args[2])), 0o600))
}
