package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"warren/nat/relay/carrier"
	"warren/nat/relay/datagram"
	"warren/proto/key"
	"warren/proto/relayframe"
	pb "warren/proto/warrenv1"
)

// liar is a relay that has the right keys and says what it likes once it has welcomed a device.
type liar struct {
	*world
	welcome *pb.RelayWelcome
	conns   chan *websocket.Conn
}

func newLiar(t testing.TB) *liar {
	l := &liar{world: newWorld(t, nil), welcome: &pb.RelayWelcome{MaxPayload: relayframe.MaxPayload}, conns: make(chan *websocket.Conn, 64)}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{Handler: l, TLSConfig: l.certificate(pb.TLSRole_TLS_ROLE_RELAY)}
	go h.ServeTLS(socket, "", "")
	t.Cleanup(func() { h.Close() })
	l.addr = socket.Addr().String()
	l.desc.Urls = []string{"https://" + l.addr}
	return l
}

// ServeHTTP shakes hands with anybody.
func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{relayframe.Subprotocol}})
	if err != nil {
		return
	}
	ctx := context.Background()
	challenge := &pb.RelayChallenge{NetworkId: l.network[:], RelayKey: l.desc.RelayKey, Challenge: make([]byte, 32)}
	if writeMessage(ctx, ws, challenge) != nil || readMessage(ctx, ws, new(pb.RelayHello)) != nil || writeMessage(ctx, ws, l.welcome) != nil {
		return
	}
	ws.SetReadLimit(-1)
	l.conns <- ws
}

// next is the next connection that was welcomed.
func (l *liar) next() *websocket.Conn {
	l.t.Helper()
	select {
	case ws := <-l.conns:
		l.t.Cleanup(func() { ws.CloseNow() })
		return ws
	case <-time.After(20 * time.Second):
		l.t.Fatal("no device connects")
		return nil
	}
}

func (l *liar) say(ws *websocket.Conn, b []byte) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := ws.Write(ctx, websocket.MessageBinary, b); err != nil {
		l.t.Fatal(err)
	}
}

func frame(kind relayframe.Type, peer byte, payload string) []byte {
	return relayframe.Append(nil, relayframe.Frame{Type: kind, Peer: rawKey{peer}, Payload: []byte(payload)})
}

// TestLiarIsLeft: a device hangs up on a relay that does not keep to the protocol, and tries again.
func TestLiarIsLeft(t *testing.T) {
	for name, tc := range map[string]struct {
		kind websocket.MessageType
		b    []byte
		want string
	}{
		"cut header":   {websocket.MessageBinary, []byte{0}, "cut short"},
		"cut key":      {websocket.MessageBinary, frame(relayframe.Data, 1, "")[:20], "cut short"},
		"cut payload":  {websocket.MessageBinary, frame(relayframe.Signal, 1, "payload")[:40], "cut short"},
		"unknown type": {websocket.MessageBinary, []byte{0, 0, 99}, "unknown type"},
		"text":         {websocket.MessageText, []byte("hello"), "text message"},
		"oversized":    {websocket.MessageBinary, bytes.Repeat(frame(relayframe.Data, 1, strings.Repeat("x", 60000)), 5), "limit"},
	} {
		t.Run(name, func(t *testing.T) {
			l, first := newLiar(t), make(chan error, 1)
			l.connect(func(c *ClientConfig) {
				c.OnState = func(up bool, _ netip.AddrPort, err error) {
					if !up {
						select {
						case first <- err:
						default:
						}
					}
				}
			})
			ws := l.next()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_ = ws.Write(ctx, tc.kind, tc.b) // fails where the device has hung up before the end of it
			if err := <-first; !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v; want one that says %q", err, tc.want)
			}
			l.next() // the device comes again
		})
	}
}

// TestLiarIsBorne: what a relay makes up within the protocol makes a device neither stumble nor remember more, and what is true still arrives.
func TestLiarIsBorne(t *testing.T) {
	const friend = 7
	for name, lies := range map[string][][]byte{
		"answers to pings that were not sent": {frame(relayframe.Pong, 0, ""), frame(relayframe.Pong, 0, "12345678"), frame(relayframe.Pong, 0, strings.Repeat("x", 60000))},
		"a ping of its own":                   {frame(relayframe.Ping, 0, "12345678")},
		"channels that were not asked for":    {frame(relayframe.Bound, friend, "\x00\x01"), frame(relayframe.Bound, friend, ""), frame(relayframe.Bound, friend, "\xff\xff\xff")},
		"what devices say":                    {frame(relayframe.Bind, friend, "\x00\x01"), frame(relayframe.Stop, 0, "")},
		"nothing at all":                      {nil, nil, nil},
		"an empty packet":                     {frame(relayframe.Data, friend, "")},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLiar(t)
			d := l.connect(nil)
			ws := l.next()
			for _, b := range lies {
				l.say(ws, b)
			}
			l.say(ws, frame(relayframe.Data, friend, "true"))
			d.await("the true packet", func() bool { return slices.Contains(d.got, "data true") })
			if len(l.conns) != 0 {
				t.Error("the device has connected anew")
			}
		})
	}
}

