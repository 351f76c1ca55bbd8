package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/coder/websocket"

	"warren/proto/relayframe"
)

// stagger is the head start that a URL has before the next one is tried too, as in RFC 8305: a host whose IPv4 leads nowhere reaches the
// relay over IPv6 at once.
const stagger = 250 * time.Millisecond

// way is a WebSocket connection to a relay, before its handshake.
type way struct {
	at     string // its URL
	ws     *websocket.Conn
	raw    net.Conn // as Dial made it
	cork   *cork
	tls    *tls.ConnectionState // nil without TLS
	remote netip.AddrPort
}

// send writes a message.
func (w *way) send(ctx context.Context, b []byte) error {
	return w.cork.together(func() error { return w.ws.Write(ctx, websocket.MessageBinary, b) })
}

// dialFirst tries the relay's URLs, that which answered last first, and gives the first that answers. The handshake is not part of it: a relay
// takes a device's newest connection for the only one.
func (c *Client) dialFirst(ctx context.Context) (*way, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		w   *way
		i   int
		err error
	}
	urls := c.cfg.Relay.GetUrls()
	results := make(chan result, len(urls))
	for n := range urls {
		i := (c.best + n) % len(urls)
		go func() {
			timer := time.NewTimer(time.Duration(n) * stagger)
			defer timer.Stop()
			select {
			case <-ctx.Done():
				results <- result{nil, i, ctx.Err()}
				return
			case <-timer.C:
			}
			w, err := c.dial(ctx, urls[i])
			results <- result{w, i, err}
		}()
	}
	var errs []error
	for n := range urls {
		r := <-results
		if r.err == nil {
			c.best = r.i
			go func() {
				for range len(urls) - n - 1 {
					if late := <-results; late.w != nil {
						late.w.ws.CloseNow()
					}
				}
			}()
			return r.w, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", urls[r.i], r.err))
	}
	return nil, errors.Join(errs...)
}

// dial connects to a URL and upgrades.
func (c *Client) dial(ctx context.Context, at string) (*way, error) {
	config, err := c.tlsConfig(at)
	if err != nil {
		return nil, err
	}
	w := &way{at: at}
	raw := func(network, address string) (net.Conn, error) {
		conn, err := c.cfg.Dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
			w.remote = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
		}
		w.raw = conn
		return &cork{Conn: conn}, nil
	}
	// The transport's own contexts go on when the request has ended, for the sake of a next one, which there is not.
	t := &http.Transport{
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			conn, err := raw(network, address)
			if err != nil {
				return nil, err
			}
			w.cork = corkOf(conn)
			return conn, nil
		},
		DialTLSContext: func(_ context.Context, network, address string) (net.Conn, error) {
			under, err := raw(network, address)
			if err != nil {
				return nil, err
			}
			conn, err := handshakeTLS(ctx, under, config)
			if err != nil {
				return nil, err
			}
			s := conn.ConnectionState()
			w.tls, w.cork = &s, &cork{Conn: conn, below: corkOf(conn)}
			return w.cork, nil
		},
	}
	w.ws, _, err = websocket.Dial(ctx, strings.TrimSuffix(at, "/")+relayframe.Path, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: t}, Subprotocols: []string{relayframe.Subprotocol}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		t.CloseIdleConnections()
		return nil, err
	}
	return w, nil
}
