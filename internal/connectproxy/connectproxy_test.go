package connectproxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/connectproxy/connectproxytest"
)

// greeter speaks first and then echoes.
func greeter(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.WriteString(c, "hello\n")
				io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func talk(t *testing.T, d *Dialer, address string) (string, error) {
	t.Helper()
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	io.WriteString(c, "world\n")
	r := bufio.NewReader(c)
	one, err1 := r.ReadString('\n')
	two, err2 := r.ReadString('\n')
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return one + two, nil
}

func TestThroughAProxy(t *testing.T) {
	to := greeter(t)
	for name, start := range map[string]func(http.Handler) *httptest.Server{"http": httptest.NewServer, "https": httptest.NewTLSServer} {
		p := &connectproxytest.Proxy{User: "me", Password: "p:w@"}
		s := start(p)
		defer s.Close()
		d, err := New(strings.Replace(s.URL, "://", "://me:p%3Aw%40@", 1), new(net.Dialer).DialContext)
		if err != nil {
			t.Fatal(err)
		}
		if s.TLS != nil {
			d.TLS = s.Client().Transport.(*http.Transport).TLSClientConfig
		}
		got, err := talk(t, d, to)
		if err != nil || got != "hello\nworld\n" || p.Connected() != 1 {
			t.Errorf("%s: %q, %v, %d tunnels", name, got, err, p.Connected())
		}
	}
}

// raw is a proxy that gives one answer, whatever it is asked.
func raw(t *testing.T, answer string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		if c, err := l.Accept(); err == nil {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, answer)
			c.Close()
		}
	}()
	return "http://" + l.Addr().String()
}

// TestNothingIsLost: what the server said may come in one segment with the proxy's answer.
func TestNothingIsLost(t *testing.T) {
	d, err := New(raw(t, "HTTP/1.1 200 OK\r\nVia: x\r\n\r\nhello"), new(net.Dialer).DialContext)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.DialContext(t.Context(), "tcp", "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestRefusals(t *testing.T) {
	p := &connectproxytest.Proxy{User: "me", Password: "secret"}
	s := httptest.NewServer(p)
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	nobody := httptest.NewServer(p)
	nobody.Close()
	for name, tc := range map[string]struct{ proxy, want string }{
		"wrong password": {"http://me:wrong@" + host, "wants a user and password"},
		"bad gateway":    {"http://me:secret@" + host, "502 Bad Gateway"},
		"nobody there":   {nobody.URL, "connection refused"},
		"no HTTP":        {raw(t, "220 mail.example.com ESMTP\r\n"), "no answer to CONNECT"},
		"endless":        {raw(t, "HTTP/1.1 200 OK\r\n"+strings.Repeat("a: b\r\n", 1<<14)), "no answer to CONNECT"},
		"cut":            {raw(t, "HTTP/1.1 200"), "no answer to CONNECT"},
	} {
		d, err := New(tc.proxy, new(net.Dialer).DialContext)
		if err != nil {
			t.Fatal(err)
		}
		_, err = talk(t, d, "127.0.0.1:1")
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v; want one that says %q", name, err, tc.want)
		}
	}
}

func TestSilentProxyEndsWithTheContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := New("http://"+l.Addr().String(), new(net.Dialer).DialContext)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if c, err := l.Accept(); err == nil {
			http.ReadRequest(bufio.NewReader(c))
			cancel()
		}
	}()
	if _, err := d.DialContext(ctx, "tcp", "192.0.2.1:443"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestSettings(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://proxy.example:3128")
	t.Setenv("NO_PROXY", "inside.example")
	for _, tc := range []struct{ setting, address, want string }{
		{"", "outside.example:443", "proxy.example:3128"},
		{"", "inside.example:443", "inside.example:443"},
		{"", "127.0.0.1:443", "127.0.0.1:443"},
		{Off, "outside.example:443", "outside.example:443"},
		{"http://other.example", "inside.example:443", "other.example:80"},
		{"https://other.example", "127.0.0.1:443", "other.example:443"},
		{"http://[2001:db8::1]:8080", "x:1", "[2001:db8::1]:8080"},
	} {
		var got string
		d, err := New(tc.setting, func(_ context.Context, _, address string) (net.Conn, error) {
			got = address
			return nil, errors.New("far enough")
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.DialContext(t.Context(), "tcp", tc.address); err == nil {
			t.Fatal("no error")
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("setting %q, %s (-want +got):\n%s", tc.setting, tc.address, diff)
		}
	}
	for _, s := range []string{"socks5://x:1", "proxy.example:3128", "http://", "http://a b", "http://u:hidden@:x"} {
		if _, err := New(s, nil); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q: %v", s, err)
		}
	}
}
