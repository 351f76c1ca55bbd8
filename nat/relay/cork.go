package relay

import (
	"bufio"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// cork is a connection whose writes can be held together. A WebSocket message is written in pieces of 4 KiB, and TLS writes each record by
// itself: without it, a message of 64 KiB takes sixteen system calls, and as many packets to the kernel.
//
//	WebSocket  ->  cork  ->  TLS  ->  cork  ->  TCP
type cork struct {
	net.Conn
	below *cork // held meanwhile; nil for none

	mu   sync.Mutex
	held *[]byte // nil while writes go through
}

// hold keeps what is written from now on until release.
func (c *cork) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = buffers.Get().(*[]byte)
		*c.held = (*c.held)[:0]
	}
}

// release writes what was held.
func (c *cork) release() (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.held
	if c.held = nil; b == nil {
		return nil
	}
	if c.below != nil {
		c.below.hold()
	}
	if len(*b) > 0 {
		_, err = c.Conn.Write(*b)
	}
	if c.below != nil {
		if last := c.below.release(); err == nil {
			err = last
		}
	}
	*b = (*b)[:cap(*b)]
	buffers.Put(b)
	return err
}

// Write holds b back or passes it on.
func (c *cork) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		return c.Conn.Write(b)
	}
	*c.held = append(*c.held, b...)
	return len(b), nil
}

// Close does not let TLS say goodbye, which would wait for what does not get written: whoever closes a connection to somebody that no longer reads
// must not have to.
func (c *cork) Close() error {
	if c.below != nil {
		c.below.Conn.Close()
	}
	return c.Conn.Close()
}

// CloseWrite is TCP's, which an HTTP server uses.
func (c *cork) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return net.ErrClosed
}

// together has everything that send writes leave at once. A nil cork is for a connection that has none.
func (c *cork) together(send func() error) error {
	if c == nil {
		return send()
	}
	c.hold()
	err := send()
	if last := c.release(); err == nil {
		err = last
	}
	return err
}

// Listener makes connections of l ones of which a relay's messages leave in one piece. It is for the listener below TLS; a relay works without.
func Listener(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &cork{Conn: c}, nil
}

// corkOf finds the cork that Listener has put below a connection; nil if it has not.
func corkOf(c net.Conn) *cork {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	k, _ := c.(*cork)
	return k
}

// hijacked has a WebSocket made of a connection, and notes its cork.
type hijacked struct {
	http.ResponseWriter
	cork *cork // nil if there is none
}

// Hijack implements http.Hijacker.
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if h.cork = corkOf(c); h.cork != nil && h.cork != c {
		c = &cork{Conn: c, below: h.cork}
	}
	return c, rw, nil
}
