package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// clockVariable makes the test's own program behave as warren on a machine whose clock is off by so much.
const clockVariable = "WARREN_TEST_CLOCK"

func TestMain(m *testing.M) {
	lab.Init()
	if text := os.Getenv(clockVariable); text != "" {
		off, err := time.ParseDuration(text)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(runAt(func() time.Time { return time.Now().Add(off) }, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// skewed makes a directory of programs: the real coordinator, and a warren whose clock is off.
func skewed(t *testing.T, off time.Duration) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	built, err := warrennet.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n%s=%s exec %s \"$@\"\n", clockVariable, off, self)
	if err := os.WriteFile(filepath.Join(dir, "warren"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(built, "warren-coordinator"), filepath.Join(dir, "warren-coordinator")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestClockFarOff lets devices join whose clocks are off: the authority that the token pins does not care for dates. A person is told.
func TestClockFarOff(t *testing.T) {
	for _, tc := range []struct {
		off  time.Duration
		want string // empty: nobody is told
	}{
		{-20 * 365 * 24 * time.Hour, "this machine's clock is 175200h0m0s behind the coordinator's; set it"},
		{366 * 24 * time.Hour, "this machine's clock is 8784h0m0s ahead of the coordinator's; set it"},
		{time.Minute, ""},
	} {
		t.Run(tc.off.String(), func(t *testing.T) {
			bin := skewed(t, tc.off) // may have to build first
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			n, err := warrennet.New(ctx, bin, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			left := join(t, ctx, n, "left", tc.want)
			join(t, ctx, n, "right", tc.want)
			for _, when := range []string{"after joining", "after a restart"} {
				st, err := left.Await(ctx, "connected "+when, func(s *warrennet.Status) bool { return s.State == "up" && s.Coordinator.Connected })
				if err != nil {
					t.Fatal(err)
				}
				if told := strings.Join(st.Warnings, "\n"); !strings.Contains(told, tc.want) || (tc.want == "") != (told == "") {
					t.Errorf("%s: warnings %q, want %q", when, told, tc.want)
				}
				if out, err := left.Text(ctx, "doctor"); (tc.want != "") != strings.Contains(out, "\nfailed   clock ") || (tc.want != "") != (err != nil) {
					t.Errorf("%s: doctor: %v:\n%s", when, err, out)
				}
				if out, err := left.Text(ctx, "ping", "right", "--interval", "100ms"); err != nil {
					t.Errorf("%s: %v: %s", when, err, out)
				}
				if err := left.Daemon().Signal(os.Interrupt); err != nil {
					t.Fatal(err)
				}
				if err := left.StartDaemon(ctx); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func join(t *testing.T, ctx context.Context, n *warrennet.Network, name, want string) *warrennet.Device {
	t.Helper()
	d, err := n.Device(ctx, name, lab.None)
	if err != nil {
		t.Fatal(err)
	}
	token, err := n.Token(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out, err := d.Text(ctx, "up", token, "--name", name)
	if err != nil || !strings.Contains(out, name+" is up") || !strings.Contains(out, want) {
		t.Fatalf("%v, want %q in:\n%s", err, want, out)
	}
	return d
}
