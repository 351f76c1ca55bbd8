//go:build !linux

package bind

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
)

// batchSize: one system call a packet. Batches, offloads, marks and pinned source addresses are not yet on this system.
const batchSize = 1

// socket is one UDP socket of the tunnel.
type socket struct {
	conn    *net.UDPConn
	network string
	port    uint16
	markErr error
}

func listenSocket(network string, port uint16, mark uint32, _, _ bool, _ *slog.Logger) (*socket, error) {
	c, err := new(net.ListenConfig).ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	s := &socket{conn: c.(*net.UDPConn), network: network}
	s.port = uint16(s.conn.LocalAddr().(*net.UDPAddr).Port)
	if mark != 0 {
		s.markErr = s.setMark(mark)
	}
	return s, nil
}

func (s *socket) setMark(mark uint32) error {
	if mark == 0 {
		return nil
	}
	return errors.New("not yet on this system: firewall marks")
}

func (s *socket) offloads() (gso, gro bool) { return false, false }

func (s *socket) close() error { return s.conn.Close() }

func (s *socket) writeTo(_ netip.Addr, remote netip.AddrPort, m []byte) error {
	_, err := s.conn.WriteToUDPAddrPort(m, remote)
	return err
}

// send sends packets to one destination.
func (s *socket) send(bufs [][]byte, r *route) error {
	for _, m := range bufs {
		if err := s.writeTo(r.Local, r.Remote, m); err != nil {
			return err
		}
	}
	return nil
}

// wireAddr has nothing to work out here.
type wireAddr struct{}

func newWireAddr(netip.Addr, netip.AddrPort) wireAddr { return wireAddr{} }

// rxBatch holds one datagram.
type rxBatch struct {
	data []byte
	from netip.AddrPort
}

func newRxBatch(*socket) *rxBatch { return new(rxBatch) }

func (r *rxBatch) read(s *socket, bufs [][]byte) (int, error) {
	n, from, err := s.conn.ReadFromUDPAddrPort(bufs[0])
	if err != nil {
		return 0, err
	}
	r.data, r.from = bufs[0][:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	return 1, nil
}

func (r *rxBatch) message(int) (data []byte, segment int) { return r.data, 0 }

func (r *rxBatch) source(int) netip.AddrPort { return r.from }

func (r *rxBatch) local(int) netip.Addr { return netip.Addr{} }
