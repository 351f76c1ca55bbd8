// Package connectproxy reaches TCP servers through an HTTP proxy's CONNECT method (RFC 9110 section 9.3.6), for hosts that may talk to
// nothing else. New reads the setting and the environment; Dialer.DialContext goes straight where no proxy is meant to be used.
package connectproxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// Off is the setting that ignores the environment.
const Off = "off"

// timeout bounds the proxy's answer.
const timeout = 10 * time.Second

// maxHeader bounds the proxy's answer in bytes.
const maxHeader = 16 << 10

// ErrRefused says that the proxy does not connect to where it was asked to.
var ErrRefused = errors.New("the HTTP proxy refused")

// DialFunc connects to an address.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Dialer connects, through a proxy where one is to be used.
type Dialer struct {
	forward DialFunc
	choose  func(*url.URL) (*url.URL, error)
	// TLS is for proxies of https URLs; nil takes the system's defaults.
	TLS *tls.Config
}

// New makes a Dialer that connects by forward. setting is the proxy's URL, http or https, with user and password if it wants them; "off"; or
// empty, for HTTPS_PROXY and NO_PROXY of the environment, where loopback is never proxied.
func New(setting string, forward DialFunc) (*Dialer, error) {
	d := &Dialer{forward: forward}
	switch setting {
	case Off:
		d.choose = func(*url.URL) (*url.URL, error) { return nil, nil }
	case "":
		d.choose = httpproxy.FromEnvironment().ProxyFunc()
	default:
		u, err := parse(setting)
		if err != nil {
			return nil, err
		}
		d.choose = func(*url.URL) (*url.URL, error) { return u, nil }
	}
	return d, nil
}

// Check finds a setting that New would refuse.
func Check(setting string) error {
	_, err := New(setting, nil)
	return err
}

func parse(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("proxy %q is not of the form http://[USER:PASSWORD@]HOST:PORT", redacted(s))
	}
	return u, check(u)
}

func check(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("proxy %q: only http and https proxies can be used, not %q", u.Redacted(), u.Scheme)
	}
	return nil
}

// redacted keeps a password out of messages even when the rest makes no sense.
func redacted(s string) string {
	if u, err := url.Parse(s); err == nil {
		return u.Redacted()
	}
	return "(not shown)"
}

// DialContext connects to a TCP address. The proxy resolves its name.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	proxy, err := d.choose(&url.URL{Scheme: "https", Host: address})
	if err != nil {
		return nil, fmt.Errorf("proxy from the environment: %w", err)
	}
	if proxy == nil {
		return d.forward(ctx, network, address)
	}
	if err := check(proxy); err != nil {
		return nil, err
	}
	conn, err := d.forward(ctx, network, hostPort(proxy))
	if err != nil {
		return nil, fmt.Errorf("HTTP proxy %s: %w", proxy.Redacted(), err)
	}
	// Reads and writes of the handshake end with ctx too.
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	through, err := d.connect(ctx, conn, proxy, address)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("HTTP proxy %s: %w", proxy.Redacted(), err)
	}
	return through, nil
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// connect asks for the tunnel and gives the connection inside.
func (d *Dialer) connect(ctx context.Context, conn net.Conn, proxy *url.URL, address string) (net.Conn, error) {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	if proxy.Scheme == "https" {
		config := &tls.Config{}
		if d.TLS != nil {
			config = d.TLS.Clone()
		}
		if config.ServerName == "" {
			config.ServerName = proxy.Hostname()
		}
		t := tls.Client(conn, config)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = t
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	if err := answer(conn, req); err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Time{})
}

// answer reads the proxy's word byte by byte, so that nothing of what follows it is taken away. The server does not speak first, but a proxy
// might send both in one segment.
func answer(conn net.Conn, req *http.Request) error {
	r := bufio.NewReaderSize(&headerReader{conn: conn, left: maxHeader}, 1)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return fmt.Errorf("no answer to CONNECT: %w", err)
	}
	if resp.StatusCode == http.StatusProxyAuthRequired {
		return fmt.Errorf("%w: it wants a user and password (%s); set them in the proxy's URL", ErrRefused, resp.Status)
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%w to connect to %s: %s", ErrRefused, req.Host, resp.Status)
	}
	return nil
}

// headerReader gives a byte at a time, and a bounded number of them.
type headerReader struct {
	conn net.Conn
	left int
}

func (h *headerReader) Read(b []byte) (int, error) {
	if h.left == 0 {
		return 0, errors.New("the answer is too long")
	}
	h.left--
	return h.conn.Read(b[:min(len(b), 1)])
}
