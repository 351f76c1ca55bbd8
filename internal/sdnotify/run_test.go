package sdnotify

import (
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// TestRun: the manager hears that the service is ready, lives, and stops, in that order, and Run ends as the service does.
func TestRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c := manager(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := errors.New("ended")
	result := make(chan error, 1)
	go func() {
		n := Notifier{socket: path, timeout: 3 * time.Millisecond}
		result <- n.Run(ctx, Service{Status: "digging", Failed: func(err error) { t.Error(err) }}, func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			return ended
		})
	}()
	if got := heard(t, c); got != "READY=1\nSTATUS=digging" {
		t.Errorf("first %q", got)
	}
	if got := heard(t, c); got != "WATCHDOG=1" {
		t.Errorf("then %q", got)
	}
	cancel()
	for got := ""; got != "STOPPING=1"; {
		if got = heard(t, c); got != "WATCHDOG=1" && got != "STOPPING=1" {
			t.Fatalf("at the end %q", got)
		}
	}
	if err := <-result; err != ended {
		t.Errorf("Run gave %v", err)
	}
}

// TestRunThatFails: a service that never was ready is not said to be.
func TestRunThatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c := manager(t, path)
	broken := errors.New("port taken")
	s := Service{Failed: func(err error) { t.Error(err) }}
	if err := (Notifier{socket: path, timeout: time.Hour}).Run(t.Context(), s, func(context.Context, func()) error { return broken }); err != broken {
		t.Errorf("Run gave %v", err)
	}
	silent(t, c)
}

// TestRunWithoutManager: the service runs, and what cannot be told is told to its log.
func TestRunWithoutManager(t *testing.T) {
	told := make(chan error, 4)
	s := Service{Failed: func(err error) { told <- err }}
	n := Notifier{socket: filepath.Join(t.TempDir(), "gone")}
	if err := n.Run(t.Context(), s, func(_ context.Context, ready func()) error { ready(); return nil }); err != nil {
		t.Error(err)
	}
	if len(told) != 2 {
		t.Errorf("%d complaints, want those of ready and stopping", len(told))
	}
}

// TestReload: the manager hears when settings are taken anew and when that is done.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c := manager(t, path)
	if err := (Notifier{socket: path}).Reload(func() {
		if got := heard(t, c); !regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]+$`).MatchString(got) {
			t.Errorf("first %q", got)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if got := heard(t, c); got != "READY=1" {
		t.Errorf("then %q", got)
	}
	for name, n := range map[string]Notifier{"none": {}, "gone": {socket: filepath.Join(t.TempDir(), "gone")}} {
		done := false
		if err := n.Reload(func() { done = true }); !done || (err != nil) != (name == "gone") {
			t.Errorf("manager %s: done %t, %v", name, done, err)
		}
	}
}
