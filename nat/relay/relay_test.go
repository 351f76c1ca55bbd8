package relay

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"warren/internal/connectproxy"
	"warren/internal/connectproxy/connectproxytest"
	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/relayframe"
	pb "warren/proto/warrenv1"
)

func TestForward(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.connect(nil), w.connect(nil)
	a.awaitUp()
	b.awaitUp()
	if err := a.client.SendDataBatch(b.raw(), [][]byte{[]byte("one"), []byte("two")}); err != nil {
		t.Fatal(err)
	}
	if err := b.client.SendSignal(a.raw(), []byte("call")); err != nil {
		t.Fatal(err)
	}
	b.await("data", func() bool { return slices.Equal(b.got, []string{"data one", "data two"}) })
	a.await("signal", func() bool { return slices.Equal(a.got, []string{"signal call"}) })
	if err := a.client.SendData(rawKey{1}, []byte("nobody")); err != nil {
		t.Fatal(err)
	}
	a.await("word that nobody is there", func() bool { return a.gone == 1 })
	if err := a.client.SendData(b.raw(), make([]byte, relayframe.MaxPayload+1)); err == nil {
		t.Error("an oversized packet was taken")
	}
}

// TestThroughAProxy: a host that may talk to nothing but an HTTP proxy reaches the relay, and TLS is the relay's own.
func TestThroughAProxy(t *testing.T) {
	w := newWorld(t, nil)
	p := new(connectproxytest.Proxy)
	s := httptest.NewServer(p)
	defer s.Close()
	d, err := connectproxy.New(s.URL, new(net.Dialer).DialContext)
	if err != nil {
		t.Fatal(err)
	}
	b := w.connect(nil)
	b.awaitUp()
	w.addr = s.Listener.Addr().String() // that is what the next one connects to
	a := w.connect(func(c *ClientConfig) { c.Dial = d.DialContext })
	a.awaitUp()
	if err := a.client.SendData(b.raw(), []byte("through")); err != nil {
		t.Fatal(err)
	}
	b.await("data", func() bool { return slices.Equal(b.got, []string{"data through"}) })
	if n := p.Connected(); n != 1 {
		t.Errorf("%d tunnels through the proxy", n)
	}
}

func TestBlock(t *testing.T) {
	w := newWorld(t, nil)
	a := w.connect(nil)
	a.awaitUp()
	w.server.Block(a.key.Public())
	a.await("the end", func() bool { return !a.up })
	a.await("the refusal", func() bool { return a.lastErr != nil && strings.Contains(a.lastErr.Error(), "no member") })
	w.server.Unblock(a.key.Public())
	a.client.Reset()
	a.awaitUp()
}

func TestReplace(t *testing.T) {
	w := newWorld(t, nil)
	a := w.connect(nil)
	a.awaitUp()
	twin := w.connect(func(c *ClientConfig) {
		c.Device = a.key
		c.Ticket = func() (*pb.Signed, *pb.Signed) { return a.ticket, w.cert }
	})
	twin.awaitUp()
	a.await("being replaced", func() bool { return !a.up })
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*world, *dev, *ClientConfig)
		want   string
	}{
		"no ticket": {func(_ *world, d *dev, c *ClientConfig) {
			c.Ticket = func() (*pb.Signed, *pb.Signed) { return nil, nil }
		}, "no relay ticket"},
		"expired ticket": {func(w *world, d *dev, c *ClientConfig) {
			old := w.ticketFor(d.key.Public(), time.Now().Add(-time.Second))
			c.Ticket = func() (*pb.Signed, *pb.Signed) { return old, w.cert }
		}, "expired"},
		"another's ticket": {func(w *world, d *dev, c *ClientConfig) {
			other := w.ticketFor(key.NewDevice().Public(), time.Now().Add(time.Hour))
			c.Ticket = func() (*pb.Signed, *pb.Signed) { return other, w.cert }
		}, "does not verify"},
		"ticket by a stranger": {func(w *world, d *dev, c *ClientConfig) {
			forged, err := record.SignTicket(key.NewSigning(), w.network, d.key.Public(), time.Now(), time.Now().Add(time.Hour))
			if err != nil {
				w.t.Fatal(err)
			}
			c.Ticket = func() (*pb.Signed, *pb.Signed) { return forged, w.cert }
		}, "does not verify"},
		"no certificate": {func(w *world, d *dev, c *ClientConfig) {
			c.Ticket = func() (*pb.Signed, *pb.Signed) { return d.ticket, nil }
		}, "missing"},
		"another relay's key": {func(w *world, d *dev, c *ClientConfig) {
			c.Relay = &pb.Relay{RelayKey: key.NewDevice().Public().Bytes(), Urls: w.desc.Urls, TlsMode: w.desc.TlsMode}
		}, "another relay"},
		"another network": {func(w *world, d *dev, c *ClientConfig) { c.Network = record.NetworkID{8} }, "not of this network"},
		"another authority": {func(w *world, d *dev, c *ClientConfig) {
			c.Authority = key.NewAuthority().Public()
		}, "not of this network"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			d := &dev{key: key.NewDevice()}
			d.ticket = w.ticketFor(d.key.Public(), time.Now().Add(time.Hour))
			real := w.connect(func(c *ClientConfig) {
				c.Device = d.key
				c.Ticket = func() (*pb.Signed, *pb.Signed) { return d.ticket, w.cert }
				tc.change(w, d, c)
			})
			real.await("a refusal", func() bool { return real.lastErr != nil })
			if real.up || !strings.Contains(real.lastErr.Error(), tc.want) {
				t.Errorf("%v; want one that says %q", real.lastErr, tc.want)
			}
		})
	}
}

