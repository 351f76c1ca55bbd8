package relay

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"warren/nat/relay/datagram"
	"warren/proto/key"
)

func TestUDPForward(t *testing.T) {
	w, _ := newUDPWorld(t, nil)
	a, b := w.udpDevice(nil, nil), w.udpDevice(nil, nil)
	a.awaitUDP(true)
	b.awaitUDP(true)
	a.awaitLane(b)
	udp, ws := w.forwarded()
	var sent [][]byte
	var want []string
	for i := range 300 {
		p := bytes.Repeat([]byte{byte('a' + i%26)}, 1452-i%7*100)
		sent = append(sent, p)
		want = append(want, "data "+string(p))
	}
	b.update(func() { b.got = nil })
	if err := a.client.SendDataBatch(b.raw(), sent); err != nil {
		t.Fatal(err)
	}
	b.await("300 packets", func() bool { return len(b.got) >= 300 })
	if !slices.Equal(b.got, want) {
		t.Error("packets came changed or out of order")
	}
	w.awaitCount("over UDP", w.overUDP, udp+300)
	w.awaitCount("over WebSocket", w.overWebSocket, ws)
	// What is longer than the path was tested for, and signals, take the other way.
	long := strings.Repeat("x", LongestUDP+1)
	a.exchange(b, long)
	if err := b.client.SendSignal(a.raw(), []byte("call")); err != nil {
		t.Fatal(err)
	}
	a.await("signal", func() bool { return slices.Contains(a.got, "signal call") })
	w.awaitCount("over WebSocket", w.overWebSocket, ws+3)
	if err := a.client.SendData(rawKey{1}, []byte("nobody")); err != nil {
		t.Fatal(err)
	}
	a.await("word that nobody is there", func() bool { return a.gone == 1 })
}

// TestMixedTransports: a device that has UDP and one that has not.
func TestMixedTransports(t *testing.T) {
	w, _ := newUDPWorld(t, nil)
	a, b := w.udpDevice(nil, nil), w.udpDevice(nil, func(c *ClientConfig) { c.ListenUDP = nil })
	a.awaitUDP(true)
	b.awaitUp()
	a.awaitLane(b) // answers go over UDP once a has its channel
	_, ws := w.forwarded()
	a.exchange(b, "there and back")
	w.awaitCount("over WebSocket: one there", w.overWebSocket, ws+1)
}