// TestChannelsAreBounded: packets of strangers, of whom a relay can make up any number, take no channels, and those of friends no more than
// there are.
func TestChannelsAreBounded(t *testing.T) {
	q := newQueue(1 << 30)
	l := &udpLink{cfg: &ClientConfig{Known: func(p rawKey) bool { return p[31] == 1 }}, queue: q, start: time.Now(), lanes: map[rawKey]*udpLane{}, peers: make([]rawKey, 1)}
	for i := range 3 * datagram.MaxChannel {
		var p rawKey
		binary.BigEndian.PutUint32(p[:], uint32(i))
		l.lane(p)
	}
	if len(l.peers) != 1 || q.urgent.size() != 0 {
		t.Errorf("%d channels and %d bytes for strangers", len(l.peers)-1, q.urgent.size())
	}
	for i := range 3 * datagram.MaxChannel {
		p := rawKey{31: 1}
		binary.BigEndian.PutUint32(p[:], uint32(i))
		l.lane(p)
	}
	if len(l.peers)-1 != datagram.MaxChannel || len(l.lanes) != datagram.MaxChannel {
		t.Errorf("%d channels, %d of them known, want %d", len(l.peers)-1, len(l.lanes), datagram.MaxChannel)
	}
	// A channel counts as bound only by the relay's word for that very one.
	first := l.peers[1]
	for _, payload := range []string{"", "\x00", "\x00\x02", "\x00\x01\x00"} {
		if l.bound(first, []byte(payload)); l.lanes[first].bound.Load() {
			t.Errorf("bound by % x", payload)
		}
	}
	if l.bound(first, []byte{0, 1}); !l.lanes[first].bound.Load() {
		t.Error("not bound by the right word")
	}
}

// TestBadOffers: a session that cannot be is not used; the connection is.
func TestBadOffers(t *testing.T) {
	good := func() *pb.RelayUDP {
		return &pb.RelayUDP{Session: 5, UpKey: make([]byte, datagram.KeySize), DownKey: make([]byte, datagram.KeySize), Port: 1}
	}
	for name, change := range map[string]func(*pb.RelayUDP){
		"session too large": func(o *pb.RelayUDP) { o.Session = datagram.MaxSession + 1 },
		"no key":            func(o *pb.RelayUDP) { o.UpKey = nil },
		"long key":          func(o *pb.RelayUDP) { o.DownKey = make([]byte, 1000) },
		"port of no server": func(o *pb.RelayUDP) { o.Port = 9 },
		"port too large":    func(o *pb.RelayUDP) { o.Port = 1<<16 + 9 },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLiar(t)
			victim, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer victim.Close()
			l.desc.Stun = []string{victim.LocalAddr().String()}
			offer := good()
			change(offer)
			l.welcome.Udp = offer
			d := l.connect(func(c *ClientConfig) { c.ListenUDP = listenLoopback })
			l.say(l.next(), frame(relayframe.Data, 7, "true"))
			d.await("a packet", func() bool { return slices.Contains(d.got, "data true") })
			victim.SetReadDeadline(time.Now().Add(time.Millisecond))
			if n, _, err := victim.ReadFromUDPAddrPort(make([]byte, 2000)); err == nil {
				t.Errorf("%d bytes were sent over UDP", n)
			}
		})
	}
}

// liarUDP is a lying relay's end of a session.
type liarUDP struct {
	conn   *net.UDPConn
	down   *datagram.Sealer
	device netip.AddrPort
	t      *testing.T
}

// tellUDP lets a device come up over UDP with a relay whose datagrams the test makes, and gives it channel 1 for the friend.
func tellUDP(t *testing.T, friend byte) (*udpDev, *websocket.Conn, *liarUDP) {
	l := newLiar(t)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	session, offer, err := newUDPSession(9)
	if err != nil {
		t.Fatal(err)
	}
	offer.Port = uint32(conn.LocalAddr().(*net.UDPAddr).Port)
	l.welcome.Udp, l.desc.Stun = offer, []string{conn.LocalAddr().String()}
	u := &liarUDP{conn: conn, down: session.sealer, t: t}
	first := make(chan netip.AddrPort, 1)
	go func() { // every ping is answered
		b := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			d, err := session.opener.Open(b[:n], new(datagram.Scratch))
			if err != nil || d.Kind != datagram.Ping {
				continue
			}
			select {
			case first <- from:
			default:
			}
			conn.WriteToUDPAddrPort(u.seal(datagram.Pong, 0, d.Payload), from)
		}
	}()
	d := l.udpDevice(nil, nil)
	ws := l.next()
	u.device = <-first
	d.awaitUDP(true)
	l.say(ws, frame(relayframe.Data, friend, "asks for a channel"))
	d.await("the first packet", func() bool { return len(d.got) == 1 })
	l.say(ws, frame(relayframe.Bound, friend, "\x00\x01"))
	return d, ws, u
}

func (u *liarUDP) seal(kind datagram.Kind, channel uint16, payload []byte) []byte {
	b := append(make([]byte, datagram.HeaderSize), payload...)
	return u.down.Seal(b, kind, channel, new(datagram.Scratch))
}

