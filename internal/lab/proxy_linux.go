package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

const (
	proxyPort     = 3128
	proxyPatience = 10 * time.Second // for a request, and for a connection to its target
)

// startProxy serves an HTTP proxy (RFC 9110, section 9.3.6) on the router's inside, as many companies have it: CONNECT to port 443 and
// nothing else.
func (s *Site) startProxy() (url string, err error) {
	at := netip.AddrPortFrom(nth(s.inside.v4, 1).Addr(), proxyPort)
	l, err := s.router.Listen(at.String())
	if err != nil {
		return "", fmt.Errorf("proxy: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.lab.stops = append(s.lab.stops, func() {
		cancel()
		l.Close()
	})
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				go s.router.relayConnection(ctx, c)
			}
		}
	}()
	return "http://" + at.String(), nil
}

// relayConnection serves one connection of the proxy's, until ctx ends at the latest.
func (h *Host) relayConnection(ctx context.Context, client net.Conn) {
	defer client.Close()
	defer context.AfterFunc(ctx, func() { client.Close() })()
	client.SetDeadline(time.Now().Add(proxyPatience))
	in := bufio.NewReader(client)
	req, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	refuse := func(status int, why string) {
		fmt.Fprintf(client, "HTTP/1.1 %d %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n", status, http.StatusText(status), len(why)+1, why)
	}
	to, err := netip.ParseAddrPort(req.Host)
	switch {
	case req.Method != http.MethodConnect:
		refuse(http.StatusMethodNotAllowed, "only CONNECT is served")
		return
	case err != nil:
		refuse(http.StatusBadGateway, "there are no names in the lab, only addresses")
		return
	case to.Port() != 443:
		refuse(http.StatusForbidden, "only port 443 is served")
		return
	}
	within, cancel := context.WithTimeout(ctx, proxyPatience)
	defer cancel()
	server, err := h.Dial(within, "tcp", to.String())
	if err != nil {
		refuse(http.StatusBadGateway, err.Error())
		return
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	client.SetDeadline(time.Time{})
	join(client, in, server)
}

// join copies both ways until both sides have said that they are done, or one has failed.
func join(client net.Conn, fromClient io.Reader, server net.Conn) {
	done := make(chan error, 2)
	one := func(to net.Conn, from io.Reader) {
		_, err := io.Copy(to, from)
		if half, ok := to.(*net.TCPConn); ok && err == nil {
			err = half.CloseWrite()
		}
		done <- err
	}
	go one(server, fromClient)
	go one(client, server)
	if <-done == nil {
		<-done
	}
}
