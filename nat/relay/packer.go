package relay

import (
	"sync"

	"warren/internal/udpbatch"
	"warren/nat/relay/datagram"
)

// storeSize is room for a batch of full packets.
const storeSize = 64 << 10

// packer makes datagrams of packets, to be sent together. It is for one goroutine.
type packer struct {
	scratch datagram.Scratch
	store   []byte
	used    int
	bufs    [][]byte
}

// packers are shared by all connections, of which few are busy at once.
var packers = sync.Pool{New: func() any { return &packer{bufs: make([][]byte, 0, udpbatch.BatchSize)} }}

// add takes a datagram that is ready and stays where it is.
func (p *packer) add(d []byte) { p.bufs = append(p.bufs, d) }

// pack copies a packet and makes a datagram of it. It reports whether there was room.
func (p *packer) pack(s *datagram.Sealer, channel uint16, b []byte) bool {
	if p.store == nil {
		p.store = make([]byte, storeSize)
	}
	size := len(b) + datagram.Overhead
	if p.full() || p.used+size > len(p.store) {
		return false
	}
	d := p.store[p.used : p.used+size : p.used+size]
	p.used += size
	copy(d[datagram.HeaderSize:], b)
	p.add(s.Seal(d[:size-datagram.TagSize], datagram.Data, channel, &p.scratch))
	return true
}

func (p *packer) full() bool { return len(p.bufs) >= udpbatch.BatchSize }

// send sends all and begins anew. It tells how many datagrams those were.
func (p *packer) send(c *udpbatch.Conn, r *udpbatch.Route) (n int, err error) {
	if n = len(p.bufs); n > 0 {
		err = c.Send(p.bufs, r)
		clear(p.bufs)
	}
	p.bufs, p.used = p.bufs[:0], 0
	return n, err
}