func (u *liarUDP) send(b []byte) {
	u.t.Helper()
	if _, err := u.conn.WriteToUDPAddrPort(b, u.device); err != nil {
		u.t.Fatal(err)
	}
}

// TestLyingDatagrams: of what a relay reorders, repeats, cuts, lengthens, alters, sends on channels that nobody has or from elsewhere, each true
// packet comes at most once, and nothing else does. What comes is WireGuard's to check.
func TestLyingDatagrams(t *testing.T) {
	const friend = 7
	d, _, u := tellUDP(t, friend)
	packet := func(i int) []byte { return fmt.Appendf(nil, "packet %04d", i) }
	const count = 200
	var sealed [][]byte
	for i := range count {
		sealed = append(sealed, u.seal(datagram.Data, 1, packet(i)))
	}
	for i := count - 1; i >= 0; i-- { // the last first
		b := sealed[i]
		altered := bytes.Clone(b)
		altered[i%len(b)] ^= 1 << (i % 8)
		for _, lie := range [][]byte{altered, b[:len(b)-1], b[:datagram.HeaderSize], nil, append(bytes.Clone(b), 0), b[:i%len(b)]} {
			u.send(lie)
		}
		u.send(b)
		u.send(b)
		u.send(u.seal(datagram.Data, 0, []byte("of nobody")))
		u.send(u.seal(datagram.Data, uint16(2+i), []byte("of nobody")))
		u.send(u.seal(datagram.Ping, 1, []byte("a ping")))
		u.send(u.seal(datagram.Pong, 1, []byte("short")))
		u.send(u.seal(datagram.Pong, 1, make([]byte, 2000)))
	}
	end := u.seal(datagram.Data, 1, make([]byte, 20000)) // longer than any path carries
	u.send(end)
	d.await("the last packet", func() bool { return len(d.got[len(d.got)-1]) == len("data ")+20000 })
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := map[string]int{}
	for _, got := range d.got[1 : len(d.got)-1] {
		seen[got]++
	}
	for i := range count {
		delete(seen, "data "+string(packet(i)))
	}
	if len(d.got) != count+2 || len(seen) != 0 {
		t.Errorf("%d packets came, want %d, and of others %v", len(d.got), count+2, seen)
	}
}

// FuzzClientMessage: whatever a relay sends, a device hands on no more than that, from nobody else, and asks for no more channels than there are.
func FuzzClientMessage(f *testing.F) {
	f.Add(frame(relayframe.Data, 1, "packet"))
	f.Add(slices.Concat(frame(relayframe.Data, 1, "one"), frame(relayframe.Data, 2, "two"), frame(relayframe.Data, 1, ""), frame(relayframe.PeerGone, 3, "")))
	f.Add(slices.Concat(frame(relayframe.Signal, 1, "signal"), frame(relayframe.Pong, 0, "12345678"), frame(relayframe.Bound, 1, "\x00\x01")))
	f.Add([]byte{0, 0, 99})
	relay := &pb.Relay{RelayKey: key.NewDevice().Public().Bytes(), Urls: []string{"https://192.0.2.1"}}
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		note := func(kind relayframe.Type) func(rawKey, []byte) {
			return func(from rawKey, p []byte) {
				again = relayframe.Append(again, relayframe.Frame{Type: kind, Peer: from, Payload: p})
			}
		}
		c, err := NewClient(ClientConfig{
			Relay: relay, OnSignal: note(relayframe.Signal),
			OnData: func(from rawKey, packets [][]byte) {
				for _, p := range packets {
					note(relayframe.Data)(from, p)
				}
			},
			OnGone: func(peer rawKey) { note(relayframe.PeerGone)(peer, nil) },
			OnRTT:  func(time.Duration) { t.Error("a round trip was made up") },
			Known:  func(p rawKey) bool { return p[0]%2 == 0 },
		})
		if err != nil {
			t.Fatal(err)
		}
		q := newQueue(1 << 20)
		l := &udpLink{cfg: &c.cfg, queue: q, start: time.Now(), events: make(chan carrier.Event, eventQueue), lanes: map[rawKey]*udpLane{}, peers: make([]rawKey, 1)}
		c.udp.Store(l)
		pings := &pinger{tune: func() {}}
		pings.next()
		failed := c.message(bytes.Clone(b), &run{deliver: c.overWebSocket}, pings)
		var want []byte
		for rest := b; len(rest) > 0; {
			f, after, err := relayframe.Next(rest)
			if (err != nil) != (failed != nil) && err != nil {
				t.Fatalf("%v, but the device says %v", err, failed)
			}
			if err != nil {
				break
			}
			switch rest = after; f.Type {
			case relayframe.PeerGone:
				f.Payload = nil
				fallthrough
			case relayframe.Data, relayframe.Signal:
				want = relayframe.Append(want, f)
			}
		}
		if !bytes.Equal(again, want) {
			t.Fatalf("of % x the device heard % x", b, again)
		}
		for p := range l.lanes {
			if p[0]%2 != 0 {
				t.Fatalf("a channel for stranger % x", p)
			}
		}
	})
}
