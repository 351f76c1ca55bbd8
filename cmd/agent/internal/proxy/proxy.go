// Package proxy lets programs of this host reach the network through a tunnel that ends in this process: as a SOCKS5 proxy (RFC 1928, with RFC 1929's user name
// and password, CONNECT and UDP ASSOCIATE) and as an HTTP proxy (CONNECT, and forwarding of http). New makes a Server, Serve has it answer at a listener,
// for one kind or both.
//
// It is no open proxy: what a Network does not resolve is refused, and the client told why as far as its protocol has words for it.
//
//	proxy.go   the server: what is common to both kinds, and telling them apart
//	socks.go   SOCKS5's messages
//	connect.go SOCKS5's connections
//	udp.go     SOCKS5's datagrams
//	http.go    the HTTP proxy
package proxy

import (
	"bufio"
	"context"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"warren/cmd/agent/internal/clients"
	"warren/cmd/agent/internal/splice"
)

// Why a Network does not connect.
var (
	// ErrOutside says that the host is not of the network, and that nothing carries packets to it.
	ErrOutside = errors.New("not in this network")
	// ErrPolicy says that no grant allows it.
	ErrPolicy = errors.New("the network's policy does not allow it")
	// ErrUnknown says that the name has no address.
	ErrUnknown = errors.New("no such name")
	// ErrDown says that there is no tunnel at present.
	ErrDown = errors.New("the tunnel is down")
)

// Network is the way through the tunnel.
type Network interface {
	// Resolve gives where a port of a host, which is a name or an address, is reached, best first. The error wraps one of the above.
	Resolve(ctx context.Context, protocol, host string, port uint16) ([]netip.AddrPort, error)
	DialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// ListenUDP gives a socket for one family.
	ListenUDP(v6 bool) (net.PacketConn, error)
}

// Kinds of proxies that a listener may serve.
type Kinds struct{ SOCKS5, HTTP bool }

// Bounds.
const (
	// maxClients are connections of one listener; others wait in the kernel's queue.
	maxClients = 1024
	// helloTimeout is how long a client may take to say what it wants.
	helloTimeout = 10 * time.Second
	dialTimeout  = 30 * time.Second
	idleStream   = 2 * time.Hour
)

// Credentials are a user name and password; the zero value asks for none.
type Credentials struct{ User, Password string }

func (c Credentials) required() bool { return c != Credentials{} }

// match takes the same time whatever is wrong.
func (c Credentials) match(user, password string) bool {
	u := subtle.ConstantTimeCompare([]byte(user), []byte(c.User))
	p := subtle.ConstantTimeCompare([]byte(password), []byte(c.Password))
	return u&p == 1
}

// Config is what a Server is made with.
type Config struct {
	Network     Network
	Credentials Credentials
	Log         *slog.Logger
}

// Stats counts since the beginning.
type Stats struct {
	// Open are connections and associations that are carried at present, Opened all of them, Failed those whose other end was not reached, Refused those that
	// may not be, Malformed clients that were not understood or did not say what they want, Unauthorised those without the right password.
	Open                                             int64
	Opened, Failed, Refused, Malformed, Unauthorised uint64
}

// Server answers clients.
type Server struct {
	network Network
	cred    Credentials
	log     *slog.Logger
	http    *http.Server
	hand    *handOver // connections for http

	requests requests

	open                                             atomic.Int64
	opened, failed, refused, malformed, unauthorised atomic.Uint64
}

// New makes a Server; Run has to run while it serves.
func New(cfg Config) *Server {
	s := &Server{network: cfg.Network, cred: cfg.Credentials, log: cfg.Log, hand: newHandOver()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.http = s.newHTTP()
	return s
}

// Stats tells what was done.
func (s *Server) Stats() Stats {
	return Stats{
		Open: s.open.Load(), Opened: s.opened.Load(), Failed: s.failed.Load(), Refused: s.refused.Load(), Malformed: s.malformed.Load(),
		Unauthorised: s.unauthorised.Load(),
	}
}

// Run does what HTTP clients want until ctx ends; then it closes their connections.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.http.Close() })
	defer stop()
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	err := s.http.Serve(s.hand)
	s.requests.end() // the server does not wait for those that took their connection over
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Serve answers clients of a listener until ctx ends; then it closes it and all connections.
func (s *Server) Serve(ctx context.Context, l net.Listener, kinds Kinds) error {
	failed := func(err error) { s.log.Warn("proxy does not accept", "address", l.Addr(), "err", err) }
	clients.Serve(ctx, l, maxClients, failed, func(c net.Conn) { s.client(ctx, c, kinds) })
	return nil
}

// client serves one connection and returns when it is closed.
func (s *Server) client(ctx context.Context, c net.Conn, kinds Kinds) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := c.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return
	}
	p := &peeked{Conn: c, r: bufio.NewReader(c)}
	first, err := p.r.Peek(1)
	if err != nil {
		s.malformed.Add(1)
		return
	}
	switch socks := first[0] == version5; {
	case socks && kinds.SOCKS5:
		s.serveSOCKS(ctx, p)
	case !socks && kinds.HTTP:
		s.hand.give(ctx, p)
	default:
		s.malformed.Add(1)
		s.log.Debug("a client of the proxy speaks another protocol", "from", c.RemoteAddr(), "byte", first[0])
	}
}

// peeked is a connection of which something was read already.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// CloseWrite passes on the end of one direction where the connection knows that.
func (p *peeked) CloseWrite() error {
	if h, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return p.Conn.Close()
}

// dial connects to a host of the network: to one of its addresses after the other.
func (s *Server) dial(ctx context.Context, host string, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, errNoAnswer)
	defer cancel()
	at, err := s.network.Resolve(ctx, "tcp", host, port)
	for _, a := range at {
		var c net.Conn
		if c, err = s.network.DialTCP(ctx, a); err == nil {
			return c, nil
		}
	}
	switch {
	case err == nil:
		err = ErrUnknown
	case errors.Is(err, ErrOutside), errors.Is(err, ErrPolicy):
		s.refused.Add(1)
		return nil, err
	}
	s.failed.Add(1)
	return nil, err
}

var errNoAnswer = errors.New("no answer in " + dialTimeout.String())

// join carries a stream until it ends.
func (s *Server) join(ctx context.Context, client, far net.Conn, what string) {
	s.opened.Add(1)
	s.open.Add(1)
	defer s.open.Add(-1)
	stop := context.AfterFunc(ctx, func() {
		client.Close()
		far.Close()
	})
	defer stop()
	r := splice.Streams(client, far, idleStream)
	s.log.Debug("proxied connection ended", "to", what, "out", r.Out, "in", r.In, "err", r.Err)
}
