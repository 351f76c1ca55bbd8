package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"warren/internal/sim/natmodel"
)

// TestTCP443Only lets TLS out and nothing else.
//
//	host --- NAT that blocks --- internet --- server
func TestTCP443Only(t *testing.T) {
	l := newLab(t)
	server, host := mustHost(t, l, "server", None), mustHost(t, l, "host", TCP443Only)
	serve(t, server, ":443")
	serve(t, server, ":80")
	if got := ask(t, host, netip.AddrPortFrom(server.Addr, 443), soon); got != host.Public.String() {
		t.Errorf("on port 443 the server sees %q", got)
	}
	if got := ask(t, host, netip.AddrPortFrom(server.Addr, 80), never); got != "" {
		t.Errorf("on port 80 the server sees %q", got)
	}
	c := socket(t, server, ":443")
	send(t, socket(t, host, ":0"), netip.AddrPortFrom(server.Addr, 443), "QUIC")
	if from, _ := receive(t, c, never); from.IsValid() {
		t.Errorf("UDP to port 443 came from %s", from)
	}
}

// throughProxy sends a request to the host's proxy and gives the status and, if that is 200, what comes through the tunnel.
func throughProxy(t *testing.T, h *Host, request string) (status int, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", strings.TrimPrefix(h.Uplinks[0].Proxy, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: proxy\r\n\r\n", request)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"})
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusOK {
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		text = string(b)
	}
	return resp.StatusCode, text
}

// TestProxyOnly has a proxy as the only way out.
//
//	host --- router with a proxy, forwards nothing --- internet --- server
func TestProxyOnly(t *testing.T) {
	l := newLab(t)
	server, host := mustHost(t, l, "server", None), mustHost(t, l, "host", ProxyOnly)
	serve(t, server, ":443")
	serve(t, server, ":80")
	at := netip.AddrPortFrom(server.Addr, 443)
	if got := ask(t, host, at, never); got != "" {
		t.Errorf("without the proxy the server sees %q", got)
	}
	for _, tc := range []struct {
		request, text string
		status        int
	}{
		{"CONNECT " + at.String(), host.Public.String(), 200},
		{"CONNECT " + netip.AddrPortFrom(server.Addr, 80).String(), "", 403},
		{"CONNECT server:443", "", 502},
		{"CONNECT " + netip.AddrPortFrom(host.Public, 443).String(), "", 502}, // nobody listens there
		{"GET http://" + at.String() + "/", "", 405},
	} {
		if status, text := throughProxy(t, host, tc.request); status != tc.status || text != tc.text {
			t.Errorf("%s: %d, %q; want %d, %q", tc.request, status, text, tc.status, tc.text)
		}
	}
	out, err := host.Command(t.Context(), "sh", "-c", "echo $HTTPS_PROXY").Output()
	if err != nil || strings.TrimSpace(string(out)) != host.Uplinks[0].Proxy {
		t.Errorf("programs on the host are told of the proxy %q, %v", out, err)
	}
}

// TestCaptivePortal answers in the place of web servers until somebody agrees.
//
//	host --- router with a portal --- internet --- server
func TestCaptivePortal(t *testing.T) {
	l := newLab(t)
	server := mustHost(t, l, "server", None)
	serve(t, server, ":80")
	serve(t, server, ":443")
	site := mustSite(t, l, "café", Access{NAT: natmodel.Easy(), Block: CaptivePortal})
	host := mustHostAt(t, l, "host", site)
	client := &http.Client{
		Transport: &http.Transport{DialContext: host.Dial, DisableKeepAlives: true},
		Timeout:   soon, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	get := func(method, url string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("Location")
	}
	if code, to := get("GET", "http://"+server.Addr.String()+"/generate_204"); code != 302 || to != site.PortalURL() {
		t.Errorf("the portal answers %d, %q", code, to)
	}
	if got := ask(t, host, netip.AddrPortFrom(server.Addr, 443), never); got != "" {
		t.Errorf("TLS passes: %q", got)
	}
	c, s := socket(t, host, ":0"), socket(t, server, ":1000")
	send(t, c, netip.AddrPortFrom(server.Addr, 1000), "early")
	if from, _ := receive(t, s, never); from.IsValid() {
		t.Errorf("UDP passes, from %s", from)
	}
	if code, _ := get("GET", site.PortalURL()); code != 200 {
		t.Errorf("the portal's own page: %d", code)
	}
	if code, _ := get("POST", site.PortalURL()); code != 200 {
		t.Errorf("agreeing: %d", code)
	}
	for _, port := range []uint16{80, 443} {
		if got := ask(t, host, netip.AddrPortFrom(server.Addr, port), soon); got != host.Public.String() {
			t.Errorf("open, port %d: the server sees %q", port, got)
		}
	}
	send(t, c, netip.AddrPortFrom(server.Addr, 1000), "late")
	if from, _ := receive(t, s, soon); from.Addr() != host.Public {
		t.Errorf("open, and UDP comes from %s", from)
	}
}
