package local

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"warren/internal/unixsock"
	pb "warren/proto/warrenv1"
	"warren/proto/warrenv1/warrenv1connect"
)

// echo answers Status with the caller's process id, so that a test sees what the kernel vouched for.
type echo struct {
	warrenv1connect.UnimplementedLocalServiceHandler
}

func (echo) Status(ctx context.Context, _ *connect.Request[pb.StatusRequest]) (*connect.Response[pb.StatusResponse], error) {
	c, ok := unixsock.CallerFrom(ctx)
	if !ok || int(c.UID) != os.Getuid() || int(c.GID) != os.Getgid() {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("who are you"))
	}
	return connect.NewResponse(&pb.StatusResponse{Pid: uint32(c.PID)}), nil
}

func serve(t *testing.T, path string) (stop func()) {
	t.Helper()
	l, err := unixsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(warrenv1connect.NewLocalServiceHandler(echo{}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- unixsock.Serve(ctx, l, mux) }()
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
	r, err := Dial(path).Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	if int(r.Msg.GetPid()) != os.Getpid() {
		t.Errorf("the daemon saw process %d, not %d", r.Msg.GetPid(), os.Getpid())
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want 0600", info.Mode(), err)
	}
}

func TestExplain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	_, err := Dial(path).Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
	if got := Explain(path, err); !errors.Is(got, ErrNoDaemon) || !strings.Contains(got.Error(), path) {
		t.Errorf("absent socket: %v", got)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	_, err = Dial(path).Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
	if got := Explain(path, err); !errors.Is(got, ErrNoDaemon) {
		t.Errorf("dead socket: %v", got)
	}
	other := errors.New("other")
	if Explain(path, other) != other || Explain(path, nil) != nil {
		t.Error("an error that has another cause was changed")
	}
	_, missing := os.ReadFile(filepath.Join(t.TempDir(), "token"))
	if Explain(path, missing) != missing {
		t.Error("a file that is missing elsewhere was taken for the socket")
	}
	if got := Explain(path, errors.Join(errSocket, os.ErrPermission)); !strings.Contains(got.Error(), "--operator") {
		t.Errorf("not permitted: %v", got)
	}
}

func TestOperators(t *testing.T) {
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	byUser, err := LookUpOperator("nobody")
	if err != nil {
		t.Fatal(err)
	}
	byGroup, err := LookUpOperator("group:daemon")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LookUpOperator("no-such-user-here"); err == nil {
		t.Error("an unknown user was accepted")
	}
	if _, err := LookUpOperator("group:no-such-group"); err == nil {
		t.Error("an unknown group was accepted")
	}
	const stranger = 54321
	for _, tc := range []struct {
		name   string
		caller unixsock.Caller
		op     Operator
		want   bool
	}{
		{"root without operator", unixsock.Caller{UID: 0}, Operator{}, true},
		{"root with operator", unixsock.Caller{UID: 0}, byUser, true},
		{"the user", unixsock.Caller{UID: byUser.id, GID: stranger}, byUser, true},
		{"the user, none set", unixsock.Caller{UID: byUser.id, GID: stranger}, Operator{}, false},
		{"stranger", unixsock.Caller{UID: stranger, GID: stranger}, byUser, false},
		{"by primary group", unixsock.Caller{UID: stranger, GID: byGroup.id}, byGroup, true},
		{"in another group", unixsock.Caller{UID: stranger, GID: stranger}, byGroup, false},
		{"uid that equals the gid", unixsock.Caller{UID: byGroup.id + 7000, GID: 1}, Operator{set: true, group: true, id: byGroup.id + 7000}, false},
		{nobody.Username + " not in daemon", unixsock.Caller{UID: byUser.id, GID: stranger}, byGroup, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.op.Admits(tc.caller); got != tc.want {
				t.Errorf("Admits = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestGrantModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	defer serve(t, path)()
	mode := func() os.FileMode {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if err := Grant(path, Operator{set: true, group: true, id: uint32(os.Getegid())}); err != nil || mode() != 0o660 {
		t.Errorf("group: %v, mode %v", err, mode())
	}
	if err := Grant(path, Operator{set: true, id: uint32(os.Geteuid())}); err != nil || mode() != 0o660 {
		t.Errorf("user: %v, mode %v", err, mode())
	}
	if err := Grant(path, Operator{}); err != nil || mode() != 0o600 {
		t.Errorf("nobody: %v, mode %v", err, mode())
	}
}
