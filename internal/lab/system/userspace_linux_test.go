package system

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	socks "golang.org/x/net/proxy"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

const annAndBox = `{"grants": [
	{"src": ["ann"], "dst": ["box"], "ip": ["tcp:8080", "udp:53", "icmp:*"]},
	{"src": ["box"], "dst": ["ann"], "ip": ["tcp:80", "udp:53", "icmp:*"]},
]}`

// hostDialer connects from a host of the lab.
type hostDialer struct{ *lab.Host }

func (d hostDialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return d.Host.Dial(ctx, network, address)
}

// serveText answers HTTP requests at an address of a host by what it is and who asks.
func serveText(t *testing.T, h *lab.Host, address, text string) {
	t.Helper()
	l, err := h.Listen(address)
	must(t, err)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprint(w, text, " to ", from)
	})}
	t.Cleanup(func() { s.Close() })
	go s.Serve(l)
}

// echoUDP sends datagrams at an address of a host back.
func echoUDP(t *testing.T, h *lab.Host, address string) {
	t.Helper()
	c, err := h.ListenUDP(address)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
}

func get(t *testing.T, dial func(network, address string) (net.Conn, error), proxy, to string) (int, string) {
	t.Helper()
	tr := &http.Transport{DialContext: func(_ context.Context, network, address string) (net.Conn, error) { return dial(network, address) }}
	defer tr.CloseIdleConnections()
	if proxy != "" {
		tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
	}
	c := http.Client{Transport: tr, Timeout: patience}
	r, err := c.Get(to)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	must(t, err)
	return r.StatusCode, strings.TrimSpace(string(b))
}

