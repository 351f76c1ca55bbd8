package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	socks "golang.org/x/net/proxy"

	"warren/cmd/agent/internal/clients/clientstest"
)

// TestConnect: a client that others have written connects by name and by address, and halves close one by one.
func TestConnect(t *testing.T) {
	at := clientstest.Lines(t)
	n := &fakeNetwork{hosts: map[string]netip.Addr{"peer": here, "127.0.0.1": here}}
	for _, cred := range []Credentials{{}, {"user", "secret"}} {
		s, address := start(t, n, cred)
		var auth *socks.Auth
		if cred.required() {
			auth = &socks.Auth{User: cred.User, Password: cred.Password}
		}
		d, err := socks.SOCKS5("tcp", address, auth, socks.Direct)
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"peer", "127.0.0.1"} {
			c, err := d.Dial("tcp", fmt.Sprintf("%s:%d", host, at.Port()))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprintln(c, "hello")
			if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(c); err != nil || string(b) != "re: hello\nbye\n" {
				t.Errorf("%q, %v", b, err)
			}
		}
		counted(t, s, func(st Stats) bool { return st.Opened == 2 && st.Failed+st.Refused+st.Malformed+st.Unauthorised == 0 })
	}
}

// exchange sends bytes to a proxy of one kind and gives all that it answers before it closes the connection, or before the answer has that many.
func exchange(t *testing.T, address string, send []byte, want int) []byte {
	t.Helper()
	c := dial(t, address)
	if _, err := c.Write(send); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, want)
	n, err := io.ReadFull(c, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	return b[:n]
}

func ask(command byte, to string, port uint16) []byte {
	b := append([]byte{5, 1, 0, 5, command, 0, 3, byte(len(to))}, to...)
	return append(b, byte(port>>8), byte(port))
}

// TestReplies: what cannot be is answered by the code that says why (RFC 1928, section 6).
func TestReplies(t *testing.T) {
	n := &fakeNetwork{hosts: map[string]netip.Addr{"peer": here}}
	_, address := start(t, n, Credentials{})
	for _, tc := range []struct {
		what string
		send []byte
		err  error
		want byte
	}{
		{"outside", ask(1, outside, 80), nil, 2},
		{"policy", ask(1, refused, 80), nil, 2},
		{"unknown name", ask(1, "nobody", 80), nil, 4},
		{"refused", ask(1, "peer", 80), fmt.Errorf("dial: %w", syscall.ECONNREFUSED), 5},
		{"unreachable", ask(1, "peer", 80), syscall.EHOSTUNREACH, 4},
		{"no network", ask(1, "peer", 80), syscall.ENETUNREACH, 3},
		{"no answer", ask(1, "peer", 80), errNoAnswer, 6},
		{"timed out", ask(1, "peer", 80), context.DeadlineExceeded, 6},
		{"down", ask(1, "peer", 80), ErrDown, 3},
		{"another fault", ask(1, "peer", 80), errors.New("else"), 1},
		{"BIND", ask(2, "peer", 80), nil, 7},
		{"unknown command", ask(9, "peer", 80), nil, 7},
		{"unknown type of address", []byte{5, 1, 0, 5, 1, 0, 9, 0, 0}, nil, 8},
	} {
		n.err = tc.err
		got := exchange(t, address, tc.send, 12)
		if want := []byte{5, 0, 5, tc.want, 0, 1, 0, 0, 0, 0, 0, 0}; !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", tc.what, got, want)
		}
	}
}

