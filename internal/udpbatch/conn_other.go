//go:build !linux

package udpbatch

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
)

// BatchSize: one system call a packet. Batches, offloads, marks and pinned source addresses are not yet on this system.
const BatchSize = 1

// Conn is one UDP socket.
type Conn struct {
	conn    *net.UDPConn
	network string
	port    uint16
	mapped  bool
	markErr error
}

// Listen opens a socket; network is udp for both address families, udp4 or udp6.
func Listen(network, address string, o Options) (*Conn, error) {
	c, err := new(net.ListenConfig).ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	s := &Conn{conn: c.(*net.UDPConn), network: network}
	s.port = uint16(s.conn.LocalAddr().(*net.UDPAddr).Port)
	if o.Mark != 0 {
		s.markErr = s.SetMark(o.Mark)
	}
	return s, nil
}

// Adopt fails: no socket is passed on.
func Adopt(string, *os.File, Options) (*Conn, error) {
	return nil, errors.New("not yet on this system: sockets that another process passed on")
}

// UDPConn is the socket itself, for one datagram at a time; a Reader is not used beside it.
func (s *Conn) UDPConn() *net.UDPConn { return s.conn }

// SetMark fails for any mark but none.
func (s *Conn) SetMark(mark uint32) error {
	if mark == 0 {
		return nil
	}
	return errors.New("not yet on this system: firewall marks")
}

// Offloads tells which are in use.
func (s *Conn) Offloads() (gso, gro bool) { return false, false }

// Close closes the socket; a Reader waiting on it gets net.ErrClosed.
func (s *Conn) Close() error { return s.conn.Close() }

// WriteTo sends one datagram.
func (s *Conn) WriteTo(_ netip.Addr, remote netip.AddrPort, m []byte) error {
	_, err := s.conn.WriteToUDPAddrPort(m, remote)
	return err
}

// WriteFrom is WriteTo.
func (s *Conn) WriteFrom(from Source, remote netip.AddrPort, m []byte) error {
	return s.WriteTo(from.Local, remote, m)
}

// Send sends datagrams to one destination.
func (s *Conn) Send(bufs [][]byte, r *Route) error {
	for _, m := range bufs {
		if err := s.WriteTo(r.Local, r.Remote, m); err != nil {
			return err
		}
	}
	return nil
}

// wireAddr has nothing to work out here.
type wireAddr struct{}

func newWireAddr(Source, netip.AddrPort, bool) wireAddr { return wireAddr{} }

// Reader receives, for one goroutine.
type Reader struct {
	sock *Conn
	data []byte
	from netip.AddrPort
}

// NewReader makes a reader.
func NewReader(s *Conn) *Reader { return &Reader{sock: s} }

// Own is nil: Read fills the buffers that it is given.
func (r *Reader) Own() [][]byte { return nil }

// Read waits for one datagram and puts it into bufs.
func (r *Reader) Read(bufs [][]byte) (int, error) {
	n, from, err := r.sock.conn.ReadFromUDPAddrPort(bufs[0])
	if err != nil {
		return 0, err
	}
	r.data, r.from = bufs[0][:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	return 1, nil
}

// Message gives the datagram.
func (r *Reader) Message(int) (data []byte, segment int) { return r.data, 0 }

// Source is where it came from.
func (r *Reader) Source(int) netip.AddrPort { return r.from }

// Local is not told by this system.
func (r *Reader) Local(int) netip.Addr { return netip.Addr{} }
