package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func serve(t *testing.T, path string) (stop func()) {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, ok := CallerFrom(r.Context())
			fmt.Fprint(w, c.PID, " ", c.UID, " ", ok)
		}))
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

func TestCallerIsKnown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "s")
	defer serve(t, path)()
	c := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
	r, err := c.Get("http://x/")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if want := fmt.Sprint(os.Getpid(), " ", os.Getuid(), " ", true); err != nil || string(b) != want {
		t.Errorf("the server saw %q, %v; want %q", b, err, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want 0600", info.Mode(), err)
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stop := serve(t, path)
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("a socket in use: %v", err)
	}
	stop()
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("this test wants the file that a dead daemon leaves: %v", err)
	}
	serve(t, path)()
	if _, err := Listen("/" + strings.Repeat("x", maxPath)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a long path: %v", err)
	}
}