// A proof that was made on one TLS connection is of no use on another: whoever sits between cannot pass it on.
func TestProofIsBoundToTLS(t *testing.T) {
	w := newWorld(t, nil)
	device := key.NewDevice()
	hello := &pb.RelayHello{Ticket: w.ticketFor(device.Public(), time.Now().Add(time.Hour)), SigningCertificate: w.cert}
	challenge, binding := []byte("challenge"), []byte("the relay's own connection")
	for name, exporter := range map[string][]byte{"another": []byte("elsewhere"), "none": nil} {
		proof := &pb.RelayProof{
			NetworkId: w.network[:], RelayKey: w.desc.RelayKey, Challenge: challenge, DeviceKey: device.Public().Bytes(), TlsExporter: exporter,
		}
		var err error
		if hello.Proof, err = record.Sign(device, record.ContextRelay, proof); err != nil {
			t.Fatal(err)
		}
		if _, err := w.server.admit(hello, challenge, binding); err == nil || !strings.Contains(err.Error(), "TLS connection") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := w.server.admit(hello, []byte("later"), nil); err == nil || !strings.Contains(err.Error(), "challenge") {
			t.Errorf("%s, replayed: %v", name, err)
		}
		if _, err := w.server.admit(hello, challenge, nil); err != nil {
			t.Errorf("%s, behind a proxy that ends TLS: %v", name, err)
		}
	}
}

func TestHostileFrames(t *testing.T) {
	peer := make([]byte, key.Size)
	for name, b := range map[string][]byte{
		"cut header":   {0},
		"cut key":      {0, 0, byte(relayframe.Data), 1},
		"cut payload":  append([]byte{0, 9, byte(relayframe.Data)}, peer...),
		"unknown type": {0, 0, 99},
		"peer gone":    append([]byte{0, 0, byte(relayframe.PeerGone)}, peer...),
		"huge":         make([]byte, relayframe.MaxMessage+1),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			ws := w.dialRaw(key.NewDevice())
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := ws.Write(ctx, websocket.MessageBinary, b); err != nil {
				t.Fatal(err)
			}
			if _, _, err := ws.Read(ctx); err == nil || ctx.Err() != nil {
				t.Errorf("the connection was kept: %v", err)
			}
		})
	}
}

