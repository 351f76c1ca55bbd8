package netcheck

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"warren/nat/stunmsg"
)

// tries are the pauses between repetitions of a request. The last is how long an answer to the last one may take.
var tries = [...]time.Duration{150 * time.Millisecond, 300 * time.Millisecond, 600 * time.Millisecond, 900 * time.Millisecond}

// reply is the answer to a request, and where it came from.
type reply struct {
	from, mapped netip.AddrPort
	rtt          time.Duration
}

// socket asks STUN servers from one port. Any number of goroutines may.
type socket struct {
	conn Conn

	mu      sync.Mutex
	pending map[stunmsg.TxID]waiter // bounded by who asks
	own     map[stunmsg.TxID]func() // our own requests that are to come back to us
}

type waiter struct {
	sent time.Time
	to   chan<- reply
}

// open gives a socket; close ends its goroutine.
func (c *Config) open(network string) (*socket, error) {
	conn, err := c.Listen(network)
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn, pending: map[stunmsg.TxID]waiter{}, own: map[stunmsg.TxID]func(){}}
	go s.read()
	return s, nil
}

func (s *socket) close() { s.conn.Close() }

func (s *socket) port() uint16 {
	if a, ok := s.conn.LocalAddr().(*net.UDPAddr); ok {
		return uint16(a.Port)
	}
	return 0
}

// read takes what comes until the socket is closed.
func (s *socket) read() {
	b := make([]byte, 2048)
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(b)
		if err != nil {
			if temporary(err) {
				continue
			}
			return
		}
		m, err := stunmsg.Parse(b[:n])
		if err != nil {
			continue
		}
		s.take(m, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	}
}

// take matches a message by its transaction id, which nobody who did not see the request can guess.
func (s *socket) take(m *stunmsg.Message, from netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m.Class {
	case stunmsg.Request:
		if back := s.own[m.Tx]; back != nil {
			back()
		}
	case stunmsg.Success:
		if w, ok := s.pending[m.Tx]; ok {
			delete(s.pending, m.Tx)
			select {
			case w.to <- reply{from, m.Mapped, max(time.Since(w.sent), time.Microsecond)}:
			default: // it has its answer
			}
		}
	}
}

// ask sends a request, repeats it until it is answered, and reports whether it was. request makes it anew with each transaction id.
func (s *socket) ask(ctx context.Context, to netip.AddrPort, request func(stunmsg.TxID) []byte) (reply, bool) {
	got := make(chan reply, 1)
	var sent []stunmsg.TxID
	defer func() { s.forget(sent) }()
	for _, wait := range tries {
		tx := stunmsg.NewTxID()
		sent = append(sent, tx)
		s.mu.Lock()
		s.pending[tx] = waiter{time.Now(), got}
		s.mu.Unlock()
		if _, err := s.conn.WriteToUDPAddrPort(request(tx), to); err != nil && tooLong(err) {
			return reply{}, false
		}
		timer := time.NewTimer(wait)
		select {
		case r := <-got:
			timer.Stop()
			return r, true
		case <-ctx.Done():
			timer.Stop()
			return reply{}, false
		case <-timer.C:
		}
	}
	return reply{}, false
}

func (s *socket) forget(sent []stunmsg.TxID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tx := range sent {
		delete(s.pending, tx)
	}
}

// expect has f called when a request with one of our own transaction ids comes.
func (s *socket) expect(tx stunmsg.TxID, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own[tx] = f
}

// plain is the request that asks for nothing special.
func plain(tx stunmsg.TxID) []byte { return stunmsg.NewRequest(tx, nil, nil) }
