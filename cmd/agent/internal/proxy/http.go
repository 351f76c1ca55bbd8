package proxy

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// handOver gives connections to the HTTP server. It implements net.Listener.
type handOver struct {
	conns  chan *handed
	closed chan struct{}
	once   sync.Once
}

// handed is a connection whose giver waits for its end.
type handed struct {
	*peeked
	done chan struct{}
	once sync.Once
}

func (h *handed) Close() error {
	h.once.Do(func() { close(h.done) })
	return h.peeked.Close()
}

func newHandOver() *handOver {
	return &handOver{conns: make(chan *handed), closed: make(chan struct{})}
}

// give returns when the server has closed the connection.
func (h *handOver) give(ctx context.Context, p *peeked) {
	_ = p.SetDeadline(time.Time{}) // the server has its own
	c := &handed{peeked: p, done: make(chan struct{})}
	select {
	case h.conns <- c:
		<-c.done
	case <-h.closed:
	case <-ctx.Done():
	}
}

func (h *handOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handOver) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handOver) Addr() net.Addr { return &net.TCPAddr{} }

// maxHeaders bounds the headers of a request, in bytes.
const maxHeaders = 64 << 10

func (s *Server) newHTTP() *http.Server {
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.Host = r.In.Host },
		Transport: &http.Transport{
			DialContext: s.dialHTTP, DisableCompression: true, MaxIdleConns: 100, MaxConnsPerHost: maxClients, IdleConnTimeout: time.Minute,
			ResponseHeaderTimeout: 2 * time.Minute,
		},
		FlushInterval: -1, // at once: it may be a stream of events
		ErrorHandler:  s.httpError,
		ErrorLog:      log.New(discard{}, "", 0),
	}
	return &http.Server{
		ReadHeaderTimeout: helloTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: maxHeaders, ErrorLog: log.New(discard{}, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serveHTTP(w, r, forward) }),
	}
}

// discard takes what the HTTP server says of clients that are gone.
type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// requests are those that are being served.
type requests struct {
	mu    sync.Mutex
	ended bool
	group sync.WaitGroup
}

// begin reports whether one more may be served, which then has to say group.Done.
func (q *requests) begin() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.ended {
		q.group.Add(1)
	}
	return !q.ended
}

// end lets no more begin, and returns when all have ended.
func (q *requests) end() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.group.Wait()
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	if !s.requests.begin() {
		return
	}
	defer s.requests.group.Done()
	if !s.admitHTTP(r) {
		s.unauthorised.Add(1)
		w.Header().Set("Proxy-Authenticate", `Basic realm="warren"`)
		http.Error(w, "this proxy wants a user name and a password", http.StatusProxyAuthRequired)
		return
	}
	switch {
	case r.Method == http.MethodConnect:
		s.httpConnect(w, r)
	case r.URL.Scheme == "http" && r.URL.Host != "":
		s.opened.Add(1)
		s.open.Add(1)
		defer s.open.Add(-1)
		forward.ServeHTTP(w, r)
	default: // such as what a web page makes a browser send here
		s.malformed.Add(1)
		http.Error(w, "this is an HTTP proxy and no web server; it takes CONNECT, and requests for http:// URLs", http.StatusBadRequest)
	}
}

func (s *Server) admitHTTP(r *http.Request) bool {
	if !s.cred.required() {
		return true
	}
	kind, text, _ := strings.Cut(r.Header.Get("Proxy-Authorization"), " ")
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if !strings.EqualFold(kind, "Basic") || err != nil {
		return false
	}
	user, password, _ := strings.Cut(string(b), ":")
	return s.cred.match(user, password)
}

func (s *Server) httpConnect(w http.ResponseWriter, r *http.Request) {
	host, port, err := splitTarget(r.Host)
	if err != nil {
		s.malformed.Add(1)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx := s.baseContext(r) // the request's ends with the client's direction, which may be over already
	far, err := s.dial(ctx, host, port)
	if err != nil {
		s.httpError(w, r, err)
		return
	}
	defer far.Close()
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.failed.Add(1)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Time{})
	if _, err := c.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		return
	}
	client := &peeked{Conn: c, r: buffered.Reader} // some clients do not wait for the answer
	s.join(ctx, client, far, r.Host)
}

// baseContext ends with the server.
func (s *Server) baseContext(r *http.Request) context.Context {
	if l, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && l.BaseContext != nil {
		return l.BaseContext(nil)
	}
	return r.Context()
}

func splitTarget(text string) (string, uint16, error) {
	host, port, err := net.SplitHostPort(text)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || n == 0 || host == "" {
		return "", 0, fmt.Errorf("%.100q: want HOST:PORT", text)
	}
	return host, uint16(n), nil
}

func (s *Server) dialHTTP(ctx context.Context, _, address string) (net.Conn, error) {
	host, port, err := splitTarget(address)
	if err != nil {
		return nil, err
	}
	return s.dial(ctx, host, port)
}

// httpError tells a client why its request got nowhere.
func (s *Server) httpError(w http.ResponseWriter, r *http.Request, err error) {
	to := r.Host
	if r.URL.Host != "" {
		to = r.URL.Host
	}
	status := http.StatusBadGateway
	switch {
	case errors.Is(err, ErrOutside), errors.Is(err, ErrPolicy):
		status = http.StatusForbidden
	case errors.Is(err, ErrDown), errors.Is(err, context.Canceled): // by the server's end, if the client has not gone
		status = http.StatusServiceUnavailable
	case isTimeout(err):
		status = http.StatusGatewayTimeout
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	s.log.Info("not proxied", "to", to, "err", err)
	http.Error(w, fmt.Sprintf("%s: %v", to, err), status)
}
