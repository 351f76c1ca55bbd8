package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"warren/internal/unixsock"
	pb "warren/proto/warrenv1"
	"warren/proto/warrenv1/warrenv1connect"
)

// daemon answers as Warren's does, by its own API.
type daemon struct {
	warrenv1connect.UnimplementedLocalServiceHandler
	answers map[string]*pb.WhoIsResponse
}

func (d daemon) WhoIs(_ context.Context, req *connect.Request[pb.WhoIsRequest]) (*connect.Response[pb.WhoIsResponse], error) {
	m := d.answers[req.Msg.GetAddress()]
	if m == nil {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("nobody in this device's map has it"))
	}
	return connect.NewResponse(m), nil
}

// start serves d and gives the socket.
func start(t *testing.T, d daemon) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "whois.sock")
	l, err := unixsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(warrenv1connect.NewLocalServiceHandler(d))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- unixsock.Serve(ctx, l, mux) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestWhoComesIn(t *testing.T) {
	flow := []*pb.FlowRecord{{Kind: "live", Direction: "in", Protocol: "tcp", Grant: "web", ReceivedBytes: 1 << 60}}
	socket := start(t, daemon{answers: map[string]*pb.WhoIsResponse{
		"100.64.0.2:5000": {Device: "desk", User: "ann", Flows: flow},
		"100.64.0.3:5000": {Device: "phone", User: "bob", Flows: flow},
		"100.64.0.4:5000": {Device: "probe", Tags: []string{"web", "monitoring"}, Flows: flow},
		"100.64.0.8:5000": {Device: "pad", User: "cat", Groups: []string{"group:all", "group:eng"}, Flows: flow},
		"100.64.0.9:5000": {Device: "tv", User: "dan", Groups: []string{"group:all", ""}, Flows: flow},
		"100.64.0.5:5000": {Device: "desk", User: "ann"},
		"100.64.0.7:5000": {Device: "desk", User: "ann", Flows: []*pb.FlowRecord{{Protocol: "udp", Grant: "dns"}}},
		"10.2.0.9:5000":   {Gateway: "gate", Route: "10.2.0.0/16", Flows: flow},
		"100.64.0.6:5000": {Device: "printer", Flows: flow},
	}})
	s := &server{users: []string{"ann", ""}, groups: []string{"group:eng", ""}, tags: []string{"monitoring", ""}, client: dial(socket)}
	for remote, want := range map[string]string{
		"100.64.0.2:5000": "200 Hello ann at desk, let in by grant web",
		"100.64.0.3:5000": "403 I know you, bob, but you may not come in",
		"100.64.0.4:5000": "200 Hello probe at probe, let in by grant web",
		"100.64.0.8:5000": "200 Hello cat at pad, let in by grant web",
		"100.64.0.9:5000": "403 I know you, dan, but you may not come in",
		"100.64.0.5:5000": "403 I do not know you", // spoofed: no flow through the tunnel
		"100.64.0.7:5000": "403 I do not know you", // datagrams from there are no proof
		"10.2.0.9:5000":   "403 I do not know you", // whoever that is
		"100.64.0.6:5000": "403 I know you, printer, but you may not come in",
		"192.0.2.1:5000":  "403 I do not know you",
	} {
		if got := ask(t, s, remote); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
	s.client = dial(socket + "-gone")
	if got := ask(t, s, "100.64.0.2:5000"); got != "403 I do not know you" {
		t.Errorf("without a daemon: %s", got)
	}
}

func ask(t *testing.T, s *server, remote string) string {
	t.Helper()
	r, w := httptest.NewRequest(http.MethodGet, "/", nil), httptest.NewRecorder()
	r.RemoteAddr = remote
	s.ServeHTTP(w, r)
	body, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(w.Result().Status[:4] + string(body))
}