func FuzzServerReads(f *testing.F) {
	f.Add([]byte{0, 0, 3})
	f.Add(relayframe.Append(nil, relayframe.Frame{Type: relayframe.Data, Peer: rawKey{1}, Payload: []byte("x")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		q := newQueue(1 << 12)
		for rest := b; len(rest) > 0; {
			frame, after, err := relayframe.Next(rest)
			if err != nil {
				return
			}
			q.push(frame)
			rest = after
		}
		for buf := q.take(nil); len(buf) > 0; buf = q.take(buf) {
			for len(buf) > 0 {
				var err error
				if _, buf, err = relayframe.Next(buf); err != nil {
					t.Fatalf("the queue tore a frame: %v", err)
				}
			}
		}
	})
}

// The queue against a list of frames that drops the oldest.
func TestQueueModel(t *testing.T) {
	const limit = 4 << 10
	q := newQueue(limit)
	var model []relayframe.Frame
	size := func(f relayframe.Frame) int { return relayframe.Overhead + len(f.Payload) }
	total := func() (n int) {
		for _, f := range model {
			n += size(f)
		}
		return n
	}
	rng := uint64(1)
	next := func(n int) int {
		rng = rng*6364136223846793005 + 1442695040888963407
		return int(rng>>33) % n
	}
	for step := range 20000 {
		if next(8) > 0 {
			f := relayframe.Frame{Type: relayframe.Data, Peer: rawKey{byte(step)}, Payload: bytes.Repeat([]byte{byte(step)}, next(1500))}
			q.push(f)
			model = append(model, f)
			for total() > limit {
				model = model[1:]
			}
			continue
		}
		for b := q.take(nil); len(b) > 0; {
			f, rest, err := relayframe.Next(b)
			if err != nil {
				t.Fatal(err)
			}
			if len(model) == 0 || f.Peer != model[0].Peer || !bytes.Equal(f.Payload, model[0].Payload) {
				t.Fatalf("step %d: got a frame of %d bytes that the model has not at its head", step, len(f.Payload))
			}
			model, b = model[1:], rest
		}
	}
}

func TestQueueUrgent(t *testing.T) {
	q := newQueue(1 << 20)
	q.push(relayframe.Frame{Type: relayframe.Data, Payload: []byte("data")})
	q.push(relayframe.Frame{Type: relayframe.Signal, Payload: []byte("signal")})
	f, _, err := relayframe.Next(q.take(nil))
	if err != nil || f.Type != relayframe.Signal {
		t.Errorf("first came type %d, %v", f.Type, err)
	}
}

// A device that does not read fills its own queue and nobody else's.
func TestSlowReaderHarmsNobody(t *testing.T) {
	w := newWorld(t, func(c *ServerConfig) { c.QueueBytes = 32 << 10 })
	slow := key.NewDevice()
	w.dialRaw(slow)
	a, b := w.connect(nil), w.connect(nil)
	a.awaitUp()
	b.awaitUp()
	payload := make([]byte, 1400)
	for range 20000 { // far beyond what sockets and queues hold
		if err := a.client.SendData(slow.Public().Raw(), payload); err != nil {
			t.Fatal(err)
		}
	}
	for {
		if err := a.client.SendData(b.raw(), []byte("still here")); err != nil {
			t.Fatal(err)
		}
		next := b.changed.Next()
		b.mu.Lock()
		n := len(b.got)
		b.mu.Unlock()
		if n > 0 {
			return
		}
		select {
		case <-next:
		case <-time.After(100 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("the other device was starved")
		}
	}
}

func TestClientNeedsADescription(t *testing.T) {
	if _, err := NewClient(ClientConfig{Relay: &pb.Relay{Name: "x"}}); err == nil {
		t.Error("a relay without a key was taken")
	}
	if _, err := NewClient(ClientConfig{Relay: &pb.Relay{RelayKey: key.NewDevice().Public().Bytes()}}); err == nil {
		t.Error("a relay without an address was taken")
	}
	c, err := NewClient(ClientConfig{Relay: &pb.Relay{RelayKey: key.NewDevice().Public().Bytes(), Urls: []string{"https://x"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SendData(rawKey{}, nil); !errors.Is(err, ErrNotConnected) {
		t.Errorf("sending while not connected: %v", err)
	}
}

func BenchmarkForward(b *testing.B) {
	w := newWorld(b, func(c *ServerConfig) { c.QueueBytes = 4 << 20 })
	got := make(chan int, 1024)
	from := w.connect(func(c *ClientConfig) { c.QueueBytes = 4 << 20 })
	to := w.connect(func(c *ClientConfig) {
		c.OnData = func(_ rawKey, packets [][]byte) {
			for range packets {
				got <- 1
			}
		}
	})
	from.awaitUp()
	to.awaitUp()
	const batch = 32
	bufs := make([][]byte, batch)
	for i := range bufs {
		bufs[i] = make([]byte, 1400)
	}
	b.SetBytes(batch * 1400)
	inFlight := 0
	for b.Loop() {
		if err := from.client.SendDataBatch(to.raw(), bufs); err != nil {
			b.Fatal(err)
		}
		inFlight += batch
		for inFlight > 512 {
			<-got
			inFlight--
		}
	}
	for range inFlight {
		<-got
	}
}
