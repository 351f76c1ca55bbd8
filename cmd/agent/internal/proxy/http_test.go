package proxy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/cmd/agent/internal/clients/clientstest"
)

// web is a server behind the network, and a network in which it is called peer.
func web(t *testing.T, start func(http.Handler) *httptest.Server) (*fakeNetwork, *httptest.Server, chan http.Header) {
	t.Helper()
	seen := make(chan http.Header, 10)
	srv := start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		h := r.Header.Clone()
		h.Set("Host", r.Host)
		seen <- h
		w.Header().Set("X-Answer", "yes")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, b)
	}))
	t.Cleanup(srv.Close)
	return &fakeNetwork{hosts: map[string]netip.Addr{"peer": here}, port: netip.MustParseAddrPort(srv.Listener.Addr().String()).Port()}, srv, seen
}

func client(t *testing.T, proxy string) *http.Client {
	t.Helper()
	u, err := url.Parse(proxy)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{Proxy: http.ProxyURL(u), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func do(t *testing.T, c *http.Client, method, to, body string) (int, string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, to, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Proxy-Connection", "keep-alive")
	r, err := c.Do(q)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	return r.StatusCode, strings.TrimSpace(string(b))
}

// TestForwardHTTP: requests for http URLs go to the host that they name, as they are but for what concerns the proxy.
func TestForwardHTTP(t *testing.T) {
	n, _, seen := web(t, httptest.NewServer)
	s, address := start(t, n, Credentials{"user", "pass:word"})
	c := client(t, "http://user:pass%3Aword@"+address)
	for range 2 {
		status, body := do(t, c, "POST", "http://peer:8080/path?q=1", "payload")
		if status != http.StatusTeapot || body != "POST /path?q=1 payload" {
			t.Errorf("%d %s", status, body)
		}
		h := <-seen
		if h.Get("Host") != "peer:8080" {
			t.Errorf("host %q", h.Get("Host"))
		}
		for _, name := range []string{"Proxy-Authorization", "Proxy-Connection", "X-Forwarded-For", "Via"} {
			if v := h.Get(name); v != "" {
				t.Errorf("%s: %s", name, v)
			}
		}
	}
	counted(t, s, func(st Stats) bool { return st.Opened == 2 && st.Unauthorised == 0 })
	if status, body := do(t, client(t, "http://user:wrong@"+address), "GET", "http://peer/", ""); status != http.StatusProxyAuthRequired {
		t.Errorf("%d %s", status, body)
	}
	if status, body := do(t, client(t, "http://"+address), "GET", "https://peer/", ""); status != 0 || !strings.Contains(body, "Proxy Authentication Required") {
		t.Errorf("%d %s", status, body)
	}
	counted(t, s, func(st Stats) bool { return st.Unauthorised == 2 })
}

// TestConnectHTTP: other protocols go through a tunnel by CONNECT, and so does what a client sends before it has an answer.
func TestConnectHTTP(t *testing.T) {
	n, _, _ := web(t, httptest.NewTLSServer)
	s, address := start(t, n, Credentials{})
	if status, body := do(t, client(t, "http://"+address), "PUT", "https://peer/x", "data"); status != http.StatusTeapot || body != "PUT /x data" {
		t.Errorf("%d %s", status, body)
	}
	if status, body := do(t, client(t, "socks5h://"+address), "PUT", "https://peer/y", "data"); status != http.StatusTeapot || body != "PUT /y data" {
		t.Errorf("by SOCKS at the same address: %d %s", status, body)
	}
	n.port = clientstest.Lines(t).Port()
	raw := dial(t, address)
	fmt.Fprint(raw, "CONNECT peer:1 HTTP/1.1\r\nHost: peer:1\r\n\r\nhello\n")
	if err := raw.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(raw)
	answer, err := http.ReadResponse(r, nil)
	if err != nil || answer.StatusCode != 200 {
		t.Fatalf("%+v, %v", answer, err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "re: hello\nbye\n" {
		t.Errorf("%q, %v", b, err)
	}
	counted(t, s, func(st Stats) bool { return st.Opened == 3 })
}

// TestHTTPErrors: what cannot be is answered by a status that says why, with a text for a person, by both ways.
func TestHTTPErrors(t *testing.T) {
	n := &fakeNetwork{hosts: map[string]netip.Addr{"peer": here}}
	_, address := start(t, n, Credentials{})
	c := client(t, "http://"+address)
	type outcome struct {
		Status int
		Text   string
	}
	for _, tc := range []struct {
		host string
		err  error
		want outcome
	}{
		{outside, nil, outcome{403, outside + ": " + outside + ": not in this network"}},
		{refused, nil, outcome{403, refused + ": tcp to port 80 of " + refused + ": the network's policy does not allow it"}},
		{"nobody", nil, outcome{502, "nobody: nobody: no such name"}},
		{"peer", syscall.ECONNREFUSED, outcome{502, "peer: connection refused"}},
		{"peer", errNoAnswer, outcome{504, "peer: no answer in 30s"}},
		{"peer", ErrDown, outcome{503, "peer: the tunnel is down"}},
	} {
		n.err = tc.err
		status, body := do(t, c, "GET", "http://"+tc.host, "")
		if diff := cmp.Diff(tc.want, outcome{status, body}); diff != "" {
			t.Errorf("%s, %v: %s", tc.host, tc.err, diff)
		}
		raw := dial(t, address)
		fmt.Fprintf(raw, "CONNECT %s:80 HTTP/1.1\r\nHost: %s:80\r\n\r\n", tc.host, tc.host)
		if r, err := http.ReadResponse(bufio.NewReader(raw), nil); err != nil || r.StatusCode != tc.want.Status {
			t.Errorf("CONNECT to %s, %v: %+v, %v", tc.host, tc.err, r, err)
		}
	}
}

// TestNoWebServer: what is no request to a proxy is refused, such as one that a web page makes a browser send to this address.
func TestNoWebServer(t *testing.T) {
	s, address := start(t, &fakeNetwork{}, Credentials{})
	for _, line := range []string{"GET / HTTP/1.1", "POST /path HTTP/1.1", "GET https://peer/ HTTP/1.1", "CONNECT peer HTTP/1.1", "CONNECT :80 HTTP/1.1", "CONNECT peer:0 HTTP/1.1", "GET ftp://peer/ HTTP/1.1"} {
		raw := dial(t, address)
		fmt.Fprintf(raw, "%s\r\nHost: peer\r\n\r\n", line)
		r, err := http.ReadResponse(bufio.NewReader(raw), nil)
		if err != nil || r.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %+v, %v", line, r, err)
		}
	}
	raw := dial(t, address)
	fmt.Fprintf(raw, "GET http://peer/ HTTP/1.1\r\nX: %s\r\n\r\n", strings.Repeat("x", 2*maxHeaders))
	r, err := http.ReadResponse(bufio.NewReader(raw), nil)
	if err == nil && r.StatusCode != http.StatusRequestHeaderFieldsTooLarge || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("long headers: %+v, %v", r, err)
	}
	counted(t, s, func(st Stats) bool { return st.Opened == 0 && st.Malformed == 7 })
}
