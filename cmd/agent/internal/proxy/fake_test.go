package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// fakeNetwork has a few names, whose hosts are at loopback addresses of this one.
type fakeNetwork struct {
	hosts    map[string]netip.Addr
	port     uint16 // what every port of a host stands for
	err      error  // of DialTCP
	resolved atomic.Int64
}

const (
	outside = "203.0.113.9"
	refused = "100.64.0.9" // by policy
)

func (n *fakeNetwork) Resolve(_ context.Context, protocol, host string, port uint16) ([]netip.AddrPort, error) {
	n.resolved.Add(1)
	if a, ok := n.hosts[host]; ok {
		if n.port != 0 {
			port = n.port
		}
		return []netip.AddrPort{netip.AddrPortFrom(a, port)}, nil
	}
	switch host {
	case outside:
		return nil, fmt.Errorf("%s: %w", host, ErrOutside)
	case refused:
		return nil, fmt.Errorf("%s to port %d of %s: %w", protocol, port, host, ErrPolicy)
	}
	return nil, fmt.Errorf("%s: %w", host, ErrUnknown)
}

func (n *fakeNetwork) DialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if n.err != nil {
		return nil, n.err
	}
	return new(net.Dialer).DialContext(ctx, "tcp", to.String())
}

func (n *fakeNetwork) ListenUDP(v6 bool) (net.PacketConn, error) {
	if v6 {
		return net.ListenPacket("udp6", "[::1]:0")
	}
	return net.ListenPacket("udp4", "127.0.0.1:0")
}

var here = netip.MustParseAddr("127.0.0.1")

// start serves a proxy of both kinds.
func start(t *testing.T, n Network, cred Credentials) (s *Server, address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s = New(Config{Network: n, Credentials: cred})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- s.Run(ctx) }()
	go func() { done <- s.Serve(ctx, l, Kinds{true, true}) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("the server: %v", err)
			}
		}
		if st := s.Stats(); st.Open != 0 {
			t.Errorf("left open: %+v", st)
		}
	})
	return s, l.Addr().String()
}

// counted waits until the counters are as they should be: the server counts after it has answered.
func counted(t *testing.T, s *Server, ok func(Stats) bool) {
	t.Helper()
	tick, late := time.NewTicker(time.Millisecond), time.After(10*time.Second)
	defer tick.Stop()
	for !ok(s.Stats()) {
		select {
		case <-tick.C:
		case <-late:
			t.Errorf("%+v", s.Stats())
			return
		}
	}
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}
