package relay

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"warren/proto/key"
	"warren/proto/relayframe"
	pb "warren/proto/warrenv1"
)

// serveOn serves a relay with w's key on the other ends of what is dialled, until stop. The next one takes what was dialled in between.
func (w *world) serveOn(k key.DevicePrivate, p *pipes) (stop func()) {
	return w.serve(NewServer(ServerConfig{Key: k, Network: w.network, Authority: w.authority.Public()}), p)
}

func (w *world) serve(s *Server, p *pipes) (stop func()) {
	mux := http.NewServeMux()
	mux.Handle(relayframe.Path, s)
	own := &pipes{conns: p.conns, closed: make(chan struct{})}
	h := &http.Server{Handler: mux, TLSConfig: w.certificate(pb.TLSRole_TLS_ROLE_RELAY)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ServeTLS(Listener(own), "", "")
	}()
	return func() {
		own.Close()
		<-done
		s.Close()
		h.Close()
	}
}

// returns notes when devices connect.
type returns struct {
	mu    sync.Mutex
	up    int
	times []time.Time
	all   chan struct{}
	want  int
}

func (r *returns) state(up bool, _ netip.AddrPort, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !up {
		r.up--
		return
	}
	r.times = append(r.times, time.Now())
	if r.up++; r.up == r.want {
		r.all <- struct{}{}
	}
}

// TestRelayComesBack: devices that lose a relay together are all back within 2 s of it, spread over the time that it asked for, though the next process
// takes a second to start.
func TestRelayComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const devices, away = 40, time.Second
		w, p, k := quietWorld(t), newPipes(), key.NewDevice()
		w.desc.RelayKey = k.Public().Bytes()
		stop := w.serveOn(k, p)
		r := &returns{want: devices, all: make(chan struct{}, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range devices {
			device := key.NewDevice()
			c, err := NewClient(ClientConfig{
				Relay: w.desc, Network: w.network, Authority: w.authority.Public(), Device: device, Dial: p.dial, OnState: r.state,
				Ticket: func() (*pb.Signed, *pb.Signed) {
					return w.ticketFor(device.Public(), time.Now().Add(time.Hour)), w.cert
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			group.Go(func() { c.Run(ctx) })
		}
		<-r.all
		<-time.After(2 * steady)
		lost := time.Now()
		stop()
		if took := time.Since(lost); took > time.Second {
			t.Errorf("the relay took %s to close", took)
		}
		<-time.After(away)
		stop = w.serveOn(k, p)
		<-r.all
		if took := time.Since(lost); took > 2*time.Second {
			t.Errorf("back after %s", took)
		}
		cancel()
		group.Wait()
		stop()
	})
}

// TestRelayAsksForTime: a device comes back within the time that the relay asks for, or within what it bears.
func TestRelayAsksForTime(t *testing.T) {
	for asked, most := range map[time.Duration]time.Duration{0: firstWait, time.Second: time.Second, time.Hour: longestReturn} {
		synctest.Test(t, func(t *testing.T) {
			w, p := quietWorld(t), newPipes()
			l := &liar{world: w, conns: make(chan *websocket.Conn, 4), welcome: &pb.RelayWelcome{
				MaxPayload: relayframe.MaxPayload, ReturnWithinMilliseconds: uint32(asked.Milliseconds()),
			}}
			h := &http.Server{Handler: l, TLSConfig: w.certificate(pb.TLSRole_TLS_ROLE_RELAY)}
			go h.ServeTLS(p, "", "")
			go func() {
				for ws := range l.conns {
					go func() {
						ctx, cancel := context.WithTimeout(context.Background(), 2*steady)
						defer cancel()
						for {
							if _, _, err := ws.Read(ctx); err != nil {
								return
							}
						}
					}()
				}
			}()
			said := w.watch(p, 12)
			close(l.conns)
			h.Close()
			var longest time.Duration
			for i := 2; i < len(said); i += 2 { // up, down, up, ...
				longest = max(longest, said[i].at-said[i-1].at)
			}
			if longest > most || longest < most/4 {
				t.Errorf("asked for %s: back after %s at the latest, want up to %s", asked, longest, most)
			}
		})
	}
}

// TestCloseIsPrompt: devices that do not answer hold a relay up that closes, but not for long.
func TestCloseIsPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p, k := quietWorld(t), newPipes(), key.NewDevice()
		w.desc.RelayKey = k.Public().Bytes()
		stop := w.serveOn(k, p)
		deaf := make(chan struct{})
		r := &returns{want: 1, all: make(chan struct{}, 1)}
		device := key.NewDevice()
		c, err := NewClient(ClientConfig{
			Relay: w.desc, Network: w.network, Authority: w.authority.Public(), Device: device, OnState: r.state,
			Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := p.dial(ctx, network, address)
				return &deafConn{c, deaf}, err
			},
			Ticket: func() (*pb.Signed, *pb.Signed) {
				return w.ticketFor(device.Public(), time.Now().Add(time.Hour)), w.cert
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { c.Run(ctx) })
		<-r.all
		<-time.After(2 * steady)
		close(deaf)
		<-time.After(time.Second)
		began := time.Now()
		stop()
		if took := time.Since(began); took > time.Second {
			t.Errorf("the relay took %s to close", took)
		}
		cancel()
		group.Wait()
	})
}

// deafConn reads and writes nothing once deaf is closed.
type deafConn struct {
	net.Conn
	deaf chan struct{}
}

func (c *deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	select {
	case <-c.deaf:
		if err == nil {
			return c.Read(b)
		}
	default:
	}
	return n, err
}

func (c *deafConn) Write(b []byte) (int, error) {
	select {
	case <-c.deaf:
		return len(b), nil
	default:
		return c.Conn.Write(b)
	}
}
