package relay

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"

	"warren/internal/udpbatch"
	pb "warren/proto/warrenv1"
)

// newUDPWorld is newWorld with a relay that serves UDP too. other counts what came that is not the relay's.
func newUDPWorld(t testing.TB, change func(*ServerConfig)) (w *world, other *atomic.Int64) {
	w = newWorld(t, func(c *ServerConfig) {
		c.Registerer = prometheus.NewRegistry()
		if change != nil {
			change(c)
		}
	})
	c, err := udpbatch.Listen("udp", "127.0.0.1:0", udpbatch.Options{GSO: true, GRO: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	other = new(atomic.Int64)
	w.server.udp.Store(c) // before anyone connects
	go func() {
		done <- w.server.ServeUDP(ctx, c, func(b []byte, _ netip.AddrPort) []byte {
			other.Add(1)
			return append([]byte("answer to "), b...)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.desc.Stun = []string{fmt.Sprintf("127.0.0.1:%d", c.Port())}
	return w, other
}

func listenLoopback() (*udpbatch.Conn, error) {
	return udpbatch.Listen("udp4", "127.0.0.1:0", udpbatch.Options{GSO: true, GRO: true})
}

// udpDevice connects with UDP, through a wire if there is one, and waits until UDP is used.
func (w *world) udpDevice(through *wire, change func(*ClientConfig)) *udpDev {
	d := &udpDev{}
	d.dev = w.connect(func(c *ClientConfig) {
		if through != nil {
			c.Relay = proto.Clone(w.desc).(*pb.Relay)
			c.Relay.Stun = []string{through.addr.String()}
		}
		c.ListenUDP = listenLoopback
		c.OnUDP = func(used bool, _ netip.AddrPort) {
			d.ready.Wait() // until connect has returned
			d.update(func() { d.udp = used })
		}
		d.ready.Add(1)
		if change != nil {
			change(c)
		}
	})
	d.ready.Done()
	return d
}

type udpDev struct {
	*dev
	ready sync.WaitGroup
	udp   bool
}

func (d *udpDev) awaitUDP(want bool) {
	d.w.t.Helper()
	d.await(fmt.Sprint("UDP used: ", want), func() bool { return d.udp == want })
}

// awaitLane sends until packets to a peer go over UDP all the way.
func (d *udpDev) awaitLane(to *udpDev) {
	d.w.t.Helper()
	over := d.w.server.metrics.overUDP
	before := testutil.ToFloat64(over)
	for testutil.ToFloat64(over) == before {
		d.exchange(to, "hello")
	}
}

// exchange sends a packet there and one back, and waits for both.
func (d *udpDev) exchange(to *udpDev, text string) {
	d.w.t.Helper()
	for _, way := range [][2]*udpDev{{d, to}, {to, d}} {
		from, to := way[0], way[1]
		to.update(func() { to.got = nil })
		if err := from.client.SendDataBatch(to.raw(), [][]byte{[]byte(text)}); err != nil {
			d.w.t.Fatal(err)
		}
		to.await(text, func() bool { return slices.Contains(to.got, "data "+text) })
		d.w.exchanged++
	}
}

// forwarded gives how many packets the relay sent each way, where nothing but exchanges has gone before: it waits until the last of those is counted.
func (w *world) forwarded() (udp, ws float64) {
	w.t.Helper()
	w.awaitCount("either way", func() float64 { return w.overUDP() + w.overWebSocket() }, float64(w.exchanged))
	return w.overUDP(), w.overWebSocket()
}

func (w *world) overUDP() float64       { return testutil.ToFloat64(w.server.metrics.overUDP) }
func (w *world) overWebSocket() float64 { return testutil.ToFloat64(w.server.metrics.overWebSocket) }

func (w *world) ignored(reason string) float64 {
	return testutil.ToFloat64(w.server.metrics.ignored.WithLabelValues(reason))
}

// awaitCount waits until a counter of the relay's has come to want: packets are counted once they have been sent, and may arrive before that.
func (w *world) awaitCount(what string, count func() float64, want float64) {
	w.t.Helper()
	tick, deadline := time.NewTicker(time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for count() < want {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("%v %s, want %v", count(), what, want)
		}
	}
	if got := count(); got != want {
		w.t.Errorf("%v %s, want %v", got, what, want)
	}
}

// wire is a NAT between one device and the relay that can fail.
type wire struct {
	t        testing.TB
	relay    string
	inside   *net.UDPConn
	addr     netip.AddrPort
	cut      atomic.Bool
	device   atomic.Pointer[netip.AddrPort]
	mu       sync.Mutex
	outside  *net.UDPConn
	all      []*net.UDPConn
	hold     func(b []byte) bool // true: it goes no further
	received atomic.Int64        // from the relay, on any socket
}

func newWire(t testing.TB, relay string) *wire {
	x := &wire{t: t, relay: relay}
	at, err := net.ResolveUDPAddr("udp4", relay)
	if err != nil {
		t.Fatal(err)
	}
	at.IP = net.IPv4(127, 0, 0, 2) // and the relay's port
	if x.inside, err = net.ListenUDP("udp4", at); err != nil {
		t.Fatal(err)
	}
	x.addr = x.inside.LocalAddr().(*net.UDPAddr).AddrPort()
	x.rebind()
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := x.inside.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			x.device.Store(&from)
			x.mu.Lock()
			out, hold := x.outside, x.hold
			x.mu.Unlock()
			if !x.cut.Load() && (hold == nil || !hold(bytes.Clone(b[:n]))) {
				out.Write(b[:n])
			}
		}
	}()
	t.Cleanup(func() {
		x.inside.Close()
		x.mu.Lock()
		defer x.mu.Unlock()
		for _, c := range x.all {
			c.Close()
		}
	})
	return x
}

func (x *wire) dial() *net.UDPConn {
	c, err := net.Dial("udp4", x.relay)
	if err != nil {
		x.t.Fatal(err)
	}
	return c.(*net.UDPConn)
}

// rebind gives the device another address, as NATs do. What comes to the old one is lost.
func (x *wire) rebind() {
	c := x.dial()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.outside = c
	x.all = append(x.all, c)
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			x.received.Add(1)
			x.mu.Lock()
			now := x.outside == c
			x.mu.Unlock()
			if to := x.device.Load(); to != nil && now && !x.cut.Load() {
				x.inside.WriteToUDPAddrPort(b[:n], *to)
			}
		}
	}()
}

func (x *wire) setHold(f func([]byte) bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.hold = f
}
