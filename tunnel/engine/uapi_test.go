//go:build unix

package engine

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/proto/key"
)

// script is a connection whose other end says one thing and hangs up.
type script struct {
	net.Conn
	in  io.Reader
	out strings.Builder
}

func (s *script) Read(b []byte) (int, error)     { return s.in.Read(b) }
func (s *script) Write(b []byte) (int, error)    { return s.out.Write(b) }
func (s *script) SetDeadline(at time.Time) error { return nil }
func (s *script) Close() error                   { return nil }

// ask gives what answerUAPI says to a client that sends in and then hangs up.
func ask(in string, get func() (string, error)) (string, error) {
	c := &script{in: strings.NewReader(in)}
	err := answerUAPI(c, get)
	return c.out.String(), err
}

func TestAnswerUAPI(t *testing.T) {
	get := func() (string, error) {
		return "private_key=00\nlisten_port=1\npublic_key=11\nendpoint=0.0.0.0:0\nrx_bytes=1\npublic_key=22\nendpoint=192.0.2.1:7\n", nil
	}
	config := "private_key=00\nlisten_port=1\npublic_key=11\nrx_bytes=1\npublic_key=22\nendpoint=192.0.2.1:7\n"
	for name, c := range map[string]struct {
		in, want string
		fails    bool
	}{
		"get":           {"get=1\n\n", config + "errno=0\n\n", false},
		"two gets":      {"get=1\n\nget=1\n\n", config + "errno=0\n\n" + config + "errno=0\n\n", false},
		"set":           {"set=1\nprivate_key=00\nreplace_peers=true\n\n", "errno=-1\n\n", false},
		"set, then get": {"set=1\n\nget=1\n\n", "errno=-1\n\n" + config + "errno=0\n\n", false},
		"nothing":       {"", "", false},
		"unknown":       {"burn=1\n\n", "", true},
		"version 2":     {"get=2\n\n", "", true},
		"endless line":  {"set=1\n" + strings.Repeat("x", uapiLine+1), "", true},
		"endless set":   {"set=1\n" + strings.Repeat(strings.Repeat("x", 1000)+"\n", 1100), "", true},
	} {
		got, err := ask(c.in, get)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if failed := err != nil && !errors.Is(err, io.EOF); failed != c.fails {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, _ := ask("get=1\n\n", func() (string, error) { return "", errors.New("no") })
	if got != "errno=-5\n\n" {
		t.Errorf("a get that fails: %q", got)
	}
}

func TestListenUAPI(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wireguard")
	path := filepath.Join(dir, "w0.sock")
	l, err := listenUAPI(dir, "w0")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("socket is %v, %v", info, err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left in the directory: %v, %v", names, err)
	}
	if _, err := listenUAPI(dir, "w0"); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("a second program: %v", err)
	}
	// A crash leaves the socket: closed, but there.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("the test's stale socket is gone: %v", err)
	}
	l2, err := listenUAPI(dir, "w0")
	if err != nil {
		t.Fatalf("a stale socket is in the way: %v", err)
	}
	l.remove() // the first one's end must not take the second's socket
	if _, err := os.Lstat(path); err != nil {
		t.Error("another's socket was removed")
	}
	l2.remove()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after remove: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUAPI(dir, "w0"); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in the way: %v", err)
	}
}

func TestParsePeers(t *testing.T) {
	a, b := key.NewNode().Public(), key.NewNode().Public()
	var text strings.Builder
	text.WriteString("private_key=00\nlisten_port=7\nfwmark=3\n")
	writeKey(&text, "public_key", a.Bytes())
	text.WriteString("preshared_key=00\nprotocol_version=1\nlast_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n")
	writeKey(&text, "public_key", b.Bytes())
	text.WriteString("endpoint=192.0.2.1:1\nlast_handshake_time_sec=5\nlast_handshake_time_nsec=6\ntx_bytes=18446744073709551615\nrx_bytes=8\nallowed_ip=0.0.0.0/0\n")
	got, err := parsePeers(text.String())
	if err != nil {
		t.Fatal(err)
	}
	want := map[[key.Size]byte]counters{a.Raw(): {}, b.Raw(): {handshake: time.Unix(5, 6), rx: 8, tx: 1<<64 - 1}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(counters{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"public_key=12\n", "public_key=zz" + strings.Repeat("0", 62), "rx_bytes=-1", "last_handshake_time_sec=x\n"} {
		if _, err := parsePeers(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// FuzzAnswerUAPI: nothing a client says makes it do anything but get.
func FuzzAnswerUAPI(f *testing.F) {
	for _, s := range []string{"get=1\n\n", "set=1\na=b\n\n", "\n\n", "get=1\nx\n\nset=1\n\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		answer, _ := ask(in, func() (string, error) { return "rx_bytes=1\n", nil })
		answer = strings.ReplaceAll(answer, "rx_bytes=1\nerrno=0\n\n", "")
		if strings.ReplaceAll(answer, "errno=-1\n\n", "") != "" {
			t.Fatalf("%q answered with %q", in, answer)
		}
	})
}
