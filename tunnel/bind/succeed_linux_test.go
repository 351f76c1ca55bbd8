package bind

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"warren/proto/key"
)

// held are copies of a Bind's sockets, as they are passed to the next process.
func held(t *testing.T, s *station) map[string]*os.File {
	t.Helper()
	out := map[string]*os.File{}
	for network, c := range map[string]*net.UDPConn{"udp4": s.v4.Load().UDPConn(), "udp6": s.v6.Load().UDPConn()} {
		f, err := c.File()
		if err != nil {
			t.Fatal(err)
		}
		out[network] = f
	}
	return out
}

// TestInheritedSockets: the next Bind has the sockets of the one before, and what came to them in between.
func TestInheritedSockets(t *testing.T) {
	before := newStation(t, nil, nil)
	files, port := held(t, before), before.LocalPort()
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	peer, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if _, err := peer.Write([]byte("meanwhile")); err != nil {
		t.Fatal(err)
	}
	var told []string
	after := newStation(t, func(c *Config) {
		c.Port, c.Inherited = port, files
		c.OnSocket = func(network string, c syscall.Conn) { told = append(told, fmt.Sprint(network, " ", c != nil)) }
	}, nil)
	if after.LocalPort() != port {
		t.Errorf("port %d, want %d", after.LocalPort(), port)
	}
	if got, want := <-after.other, "127.0.0.1 127.0.0.1 meanwhile"; got != want {
		t.Errorf("received %q, want %q", got, want)
	}
	if want := []string{"udp4 true", "udp6 true"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	for network, f := range files {
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: the file was left open: %v", network, err)
		}
	}
}

// TestInheritedSocketsUnfit: what is of the wrong kind or port is closed, and sockets of our own are opened.
func TestInheritedSocketsUnfit(t *testing.T) {
	before := newStation(t, nil, nil)
	files := held(t, before)
	files["udp4"], files["udp6"] = files["udp6"], files["udp4"]
	other, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	files["udp9"] = other
	after := newStation(t, func(c *Config) { c.Inherited = files }, nil)
	if after.LocalPort() == before.LocalPort() {
		t.Error("a socket of the wrong family was taken")
	}
	if err := other.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a file that nobody wants was left open: %v", err)
	}
	one, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	file, err := one.File()
	if err != nil {
		t.Fatal(err)
	}
	narrow := newStation(t, func(c *Config) { c.Inherited = map[string]*os.File{"udp4": file} }, nil)
	if int(narrow.LocalPort()) == one.LocalAddr().(*net.UDPAddr).Port {
		t.Error("a socket of one address was taken")
	}
	files, port := held(t, before), before.LocalPort()
	var told []string
	moved := newStation(t, func(c *Config) {
		c.Port, c.Inherited = after.LocalPort()+1, files
		c.OnSocket = func(network string, c syscall.Conn) { told = append(told, fmt.Sprint(network, " ", c != nil)) }
	}, nil)
	if moved.LocalPort() == port {
		t.Error("a socket with another port than is asked for was taken")
	}
	if want := []string{"udp4 false", "udp6 false", "udp4 true", "udp6 true"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// TestStampsOutliveTheProcess: a replay that was refused before the restart is refused after it.
func TestStampsOutliveTheProcess(t *testing.T) {
	before, peer, stranger := newDoor(), key.NewNode(), key.NewNode()
	before.knock(t, peer, 7)
	before.knock(t, stranger, 7)
	before.refused[stranger.Public().Raw()] = true
	stamps := before.Stamps()
	before.Release(peer.Public())
	before.delivered()
	before.knock(t, peer, 8)
	if len(before.delivered()) != 0 {
		t.Error("an initiation was let in that the next process does not know of")
	}
	if len(stamps) != 1 {
		t.Errorf("%d timestamps, want that of the peer in the map", len(stamps))
	}
	after := newDoor()
	after.private, after.cfg.Private = before.private, before.private
	after.Bind = New(after.cfg)
	after.refused[stranger.Public().Raw()] = true
	stamps[stranger.Public().Raw()] = [StampSize]byte{9}
	after.RestoreStamps(stamps)
	if len(after.admission.last) != 1 {
		t.Errorf("%d timestamps were taken, want 1", len(after.admission.last))
	}
	after.Release(peer.Public())
	for _, c := range []struct {
		stamp uint64
		want  int
	}{{6, 0}, {7, 0}, {8, 1}} {
		if after.knock(t, peer, c.stamp); len(after.delivered()) != c.want {
			t.Errorf("timestamp %d: want %d delivered", c.stamp, c.want)
		}
	}
	after.RestoreStamps(stamps) // older ones change nothing
	if after.knock(t, peer, 8); len(after.delivered()) != 0 {
		t.Error("a replay was let in by an older timestamp")
	}
}

// TestReconnected: a call that found no way leaves once there is one, and only once.
func TestReconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, peer := newDoor(), newDoor()
		var left [][]byte
		way := errNoWay
		d.cfg.SendRelay = func(_ key.NodePublic, bufs [][]byte) error {
			if way == nil {
				left = append(left, bytes.Clone(bufs[0]))
			}
			return way
		}
		ep, err := d.ParseEndpoint(peer.private.Public().String())
		if err != nil {
			t.Fatal(err)
		}
		m := caller{d.private, peer.private.Public()}.initiation(t, 1)
		for _, c := range []struct {
			what string
			wait time.Duration
			want int
		}{{"soon", time.Second, 1}, {"late", 5 * time.Second, 0}} {
			left, way = nil, errNoWay
			if err := d.Send([][]byte{m}, ep); !errors.Is(err, errNoWay) {
				t.Errorf("%s: sent without a way: %v", c.what, err)
			}
			d.Reconnected() // still without
			<-time.After(c.wait)
			way = nil
			d.Reconnected()
			d.Reconnected()
			if len(left) != c.want || c.want > 0 && !bytes.Equal(left[0], m) {
				t.Errorf("%s: %d calls left, want %d", c.what, len(left), c.want)
			}
		}

	})
}
