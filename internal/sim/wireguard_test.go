package sim

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	wg "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"warren/internal/sim/linkmodel"
	"warren/internal/sim/natmodel"
	"warren/nat/path"
	"warren/proto/key"
)

// inBubble marks the process that plays with real WireGuard devices. wireguard-go has finalizers that read channels; from outside the bubble
// that made them they must not. So nothing is collected there, and the process ends with the test.
const inBubble = "WARREN_SIM_BUBBLE"

// TestWireGuard has two real WireGuard devices talk over the simulated paths for ten minutes, through rekeying, a broken path and a move.
// tunnel/engine itself cannot take part: its Bind has real sockets, in whose reads time stands still.
func TestWireGuard(t *testing.T) {
	if os.Getenv(inBubble) != "" {
		synctest.Test(t, playWireGuard)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestWireGuard$", "-test.v")
	cmd.Env = append(os.Environ(), inBubble+"=1", "GOGC=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// tunnel is a real WireGuard device on a simulated one. It is its conn.Bind, the endpoint that stands for the peer, and its interface.
type tunnel struct {
	dev      *wg.Device
	on       *device
	key      key.NodePrivate
	addr     netip.Addr
	wire     chan<- message
	in       chan []byte // from the network
	fromHost chan []byte
	toHost   chan []byte
	closed   chan struct{} // the Bind is
	gone     chan struct{} // the interface is
	events   chan tun.Event
}

// message is a datagram that WireGuard sends.
type message struct {
	from *tunnel
	b    []byte
}

func newTunnel(on *device, wire chan<- message) *tunnel {
	tn := &tunnel{
		on: on, key: key.NewNode(), addr: netip.AddrFrom4([4]byte{100, 70, 0, byte(on.index + 1)}), wire: wire, in: make(chan []byte, 256),
		fromHost: make(chan []byte, 256), toHost: make(chan []byte, 256), gone: make(chan struct{}), events: make(chan tun.Event, 1),
	}
	tn.dev = wg.NewDevice((*tunnelTUN)(tn), (*tunnelBind)(tn), wg.NewLogger(wg.LogLevelSilent, ""))
	return tn
}

func (tn *tunnel) up(t *testing.T, peer *tunnel) {
	private, public := tn.key.Bytes(), peer.key.Public().Raw()
	err := tn.dev.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=peer\nallowed_ip=%s/32\n",
		hex.EncodeToString(private), hex.EncodeToString(public[:]), peer.addr))
	if err == nil {
		err = tn.dev.Up()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// tunnelBind is the conn.Bind.
type tunnelBind tunnel

func (b *tunnelBind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.closed = make(chan struct{})
	closed := b.closed
	return []conn.ReceiveFunc{func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		select {
		case <-closed:
			return 0, net.ErrClosed
		case p := <-b.in:
			sizes[0], eps[0] = copy(bufs[0], p), theEndpoint{}
			return 1, nil
		}
	}}, 1, nil
}

func (b *tunnelBind) Close() error {
	if b.closed != nil {
		close(b.closed)
		b.closed = nil
	}
	return nil
}

func (b *tunnelBind) Send(bufs [][]byte, _ conn.Endpoint) error {
	for _, p := range bufs {
		b.wire <- message{(*tunnel)(b), append([]byte(nil), p...)}
	}
	return nil
}

func (b *tunnelBind) SetMark(uint32) error                        { return nil }
func (b *tunnelBind) BatchSize() int                              { return 1 }
func (b *tunnelBind) ParseEndpoint(string) (conn.Endpoint, error) { return theEndpoint{}, nil }

// theEndpoint stands for the only peer: paths are not WireGuard's business.
type theEndpoint struct{}

func (theEndpoint) ClearSrc()           {}
func (theEndpoint) SrcToString() string { return "" }
func (theEndpoint) DstToString() string { return "peer" }
func (theEndpoint) DstToBytes() []byte  { return []byte("peer") }
func (theEndpoint) DstIP() netip.Addr   { return netip.Addr{} }
func (theEndpoint) SrcIP() netip.Addr   { return netip.Addr{} }

// tunnelTUN is the interface.
type tunnelTUN tunnel

func (u *tunnelTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case <-u.gone:
		return 0, os.ErrClosed
	case p := <-u.fromHost:
		sizes[0] = copy(bufs[0][offset:], p)
		return 1, nil
	}
}

func (u *tunnelTUN) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		u.toHost <- append([]byte(nil), b[offset:]...)
	}
	return len(bufs), nil
}

func (u *tunnelTUN) Close() error {
	close(u.gone)
	close(u.events)
	return nil
}

func (u *tunnelTUN) File() *os.File           { return nil }
func (u *tunnelTUN) MTU() (int, error)        { return tunnelMTU, nil }
func (u *tunnelTUN) Name() (string, error)    { return "sim0", nil }
func (u *tunnelTUN) Events() <-chan tun.Event { return u.events }
func (u *tunnelTUN) BatchSize() int           { return 1 }

