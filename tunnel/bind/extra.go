package bind

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"warren/internal/udpbatch"
)

const (
	// extraMax bounds the extra sockets that are open at once.
	extraMax = 512
	// extraSize is the largest datagram that an extra socket takes, in bytes.
	extraSize = 9216
	// extraErrors is after how many errors in a row an extra socket is given up.
	extraErrors = 16
)

// extras are sockets beside the tunnel's own, of IPv4, each with a port and so with NAT mappings of its own. They have no receive function,
// since WireGuard asks for those only once: a goroutine for each reads, and hands on what is WireGuard's as if a relay had brought it.
type extras struct {
	mu   sync.Mutex
	last uint16
	open map[uint16]*extra
}

type extra struct {
	id   uint16
	conn *udpbatch.Conn
}

// OpenExtra opens as many extra sockets as it can, count at most, and gives their ids, which are not 0. What comes to them and is not
// WireGuard goes to Config.OnExtra.
func (b *Bind) OpenExtra(count int) (ids []uint16) {
	for range count {
		x, err := b.openExtra()
		if err != nil {
			b.log.Debug("no more extra sockets", "opened", len(ids), "wanted", count, "err", err)
			break
		}
		ids = append(ids, x.id)
	}
	return ids
}

func (b *Bind) openExtra() (*extra, error) {
	c, err := udpbatch.Listen("udp4", ":0", udpbatch.Options{Mark: b.mark.Load(), GSO: !b.cfg.DisableGSO, Whole: true, Log: b.log})
	if err != nil {
		return nil, err
	}
	x := &extra{conn: c}
	b.mu.Lock() // against Close
	defer b.mu.Unlock()
	if b.closed == nil {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	if err := b.extras.add(x); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	go b.readExtra(x)
	return x, nil
}

func (t *extras) add(x *extra) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) >= extraMax {
		return fmt.Errorf("%d extra sockets are open, which is the bound", extraMax)
	}
	if t.open == nil {
		t.open = map[uint16]*extra{}
	}
	for t.last++; t.last == 0 || t.open[t.last] != nil; t.last++ {
	}
	x.id = t.last
	t.open[x.id] = x
	return nil
}

func (t *extras) find(id uint16) *extra {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[id]
}

func (t *extras) remove(id uint16) *extra {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.open[id]
	delete(t.open, id)
	return x
}

// Extras is how many extra sockets are open.
func (b *Bind) Extras() int {
	b.extras.mu.Lock()
	defer b.extras.mu.Unlock()
	return len(b.extras.open)
}

// CloseExtra closes extra sockets; ids that are unknown are ignored.
func (b *Bind) CloseExtra(ids []uint16) {
	for _, id := range ids {
		if x := b.extras.remove(id); x != nil {
			x.conn.Close()
		}
	}
}

func (b *Bind) closeExtras() {
	b.extras.mu.Lock()
	defer b.extras.mu.Unlock()
	for _, x := range b.extras.open {
		x.conn.Close()
	}
	clear(b.extras.open)
}

// WriteExtra is WriteTo from an extra socket.
func (b *Bind) WriteExtra(id uint16, local netip.Addr, remote netip.AddrPort, m []byte) error {
	x := b.extras.find(id)
	if x == nil {
		return fmt.Errorf("sending to %s: extra socket %d is closed", remote, id)
	}
	return x.conn.WriteFrom(b.source(local), netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port()), m)
}

// readExtra reads until the socket is closed. Hundreds wait for one check each, so a socket gets room for more only once traffic comes.
func (b *Bind) readExtra(x *extra) {
	rx := udpbatch.NewReader(x.conn)
	bufs := [][]byte{make([]byte, extraSize)}
	for errs := 0; ; {
		n, err := rx.Read(bufs)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			b.counters.receiveErrors.Add(1)
			if errs++; errs == extraErrors {
				b.CloseExtra([]uint16{x.id})
				return
			}
			time.Sleep(pauseFirst << errs)
			continue
		}
		errs = 0
		for i := range n {
			m, _ := rx.Message(i)
			b.sortExtra(x, rx, i, m)
		}
		if n == len(bufs) && len(bufs) < udpbatch.BatchSize {
			bufs = append(bufs, make([]byte, extraSize))
		}
	}
}

// sortExtra is receiver.sort for an extra socket.
func (b *Bind) sortExtra(x *extra, rx *udpbatch.Reader, i int, m []byte) {
	s := shapeOf(m)
	switch s {
	case shapeOther:
		if b.cfg.OnExtra != nil && len(m) > 0 {
			b.cfg.OnExtra(x.id, rx.Local(i), rx.Source(i), m)
		}
		return
	case shapeInitiation:
		b.queueInitiation(addrSource(rx.Source(i).Addr()), m)
		return
	}
	now := b.now()
	e := b.index.lookup(receiverIndex(s, m), now)
	if e == nil {
		b.counters.unknownIndex.Add(1)
		return
	}
	e.lastReceived.Store(now)
	e.lastDirect.Store(now)
	b.deliver(e, m)
}
