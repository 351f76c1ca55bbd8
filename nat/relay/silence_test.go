package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/relayframe"
	pb "warren/proto/warrenv1"
)

// pipes is a network without a kernel, for virtual time: what is dialled, a server accepts.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return new(net.IPAddr) }

// attempt is what a client said of one connection.
type attempt struct {
	up  bool
	err error
	at  time.Duration // since the first dial
}

// watch runs a client in virtual time against whatever accepts from p, and gives what it says until n connections have failed.
func (w *world) watch(p *pipes, n int) (out []attempt) {
	device, began := key.NewDevice(), time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	failed := 0
	c, err := NewClient(ClientConfig{
		Relay: w.desc, Network: w.network, Authority: w.authority.Public(), Device: device, Dial: p.dial,
		Ticket: func() (*pb.Signed, *pb.Signed) {
			return w.ticketFor(device.Public(), time.Now().Add(time.Hour)), w.cert
		},
		OnState: func(up bool, _ netip.AddrPort, err error) {
			out = append(out, attempt{up, err, time.Since(began)})
			if !up {
				if failed++; failed == n {
					cancel()
				}
			}
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := c.Run(ctx); err != nil {
		w.t.Error(err)
	}
	return out
}

// quietWorld is newWorld without a server.
func quietWorld(t testing.TB) *world {
	w := &world{t: t, network: record.NetworkID{7}, authority: key.NewAuthority(), signing: key.NewSigning()}
	var err error
	if w.cert, err = record.Certify(w.authority, w.network, w.signing.Public(), time.Now()); err != nil {
		t.Fatal(err)
	}
	w.desc = &pb.Relay{RelayKey: key.NewDevice().Public().Bytes(), Name: "r", Urls: []string{"https://192.0.2.1"}, TlsMode: pb.TLSMode_TLS_MODE_SELF}
	return w
}

// TestSlowHandshake: a relay that takes for ever to shake hands is given up in time.
func TestSlowHandshake(t *testing.T) {
	for name, answer := range map[string]func(net.Conn){
		"silent": func(c net.Conn) { io.Copy(io.Discard, c) },
		"deaf":   func(net.Conn) {},
		"byte by byte": func(c net.Conn) {
			go io.Copy(io.Discard, c)
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for _, b := range append([]byte{22, 3, 3, 0x3f, 0}, make([]byte, 0x3f00)...) { // the record of a ServerHello
				<-tick.C
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPipes()
				var group sync.WaitGroup
				group.Go(func() {
					for {
						c, err := p.Accept()
						if err != nil {
							return
						}
						group.Go(func() { answer(c) })
					}
				})
				said := quietWorld(t).watch(p, 2)
				p.Close()
				group.Wait() // every connection has been closed
				for _, a := range said {
					if a.up || !errors.Is(a.err, context.DeadlineExceeded) {
						t.Errorf("%+v", a)
					}
				}
				if first := said[0].at; first != handshakeTimeout {
					t.Errorf("given up after %s, want %s", first, handshakeTimeout)
				}
			})
		})
	}
}

// TestSilentRelay: a relay that welcomes a device and answers no ping is left, whatever else it says or does not.
func TestSilentRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := quietWorld(t), newPipes()
		l := &liar{world: w, welcome: &pb.RelayWelcome{MaxPayload: relayframe.MaxPayload}, conns: make(chan *websocket.Conn, 4)}
		h := &http.Server{Handler: l, TLSConfig: w.certificate(pb.TLSRole_TLS_ROLE_RELAY)}
		go h.ServeTLS(p, "", "")
		go func() { // it reads, so that no write fails
			for ws := range l.conns {
				go func() {
					for {
						if _, _, err := ws.Read(context.Background()); err != nil {
							return
						}
					}
				}()
			}
		}()
		said := w.watch(p, 1)
		close(l.conns)
		h.Close()
		if len(said) != 2 || !said[0].up || said[1].up || !strings.Contains(said[1].err.Error(), "nothing heard") {
			t.Fatalf("%+v", said)
		}
		if took := said[1].at - said[0].at; took > 2*pingEvery+pingDead {
			t.Errorf("left after %s", took)
		}
	})
}