// TestPasswords: without the right one there is nothing to be had.
func TestPasswords(t *testing.T) {
	s, address := start(t, &fakeNetwork{}, Credentials{"user", "secret"})
	login := func(user, password string) []byte {
		b := append([]byte{5, 2, 0, 2, 1, byte(len(user))}, user...)
		return append(append(append(b, byte(len(password))), password...), ask(1, outside, 80)[3:]...)
	}
	for _, tc := range []struct {
		what string
		send []byte
		want string
	}{
		{"none offered", []byte{5, 1, 0}, "\x05\xff"}, {"wrong password", login("user", "Secret"), "\x05\x02\x01\x01"}, {"wrong user", login("use", "rsecret"), "\x05\x02\x01\x01"},
		{"empty", login("", ""), "\x05\x02\x01\x01"}, {"right", login("user", "secret"), "\x05\x02\x01\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"another version", []byte{5, 1, 2, 5, 0, 0}, "\x05\x02"},
	} {
		if got := exchange(t, address, tc.send, len(tc.want)); string(got) != tc.want {
			t.Errorf("%s: %x, want %x", tc.what, got, tc.want)
		}
	}
	counted(t, s, func(st Stats) bool { return st.Unauthorised == 4 && st.Refused == 1 && st.Malformed == 1 })
}

// TestOneKind: a listener for one kind does not serve the other.
func TestOneKind(t *testing.T) {
	for _, kinds := range []Kinds{{SOCKS5: true}, {HTTP: true}} {
		s := New(Config{Network: &fakeNetwork{}})
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() {
			s.client(t.Context(), far, kinds)
			close(done)
		}()
		first := byte(5)
		if kinds.SOCKS5 {
			first = 'G'
		}
		go near.Write([]byte{first})
		<-done
		if s.Stats().Malformed != 1 {
			t.Errorf("%+v: %+v", kinds, s.Stats())
		}
	}
}

// TestSlowClients: who does not say what it wants is closed after a while, wherever it stops.
func TestSlowClients(t *testing.T) {
	for _, said := range [][]byte{nil, {5}, {5, 2, 0}, {5, 1, 0}, {5, 1, 0, 5, 1}, {5, 1, 0, 5, 1, 0, 3, 10, 'x'}} {
		synctest.Test(t, func(t *testing.T) {
			s := New(Config{Network: &fakeNetwork{}})
			near, far := net.Pipe()
			began, done := time.Now(), make(chan struct{})
			go func() {
				s.client(t.Context(), far, Kinds{true, true})
				close(done)
			}()
			go io.Copy(io.Discard, near)
			go near.Write(said)
			<-done
			if took := time.Since(began); took != helloTimeout || s.Stats().Malformed != 1 {
				t.Errorf("%x: %s, %+v", said, took, s.Stats())
			}
			near.Close()
		})
	}
}

// FuzzSOCKS: what is read is what the bytes say, and nothing is read beyond it.
func FuzzSOCKS(f *testing.F) {
	f.Add(ask(1, "peer", 80)[3:])
	f.Add([]byte{5, 3, 0, 1, 127, 0, 0, 1, 0, 80, 99})
	f.Add(append([]byte{5, 1, 0, 4}, make([]byte, 18)...))
	f.Add([]byte{0, 0, 0, 1, 127, 0, 0, 1, 0, 80, 99})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		if q, err := readRequest(r); err == nil {
			size := referenceSize(b)
			if size != len(b)-r.Len() || b[0] != 5 || q.command != b[1] || int(q.port) != int(b[size-2])<<8+int(b[size-1]) {
				t.Errorf("%x is read as %+v with %d left", b, q, r.Len())
			}
			if a, err := netip.ParseAddr(q.host); b[3] != 3 && (err != nil || !bytes.HasSuffix(b[4:size-2], a.AsSlice())) {
				t.Errorf("%x has the host %q", b, q.host)
			}
			if b[3] == 3 && q.host != string(b[5:size-2]) {
				t.Errorf("%x has the name %q", b, q.host)
			}
		} else if size := referenceSize(b); size > 0 && size <= len(b) && b[0] == 5 {
			t.Errorf("%x is refused: %v", b, err)
		}
		if _, payload, err := parseDatagram(b); err == nil && (b[2] != 0 || len(payload) != len(b)-referenceSize(b)) {
			t.Errorf("%x has a payload of %d", b, len(payload))
		}
		readMethods(bytes.NewReader(b))
		readPassword(bytes.NewReader(b))
	})
}

// referenceSize is how long a request is by RFC 1928, section 4; 0 if it is none.
func referenceSize(b []byte) int {
	if len(b) < 5 {
		return 0
	}
	switch b[3] {
	case 1:
		return 10
	case 4:
		return 22
	case 3:
		if b[4] == 0 {
			return 0
		}
		return 7 + int(b[4])
	}
	return 0
}

func TestAppendReply(t *testing.T) {
	for at, want := range map[string]string{
		"127.0.0.1:258": "\x05\x03\x00\x01\x7f\x00\x00\x01\x01\x02", "[::ffff:127.0.0.1]:258": "\x05\x03\x00\x01\x7f\x00\x00\x01\x01\x02",
		"[fd00::1]:1": "\x05\x03\x00\x04\xfd\x00" + strings.Repeat("\x00", 13) + "\x01\x00\x01",
	} {
		if got := appendReply(nil, replyNoNetwork, netip.MustParseAddrPort(at)); string(got) != want {
			t.Errorf("%s: %x", at, got)
		}
	}
}
