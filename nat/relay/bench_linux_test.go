package relay

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sys/unix"

	"warren/internal/udpbatch"
	pb "warren/proto/warrenv1"
)

// What a benchmark carries: trains of full packets, as a TCP stream in the tunnel makes them, of which so many may be on their way.
const (
	benchTrain  = 44
	benchPacket = LongestUDP
	benchWindow = 8 * benchTrain
)

// flood sends trains while the window allows, and measures what arrives.
func flood(b *testing.B, arrived *counter, send func([][]byte) error) {
	bufs := make([][]byte, benchTrain)
	for i := range bufs {
		bufs[i] = make([]byte, benchPacket, 2048)
	}
	b.SetBytes(benchTrain * benchPacket)
	sent, before := arrived.n.Load(), cpuTime(b)
	for b.Loop() {
		if err := send(bufs); err != nil {
			b.Fatal(err)
		}
		sent += benchTrain
		arrived.await(b, sent-benchWindow)
	}
	arrived.await(b, sent)
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N*benchTrain), "cpu-ns/packet")
}

// cpuTime is what the process has taken of the machine, both ends and the middle, which says more than the rate where others compute too.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// counter counts packets and wakes whoever waits for them.
type counter struct {
	n    atomic.Int64
	wake chan struct{}
}

func newCounter() *counter { return &counter{wake: make(chan struct{}, 1)} }

func (c *counter) add(n int) {
	c.n.Add(int64(n))
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// benchPatience is how long nothing may arrive while something is on its way: a datagram that is lost never comes.
const benchPatience = 10 * time.Second

func (c *counter) await(b *testing.B, n int64) {
	if c.n.Load() >= n {
		return
	}
	timer := time.NewTimer(benchPatience)
	defer timer.Stop()
	for c.n.Load() < n {
		select {
		case <-c.wake:
		case <-timer.C:
			b.Fatalf("%d packets of %d arrived, and none for %s", c.n.Load(), n, benchPatience)
		}
	}
}

// BenchmarkForwarders compares the relay with a bare forwarder of the same kind, which knows neither keys nor devices, carrying the same packets.
func BenchmarkForwarders(b *testing.B) {
	b.Run("udp/relay", func(b *testing.B) { benchRelay(b, true) })
	b.Run("udp/bare", benchBareUDP)
	b.Run("websocket/relay", func(b *testing.B) { benchRelay(b, false) })
	b.Run("websocket/bare", benchBareWebSocket)
}

func benchRelay(b *testing.B, udp bool) {
	w, _ := newUDPWorld(b, func(c *ServerConfig) { c.QueueBytes = 4 << 20 })
	arrived := newCounter()
	change := func(c *ClientConfig) {
		c.QueueBytes = 4 << 20
		if !udp {
			c.ListenUDP = nil
		}
	}
	var counting atomic.Bool
	from := w.udpDevice(nil, change)
	to := w.udpDevice(nil, func(c *ClientConfig) {
		change(c)
		deliver := c.OnData
		c.OnData = func(peer rawKey, p [][]byte) {
			if counting.Load() {
				arrived.add(len(p))
			} else {
				deliver(peer, p)
			}
		}
	})
	from.awaitUp()
	to.awaitUp()
	if udp {
		from.awaitUDP(true)
		to.awaitUDP(true)
		from.awaitLane(to)
	}
	counting.Store(true)
	peer := to.raw()
	flood(b, arrived, func(bufs [][]byte) error { return from.client.SendDataBatch(peer, bufs) })
}

func benchBareUDP(b *testing.B) {
	var c [3]*udpbatch.Conn // sender, forwarder, receiver
	for i := range c {
		var err error
		if c[i], err = listenLoopback(); err != nil {
			b.Fatal(err)
		}
		defer c[i].Close()
	}
	arrived := newCounter()
	at := func(c *udpbatch.Conn) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), c.Port())
	}
	to := c[1].NewRoute(netip.Addr{}, at(c[2]))
	go receiveTrains(c[1], func(bufs [][]byte) { c[1].Send(bufs, to) })
	go receiveTrains(c[2], func(bufs [][]byte) { arrived.add(len(bufs)) })
	out := c[0].NewRoute(netip.Addr{}, at(c[1]))
	flood(b, arrived, func(bufs [][]byte) error { return c[0].Send(bufs, out) })
}

// receiveTrains hands on what each read brings, until the socket is closed.
func receiveTrains(c *udpbatch.Conn, take func([][]byte)) {
	rx := udpbatch.NewReader(c)
	for {
		n, err := rx.Read(rx.Own())
		if err != nil {
			return
		}
		var bufs [][]byte
		for i := range n {
			for data, segment := rx.Message(i); data != nil; {
				var d []byte
				d, data = udpbatch.Cut(data, segment)
				bufs = append(bufs, d)
			}
		}
		take(bufs)
	}
}

func benchBareWebSocket(b *testing.B) {
	w := newWorld(b, nil) // for its certificate
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// Which end is whose goes by the path: the second may be served first.
	ends := map[string]chan *websocket.Conn{"/from": make(chan *websocket.Conn, 1), "/to": make(chan *websocket.Conn, 1)}
	h := &http.Server{TLSConfig: w.certificate(pb.TLSRole_TLS_ROLE_RELAY), Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if c, err := websocket.Accept(rw, r, nil); err == nil {
			ends[r.URL.Path] <- c
			<-ctx.Done()
			c.CloseNow()
		}
	})}
	go h.ServeTLS(l, "", "")
	defer h.Close()
	from, to := dialBare(b, w, l.Addr().String(), "/from"), dialBare(b, w, l.Addr().String(), "/to")
	defer from.CloseNow()
	defer to.CloseNow()
	in, out := <-ends["/from"], <-ends["/to"]
	arrived := newCounter()
	go copyMessages(ctx, in, func(m []byte) error { return out.Write(ctx, websocket.MessageBinary, m) })
	go copyMessages(ctx, to, func(m []byte) error {
		arrived.add(len(m) / benchPacket)
		return nil
	})
	message := make([]byte, benchTrain*benchPacket)
	flood(b, arrived, func([][]byte) error { return from.Write(ctx, websocket.MessageBinary, message) })
}

func dialBare(b *testing.B, w *world, addr, path string) *websocket.Conn {
	b.Helper()
	c, err := NewClient(ClientConfig{Relay: w.desc, Network: w.network, Authority: w.authority.Public()})
	if err != nil {
		b.Fatal(err)
	}
	config, err := c.tlsConfig("https://" + addr)
	if err != nil {
		b.Fatal(err)
	}
	ws, _, err := websocket.Dial(context.Background(), "https://"+addr+path, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: config}},
	})
	if err != nil {
		b.Fatal(err)
	}
	return ws
}

func copyMessages(ctx context.Context, from *websocket.Conn, take func([]byte) error) {
	in := newReader(from)
	for {
		m, err := in.next(ctx)
		if err != nil {
			return
		}
		if err := take(m); err != nil && !errors.Is(err, context.Canceled) {
			return
		}
		in.release()
	}
}