// TestSharedPort: what is not the relay's goes to the STUN server on the same port, and its answer back.
func TestSharedPort(t *testing.T) {
	w, other := newUDPWorld(t, nil)
	c, err := net.Dial("udp", w.desc.Stun[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 100)
	if _, err := c.Write([]byte("\x00\x01request")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(b); err != nil || string(b[:n]) != "answer to \x00\x01request" || other.Load() != 1 {
		t.Errorf("%q, %v", b[:n], err)
	}
}

// TestUDPLost: when UDP stops working in the middle, the WebSocket connection takes over, in both directions, and UDP comes back.
func TestUDPLost(t *testing.T) {
	w, _ := newUDPWorld(t, nil)
	x := newWire(t, w.desc.Stun[0])
	a, b := w.udpDevice(x, nil), w.udpDevice(nil, nil)
	a.awaitUDP(true)
	b.awaitUDP(true)
	a.awaitLane(b)
	x.cut.Store(true)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for arrived := false; !arrived; { // as a sender would that repeats what was lost
		if err := b.client.SendData(a.raw(), []byte("again")); err != nil {
			t.Fatal(err)
		}
		<-tick.C
		a.mu.Lock()
		arrived = slices.Contains(a.got, "data again")
		a.mu.Unlock()
	}
	a.awaitUDP(false)
	a.exchange(b, "over WebSocket")
	x.cut.Store(false)
	a.awaitUDP(true)
	a.awaitLane(b)
}

// TestRebinding: the device's address changes under it; it goes on over UDP, at the new address.
func TestRebinding(t *testing.T) {
	w, _ := newUDPWorld(t, nil)
	x := newWire(t, w.desc.Stun[0])
	a, b := w.udpDevice(x, nil), w.udpDevice(nil, nil)
	a.awaitUDP(true)
	b.awaitUDP(true)
	a.awaitLane(b)
	x.rebind()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	moved := func() bool {
		r := w.server.find(a.raw()).udp.route.Load()
		x.mu.Lock()
		defer x.mu.Unlock()
		return r.Remote == x.outside.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	for !moved() {
		if err := a.client.SendData(b.raw(), []byte("traffic")); err != nil {
			t.Fatal(err)
		}
		<-tick.C
	}
	a.exchange(b, "after")
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.udp {
		t.Error("UDP was given up")
	}
}

// TestSpoofedSource: whoever can copy a device's datagrams can neither draw its traffic elsewhere nor have the relay send anyone more than he
// was sent, and what the relay has seen it ignores.
func TestSpoofedSource(t *testing.T) {
	w, _ := newUDPWorld(t, nil)
	x := newWire(t, w.desc.Stun[0])
	stolen := make(chan []byte, 1000)
	x.setHold(func(b []byte) bool {
		stolen <- b
		return false
	})
	a := w.udpDevice(x, nil)
	a.awaitUDP(true)
	home := w.server.find(a.raw()).udp.route.Load().Remote
	thief := x.dial()
	defer thief.Close()
	thief.SetReadDeadline(time.Now().Add(10 * time.Second))
	// Seen before: no answer. Then one that was held back, so that the relay has not seen it.
	replayed := w.ignored("replayed")
	if _, err := thief.Write(<-stolen); err != nil {
		t.Fatal(err)
	}
	x.setHold(func(b []byte) bool {
		stolen <- b
		return true
	})
	for len(stolen) > 0 {
		<-stolen
	}
	if err := a.client.SendData(rawKey{9}, []byte("makes it ping")); err != nil {
		t.Fatal(err)
	}
	held := <-stolen
	if _, err := thief.Write(held); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2000)
	n, err := thief.Read(b)
	if err != nil || n > len(held) || b[0]>>4 != byte(datagram.Pong) || b[datagram.HeaderSize+8]&2 == 0 {
		t.Errorf("%d bytes for %d, %v, % x", n, len(held), err, b[:min(n, 24)])
	}
	if w.ignored("replayed") != replayed+1 {
		t.Error("a datagram that had been seen was not counted as such")
	}
	if got := w.server.find(a.raw()).udp.route.Load().Remote; got != home {
		t.Errorf("the device's packets now go to %s instead of %s", got, home)
	}
}

// TestForgedDatagrams: no answer to anything that a session's key has not made.
func TestForgedDatagrams(t *testing.T) {
	w, other := newUDPWorld(t, nil)
	a := w.udpDevice(nil, nil)
	a.awaitUDP(true)
	id := w.server.find(a.raw()).udp.id
	c, err := net.Dial("udp", w.desc.Stun[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 500 {
		b := make([]byte, rng.IntN(1500)+1)
		for j := range b {
			b[j] = byte(rng.Uint32())
		}
		b[0] |= 0xC0
		if i%2 == 0 && len(b) >= datagram.Overhead {
			b[2], b[3], b[4] = byte(id>>16), byte(id>>8), byte(id)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	// What is answered comes after all the rest has been dealt with.
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte{0, 1}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2000)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "answer to \x00\x01" || other.Load() != 1 {
		t.Errorf("%q, %v", b[:n], err)
	}
	if got := w.ignored("forged") + w.ignored("no session") + w.ignored("malformed"); got != 500 || w.ignored("forged") < 100 {
		t.Errorf("%v were counted, of which %v forged", got, w.ignored("forged"))
	}
}

// TestRate: a device that sends more than it may loses packets over UDP.
func TestRate(t *testing.T) {
	w, _ := newUDPWorld(t, func(c *ServerConfig) { c.BytesPerSecond = 1000 })
	a, b := w.udpDevice(nil, nil), w.udpDevice(nil, nil)
	a.awaitUDP(true)
	b.awaitUDP(true)
	a.awaitLane(b)
	dropped := func() float64 { return testutil.ToFloat64(w.server.metrics.dropped.WithLabelValues("rate")) }
	for dropped() == 0 { // after the burst
		if err := a.client.SendDataBatch(b.raw(), [][]byte{make([]byte, 1400)}); err != nil {
			t.Fatal(err)
		}
	}
	if waits := testutil.ToFloat64(w.server.metrics.waits); waits != 0 {
		t.Errorf("%v messages waited", waits)
	}
}

// TestRateOverWebSocket: a device that sends more than it may waits, and loses nothing; another is not held up.
func TestRateOverWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in fake time, for a machine that has much else to do sends no more than it may
		w, p, k := quietWorld(t), newPipes(), key.NewDevice()
		w.desc.RelayKey, w.addr = k.Public().Bytes(), netip.AddrPort{}.String()
		w.server = NewServer(ServerConfig{Key: k, Network: w.network, Authority: w.authority.Public(), BytesPerSecond: 4 << 20, QueueBytes: 4 << 20})
		t.Cleanup(w.serve(w.server, p))
		small := func(c *ClientConfig) { c.Dial = p.dial }
		large := func(c *ClientConfig) { c.Dial, c.QueueBytes = p.dial, 4<<20 }
		a, b, other := w.connect(large), w.connect(large), w.connect(small)
		for _, d := range []*dev{a, b, other} {
			d.awaitUp()
		}
		const packets = 1400 // beyond a quarter of a second's worth
		for range packets / 40 {
			if err := a.client.SendDataBatch(b.raw(), slices.Repeat([][]byte{make([]byte, 1400)}, 40)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if testutil.ToFloat64(w.server.metrics.waits) == 0 {
			t.Error("nothing waited")
		}
		if err := other.client.SendData(b.raw(), []byte("meanwhile")); err != nil {
			t.Fatal(err)
		}
		b.await("the other's packet", func() bool { return slices.Contains(b.got, "data meanwhile") })
		b.await("all packets", func() bool { return len(b.got) == packets+1 })
		if b.got[packets] == "data meanwhile" {
			t.Error("the other was held up")
		}
		if dropped := testutil.ToFloat64(w.server.metrics.dropped.WithLabelValues("rate")); dropped != 0 {
			t.Errorf("%v packets were dropped", dropped)
		}
	})
}

// TestChannels: a session's channels, against two maps kept by hand.
func TestChannels(t *testing.T) {
	u, _, err := newUDPSession(1)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	model := map[uint16]rawKey{}
	for range 5000 {
		c, p := uint16(rng.IntN(12)), rawKey{byte(rng.IntN(12))}
		if ok := u.bind(c, p); ok != (c != 0) {
			t.Fatalf("channel %d: %v", c, ok)
		} else if !ok {
			continue
		}
		for other, has := range model {
			if has == p {
				delete(model, other)
			}
		}
		model[c] = p
		for c := range uint16(12) {
			want, ok := model[c]
			if got, found := u.peer(c); got != want || found != ok {
				t.Fatalf("channel %d is of %x, %v; want %x, %v", c, got[0], found, want[0], ok)
			}
			if ok && u.channels[want] != c {
				t.Fatalf("peer %x has channel %d, want %d", want[0], u.channels[want], c)
			}
		}
	}
	if u.bind(datagram.MaxChannel+1, rawKey{1}) {
		t.Error("a channel that does not fit was taken")
	}
}

func TestWireKeysDiffer(t *testing.T) {
	_, one, err1 := newUDPSession(1)
	_, two, err2 := newUDPSession(2)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	all := [][]byte{one.UpKey, one.DownKey, two.UpKey, two.DownKey}
	for i, k := range all {
		if len(k) != datagram.KeySize || slices.ContainsFunc(all[:i], func(o []byte) bool { return bytes.Equal(o, k) }) {
			t.Errorf("keys %x", all)
		}
	}
}
