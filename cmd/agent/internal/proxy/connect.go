package proxy

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// serveSOCKS serves a SOCKS5 client. The connection's deadline is set.
func (s *Server) serveSOCKS(ctx context.Context, c *peeked) {
	if !s.admit(c) {
		return
	}
	q, err := readRequest(c)
	if err != nil {
		s.malformed.Add(1)
		if errors.Is(err, errAddressType) {
			s.answer(c, replyNoAddresses, netip.AddrPort{})
		}
		return
	}
	switch q.command {
	case commandConnect:
		s.connect(ctx, c, q.target)
	case commandAssociate:
		s.associate(ctx, c, q.target)
	default:
		s.malformed.Add(1)
		s.answer(c, replyNoCommand, netip.AddrPort{})
	}
}

// admit agrees on a method and checks the password if one is needed.
func (s *Server) admit(c *peeked) bool {
	offered, err := readMethods(c)
	if err != nil {
		s.malformed.Add(1)
		return false
	}
	want := byte(methodNone)
	if s.cred.required() {
		want = methodPassword
	}
	if !bytes.Contains(offered, []byte{want}) {
		s.unauthorised.Add(1)
		_, _ = c.Write([]byte{version5, methodRefused})
		return false
	}
	if _, err := c.Write([]byte{version5, want}); err != nil {
		return false
	}
	if want == methodNone {
		return true
	}
	user, password, err := readPassword(c)
	if err != nil {
		s.malformed.Add(1)
		return false
	}
	if !s.cred.match(user, password) {
		s.unauthorised.Add(1)
		s.log.Warn("a client of the proxy has a wrong user name or password", "from", c.RemoteAddr())
		_, _ = c.Write([]byte{authVersion, 1})
		return false
	}
	_, err = c.Write([]byte{authVersion, 0})
	return err == nil
}

// answer answers a request and reports whether the client has got it.
func (s *Server) answer(c net.Conn, r reply, at netip.AddrPort) bool {
	_, err := c.Write(appendReply(nil, r, at))
	return err == nil
}

func (s *Server) connect(ctx context.Context, c *peeked, t target) {
	to := net.JoinHostPort(t.host, strconv.Itoa(int(t.port)))
	far, err := s.dial(ctx, t.host, t.port)
	_ = c.SetDeadline(time.Now().Add(helloTimeout)) // it was for the request, and dialling may have taken longer
	if err != nil {
		s.log.Info("not proxied", "to", to, "err", err)
		s.answer(c, replyTo(err), netip.AddrPort{})
		return
	}
	defer far.Close()
	if !s.answer(c, replyDone, addrPortOf(far.LocalAddr())) {
		return
	}
	_ = c.SetDeadline(time.Time{})
	s.join(ctx, c, far, to)
}

// addrPortOf gives the zero value for what has none.
func addrPortOf(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	case *net.UDPAddr:
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