// ping is a packet of IPv4 with a number in it.
func ping(from, to netip.Addr, n uint32) []byte {
	p := make([]byte, 60)
	p[0], p[3], p[8], p[9] = 0x45, byte(len(p)), 64, 253 // for experiments (RFC 3692)
	copy(p[12:], from.AsSlice())
	copy(p[16:], to.AsSlice())
	binary.BigEndian.PutUint32(p[20:], n)
	return p
}

// tunnels is two of them in a world.
type tunnels struct {
	t         *testing.T
	w         *world
	a, b      *tunnel
	wire      chan message
	sent      uint32
	at        map[uint32]time.Time
	last      time.Time // when b last got something
	gap, trip time.Duration
	got       int
}

// play lets time pass in the world as it does in the bubble, with a ping from a to b, and back, every 20 ms.
func (p *tunnels) play(d time.Duration) {
	next := p.w.now
	for end := p.w.now.Add(d); p.w.now.Before(end); {
		if !p.w.now.Before(next) {
			p.sent++
			p.at[p.sent] = p.w.now
			p.a.fromHost <- ping(p.a.addr, p.b.addr, p.sent)
			next = next.Add(20 * time.Millisecond)
		}
		p.settle()
		due := p.w.due()
		if next.Before(due) {
			due = next
		}
		timer := time.NewTimer(max(due.Sub(p.w.now), time.Microsecond))
		select {
		case <-timer.C:
		case m := <-p.wire: // a timer of WireGuard's
			timer.Stop()
			p.w.run(time.Since(p.w.now))
			p.send(m)
		}
		p.w.run(time.Since(p.w.now))
		if p.w.failure != nil {
			p.t.Fatal(p.w.failure)
		}
	}
}

// settle has WireGuard do all that it can do now.
func (p *tunnels) settle() {
	for {
		synctest.Wait()
		select {
		case m := <-p.wire:
			p.send(m)
		case b := <-p.b.toHost:
			p.gap = max(p.gap, p.w.now.Sub(p.last))
			p.last = p.w.now
			p.b.fromHost <- ping(p.b.addr, p.a.addr, binary.BigEndian.Uint32(b[20:]))
		case b := <-p.a.toHost:
			p.got++
			p.trip = p.w.now.Sub(p.at[binary.BigEndian.Uint32(b[20:])])
		default:
			return
		}
	}
}

// send takes a datagram of WireGuard's along the path.
func (p *tunnels) send(m message) {
	to := p.a
	if m.from == p.a {
		to = p.b
	}
	m.from.on.carry(to.on, len(m.b)-overhead, func() { to.in <- m.b })
}

func playWireGuard(t *testing.T) {
	w := newWorld(time.Now(), 1)
	w.relays = []*relay{{name: "r1", up: true, delay: 10 * time.Millisecond}}
	link := linkmodel.Options{Delay: 5 * time.Millisecond}
	site1 := w.addBox("site 1", w.root, *natmodel.Easy(), nil, netip.MustParseAddr("203.0.113.10"), link)
	site2 := w.addBox("site 2", w.root, *natmodel.Easy(), nil, netip.MustParseAddr("203.0.113.11"), link)
	site3 := w.addBox("site 3", w.root, *natmodel.Easy(), nil, netip.MustParseAddr("203.0.113.12"), link)
	a, b := w.addDevice(site1), w.addDevice(site2)
	p := &tunnels{t: t, w: w, wire: make(chan message, 1024), at: map[uint32]time.Time{}, last: w.now}
	p.a, p.b = newTunnel(a, p.wire), newTunnel(b, p.wire)
	<-time.After(time.Second) // of the bubble's time
	w.run(time.Since(w.now))  // the relay is connected
	p.a.up(t, p.b)
	p.b.up(t, p.a)
	defer p.a.dev.Close()
	defer p.b.dev.Close()

	paths := func(when string, want path.Kind) {
		t.Helper()
		if ab, ba := a.link(b).path.Kind, b.link(a).path.Kind; ab != want || ba != want {
			t.Errorf("%s: paths are %s and %s, want %s", when, ab, ba, want)
		}
		t.Logf("%6s %-22s %d of %d pings back, the last in %s, longest gap %s", w.now.Sub(w.begin), when, p.got, p.sent, p.trip, p.gap)
		if p.gap > contactBound {
			t.Errorf("%s: nothing came for %s", when, p.gap)
		}
		p.gap = 0
	}
	p.last = w.now
	p.play(3 * time.Second)
	paths("at first", path.Direct)
	w.cuts[[2]*box{site1, site2}] = true
	w.changeOf("no way from a to b", false)
	p.play(5 * time.Second)
	paths("one way is cut", path.Relay)
	clear(w.cuts)
	w.changeOf("healed", false)
	p.play(70 * time.Second)
	paths("healed", path.Direct)
	a.move(&program{b: []byte{2}})
	p.play(5 * time.Second)
	paths("moved", path.Direct)
	if at := b.link(a).path.Remote.Addr(); at != site3.v4.External() {
		t.Errorf("after the move b sends to %s, want %s", at, site3.v4.External())
	}
	p.play(8 * time.Minute)
	paths("rekeyed four times", path.Direct)
	if lost := int(p.sent) - p.got; lost > 150 {
		t.Errorf("%d of %d pings lost", lost, p.sent)
	}
}
