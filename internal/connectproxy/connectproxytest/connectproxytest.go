// Package connectproxytest has an HTTP proxy for tests: serve a Proxy with net/http.
package connectproxytest

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// Proxy serves CONNECT for one user, or for all while User is empty.
type Proxy struct {
	User, Password string
	connected      atomic.Int64
}

// Connected tells how many tunnels were made.
func (p *Proxy) Connected() int { return int(p.connected.Load()) }

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "this proxy serves CONNECT only", http.StatusMethodNotAllowed)
		return
	}
	user, password, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
	if p.User != "" && (user != p.User || password != p.Password) {
		w.Header().Set("Proxy-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	to, err := new(net.Dialer).DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer to.Close()
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	p.connected.Add(1)
	go func() {
		io.Copy(to, rw)
		to.Close()
	}()
	io.Copy(conn, to)
}
