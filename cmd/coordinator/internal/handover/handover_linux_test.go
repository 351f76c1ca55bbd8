package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/sdnotify"
	"warren/internal/udpbatch"
)

// log is a manager that notes what it is told.
type log struct {
	told   []string
	broken error
}

func (l *log) Keep(name string, files ...syscall.Conn) error {
	l.told = append(l.told, fmt.Sprint("keep ", name, " ", len(files)))
	return l.broken
}

func (l *log) Forget(name string) error { l.told = append(l.told, "forget "+name); return l.broken }

func (l *log) Barrier(context.Context) error { l.told = append(l.told, "barrier"); return nil }

// file is a socket as it is passed on, with its port; all else of it is closed.
func file(t *testing.T, network, address string) (*os.File, int) {
	t.Helper()
	var c interface {
		File() (*os.File, error)
		Close() error
	}
	var port int
	switch network {
	case "tcp":
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		c, port = l.(*net.TCPListener), l.Addr().(*net.TCPAddr).Port
	case "udp":
		p, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		c, port = p.(*net.UDPConn), p.LocalAddr().(*net.UDPAddr).Port
	}
	defer c.Close()
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, port
}

func TestFits(t *testing.T) {
	for _, test := range []struct {
		network, address string
		want             Place // with PORT for the port that the socket has
		fits             bool
	}{
		{"tcp", ":0", Place{Network: "tcp", Address: ":PORT"}, true},
		{"tcp", ":0", Place{Network: "tcp", Address: "0.0.0.0:PORT"}, true},
		{"tcp", ":0", Place{Network: "tcp", Address: "[::]:PORT"}, true},
		{"tcp", "127.0.0.1:0", Place{Network: "tcp", Address: "127.0.0.1:PORT"}, true},
		{"tcp", "[::1]:0", Place{Network: "tcp", Address: "[::1]:PORT"}, true},
		{"udp", ":0", Place{Network: "udp", Address: ":PORT"}, true},
		{"tcp", ":0", Place{Network: "udp", Address: ":PORT"}, false},
		{"udp", ":0", Place{Network: "tcp", Address: ":PORT"}, false},
		{"tcp", ":0", Place{Network: "tcp", Address: ":1"}, false},
		{"tcp", ":0", Place{Network: "tcp", Address: ":0"}, false},
		{"tcp", ":0", Place{Network: "tcp", Address: "127.0.0.1:PORT"}, false},
		{"tcp", "127.0.0.1:0", Place{Network: "tcp", Address: ":PORT"}, false},
		{"tcp", "127.0.0.1:0", Place{Network: "tcp", Address: "127.0.0.2:PORT"}, false},
		{"tcp", "127.0.0.1:0", Place{Network: "tcp", Address: "localhost:PORT"}, false},
		{"tcp", "127.0.0.1:0", Place{Network: "tcp", Address: "nonsense"}, false},
	} {
		f, port := file(t, test.network, test.address)
		p := test.want
		p.Address = strings.ReplaceAll(p.Address, "PORT", fmt.Sprint(port))
		if got := p.fits(t.Context(), f); got != test.fits {
			t.Errorf("%s %s for %+v: %t, want %t", test.network, test.address, test.want, got, test.fits)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if (Place{Network: "tcp", Address: ":1"}).fits(t.Context(), r) {
		t.Error("a pipe was taken for a socket")
	}
}

// TestHandover: what fits is used, what does not is forgotten before anything is opened, and all is kept.
func TestHandover(t *testing.T) {
	tcp, tcpPort := file(t, "tcp", "127.0.0.1:0")
	udp, udpPort := file(t, "udp", "127.0.0.1:0")
	again, _ := file(t, "tcp", "127.0.0.1:0")
	other, otherPort := file(t, "tcp", "127.0.0.1:0")
	m := new(log)
	v := Service{m, []sdnotify.Kept{{Name: "a", File: tcp}, {Name: "b", File: udp}, {Name: "a", File: again}, {Name: "unknown", File: other}}}
	at := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	s, err := v.Begin(t.Context(), []Place{{"a", "tcp", at(tcpPort)}, {"b", "udp", at(udpPort)}, {"c", "tcp", at(otherPort)}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Listen(t.Context(), "a", at(tcpPort))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := s.ListenUDP("b", at(udpPort), udpbatch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c, err := s.Listen(t.Context(), "c", at(otherPort)) // free, for the other was closed
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.Close()
	if err := s.Keep(); err != nil {
		t.Fatal(err)
	}
	want := []string{"forget a", "forget unknown", "barrier", "keep a 1", "keep b 1", "keep c 1"}
	if diff := cmp.Diff(want, m.told); diff != "" {
		t.Errorf("the manager was told (-want +got):\n%s", diff)
	}
	if a.Addr().String() != at(tcpPort) || int(b.Port()) != udpPort {
		t.Errorf("at %s and %d", a.Addr(), b.Port())
	}
	m.broken = errors.New("gone")
	if err := s.Keep(); !errors.Is(err, m.broken) {
		t.Errorf("a manager that is gone: %v", err)
	}
}

// TestNoManager: all is opened anew.
func TestNoManager(t *testing.T) {
	s, err := Service{}.Begin(t.Context(), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := s.Listen(t.Context(), "a", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := s.Keep(); err != nil {
		t.Error(err)
	}
	if _, err := s.ListenUDP("b", "127.0.0.1:99999", udpbatch.Options{}); err == nil {
		t.Error("a port past the last was opened")
	}
}

// TestUnused: what is passed on for a place that nobody asks for is closed.
func TestUnused(t *testing.T) {
	f, port := file(t, "tcp", "127.0.0.1:0")
	at := fmt.Sprintf("127.0.0.1:%d", port)
	s, err := Service{new(log), []sdnotify.Kept{{Name: "a", File: f}}}.Begin(t.Context(), []Place{{"a", "tcp", at}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatalf("it is still open: %v", err)
	}
	l.Close()
}