// exchangeUDP sends until an answer comes, for the first datagrams may be lost.
func exchangeUDP(t *testing.T, ctx context.Context, h *lab.Host, to string) string {
	t.Helper()
	c, err := h.Dial(ctx, "udp", to)
	must(t, err)
	defer c.Close()
	b := make([]byte, 100)
	for ctx.Err() == nil {
		_, err := c.Write([]byte("hello"))
		must(t, err)
		must(t, c.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		if n, err := c.Read(b); err == nil {
			return string(b[:n])
		}
	}
	return ctx.Err().Error()
}

// TestUserspace: a daemon without any privilege joins; programs beside it reach a peer through its proxies and forwarded ports, a peer reaches what it
// exposes, both over the policy's fence only; and nothing of the host is touched.
func TestUserspace(t *testing.T) {
	ctx, n := start(t)
	setPolicy(t, ctx, n, annAndBox)
	ann := member(t, ctx, n, "ann", lab.Easy)
	annAddrs, err := ann.Status(ctx)
	must(t, err)
	ann4, ann6 := annAddrs.Self.Addresses[0], annAddrs.Self.Addresses[1]

	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o711))
	h, err := n.Lab.Host("box", lab.Easy)
	must(t, err)
	before, err := hostState(h)
	must(t, err)
	box, err := n.Unprivileged(h, filepath.Join(dir, "box"))
	must(t, err)
	const socksAt, httpAt = "127.0.0.1:1080", "127.0.0.1:8118"
	must(t, box.StartDaemon(ctx, "--tun=userspace", "--socks5=1080", "--http-proxy="+httpAt,
		"--forward=tcp/8000="+ann.Name+":80", "--forward=udp/5353="+ann.Name+":53", "--expose=tcp/8080=127.0.0.1:3000", "--expose=tcp/8081=127.0.0.1:3000", "--expose=udp/53"))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("box:\n%s", box.Daemon().Log())
		}
	})
	token, err := n.Token(ctx, "--user", "box")
	must(t, err)
	must(t, box.Up(ctx, token))
	st, err := box.Status(ctx)
	must(t, err)
	box4, box6 := st.Self.Addresses[0], st.Self.Addresses[1]

	for _, a := range []string{ann4, ann6} {
		serveText(t, ann.Host, net.JoinHostPort(a, "80"), "ann's site")
		serveText(t, ann.Host, net.JoinHostPort(a, "81"), "ann's secret")
	}
	echoUDP(t, ann.Host, net.JoinHostPort(ann4, "53"))
	serveText(t, h, "127.0.0.1:3000", "box's service")
	echoUDP(t, h, "127.0.0.1:53")
	near, far := hostDialer{h}.Dial, hostDialer{ann.Host}.Dial

	for _, tc := range []struct {
		what, proxy, to, want string
		status                int
		dial                  func(network, address string) (net.Conn, error)
	}{
		{"HTTP proxy, by name", httpAt, "http://" + ann.Name, "ann's site to " + box4, 200, near},
		{"HTTP proxy, IPv6", httpAt, "http://[" + ann6 + "]", "ann's site to " + box6, 200, near},
		{"HTTP proxy, policy", httpAt, "http://" + ann.Name + ":81", "the network's policy does not allow it", 403, near},
		{"HTTP proxy, elsewhere", httpAt, "http://" + n.Coordinator.Addr.String(), "not in this network", 403, near},
		{"HTTP proxy, nobody", httpAt, "http://" + netip.MustParseAddr(ann4).Next().Next().Next().String(), "no peer", 502, near},
		{"SOCKS5", "", "http://" + net.JoinHostPort(ann4, "80"), "ann's site to " + box4, 200, throughSOCKS(t, h, socksAt)},
		{"SOCKS5, policy", "", "http://" + net.JoinHostPort(ann4, "81"), "connection not allowed by ruleset", 0, throughSOCKS(t, h, socksAt)},
		{"forward", "", "http://127.0.0.1:8000", "ann's site to " + box4, 200, near},
		{"exposed", "", "http://" + net.JoinHostPort(box4, "8080"), "box's service to 127.0.0.1", 200, far},
		{"exposed, IPv6", "", "http://" + net.JoinHostPort(box6, "8080"), "box's service to 127.0.0.1", 200, far},
	} {
		status, body := get(t, tc.dial, tc.proxy, tc.to)
		if status != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %d %q, want %d %q", tc.what, status, body, tc.status, tc.want)
		}
	}
	if got := exchangeUDP(t, ctx, h, "127.0.0.1:5353"); got != "hello" {
		t.Errorf("forwarded datagrams: %s", got)
	}
	if got := exchangeUDP(t, ctx, ann.Host, net.JoinHostPort(box4, "53")); got != "hello" {
		t.Errorf("datagrams to an exposed port: %s", got)
	}
	checkUserspacePings(t, ctx, ann, box, box4)
	checkUserspaceSays(t, ctx, box)

	// What is exposed and not granted the filter keeps out, and says so.
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if c, err := ann.Dial(short, "tcp", net.JoinHostPort(box4, "8081")); err == nil {
		c.Close()
		t.Error("a peer reached a port that the policy does not grant")
	}
	after, err := hostState(h)
	must(t, err)
	if !slices.Equal(before, after) {
		t.Errorf("the host was\n%s\nand is\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// throughSOCKS dials by a SOCKS5 proxy at a host.
func throughSOCKS(t *testing.T, h *lab.Host, at string) func(network, address string) (net.Conn, error) {
	t.Helper()
	d, err := socks.SOCKS5("tcp", at, nil, hostDialer{h})
	must(t, err)
	return d.Dial
}

// hostState is what a tunnel with an interface changes.
func hostState(h *lab.Host) (out []string, err error) {
	for _, list := range []func() ([]string, error){h.Links, h.Routes, h.Rules} {
		lines, err := list()
		if err != nil {
			return nil, err
		}
		out = append(out, lines...)
	}
	return out, nil
}

// checkUserspacePings: both sides ping each other.
func checkUserspacePings(t *testing.T, ctx context.Context, ann, box *warrennet.Device, address string) {
	t.Helper()
	for d, to := range map[*warrennet.Device]string{box: ann.Name, ann: "box"} {
		if out, err := d.Text(ctx, "ping", "--count=1", to); err != nil || !strings.Contains(out, " ms") {
			t.Errorf("ping from %s: %v\n%s", d.Name, err, out)
		}
	}
	p, err := warrennet.NewPinger(ann.Host, address)
	must(t, err)
	defer p.Close()
	p.Size = 3000 // in fragments
	if _, err := p.Ping(5 * time.Second); err != nil {
		t.Errorf("a ping in fragments: %v", err)
	}
}

// checkUserspaceSays: status tells what there is, and what needs an interface says so.
func checkUserspaceSays(t *testing.T, ctx context.Context, box *warrennet.Device) {
	t.Helper()
	out, err := box.Text(ctx, "status")
	must(t, err)
	for _, want := range []string{"SOCKS5 proxy at 127.0.0.1:1080", "HTTP proxy at 127.0.0.1:8118", "tcp/127.0.0.1:8000=anns:80", "tcp/8080=127.0.0.1:3000"} {
		if !strings.Contains(out, want) {
			t.Errorf("status does not tell %q:\n%s", want, out)
		}
	}
	for _, args := range [][]string{{"set", "--advertise=10.1.0.0/16"}, {"set", "--advertise-exit"}, {"up", "--kill-switch"}, {"leaktest"}, {"site", "check"}} {
		if out, err := box.Text(ctx, args...); err == nil || !strings.Contains(out, "--tun=userspace") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	for _, refused := range []string{"firewall mark", "level=ERROR", "UAPI"} {
		if log := box.Daemon().Log(); strings.Contains(log, refused) {
			t.Errorf("the log has %q:\n%s", refused, log)
		}
	}
}
