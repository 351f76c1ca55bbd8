package relay

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"warren/internal/broadcast"
	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/relayframe"
	"warren/proto/tlsbind"
	pb "warren/proto/warrenv1"
)

// world is a relay on loopback, with the authority that vouches for it.
type world struct {
	t         testing.TB
	network   record.NetworkID
	authority key.AuthorityPrivate
	signing   key.SigningPrivate
	cert      *pb.Signed
	server    *Server
	desc      *pb.Relay
	addr      string
	exchanged int // packets, by udpDev.exchange
}

func newWorld(t testing.TB, change func(*ServerConfig)) *world {
	w := &world{t: t, network: record.NetworkID{7}, authority: key.NewAuthority(), signing: key.NewSigning()}
	var err error
	if w.cert, err = record.Certify(w.authority, w.network, w.signing.Public(), time.Now()); err != nil {
		t.Fatal(err)
	}
	k := key.NewDevice()
	cfg := ServerConfig{Key: k, Network: w.network, Authority: w.authority.Public()}
	if change != nil {
		change(&cfg)
	}
	w.server = NewServer(cfg)
	mux := http.NewServeMux()
	mux.Handle(relayframe.Path, w.server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{Handler: mux, TLSConfig: w.certificate(pb.TLSRole_TLS_ROLE_RELAY)}
	go h.ServeTLS(Listener(l), "", "")
	t.Cleanup(func() {
		w.server.Close()
		h.Close()
	})
	w.addr = l.Addr().String()
	w.desc = &pb.Relay{RelayKey: k.Public().Bytes(), Name: "r", Urls: []string{"https://" + w.addr}, TlsMode: pb.TLSMode_TLS_MODE_SELF}
	return w
}

func (w *world) certificate(role pb.TLSRole) *tls.Config {
	k, err := tlsbind.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	spki, err := tlsbind.SPKI(k.Public())
	if err != nil {
		w.t.Fatal(err)
	}
	binding, err := record.BindTLS(w.authority, w.network, role, spki)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := tlsbind.Certificate(k, binding)
	if err != nil {
		w.t.Fatal(err)
	}
	return tlsbind.ServerConfig(c)
}

// dev is a device with a connection.
type dev struct {
	w       *world
	key     key.DevicePrivate
	client  *Client
	changed broadcast.Broadcast
	mu      sync.Mutex
	got     []string
	gone    int
	up      bool
	lastErr error
	ticket  *pb.Signed
}

func (w *world) ticketFor(d key.DevicePublic, until time.Time) *pb.Signed {
	t, err := record.SignTicket(w.signing, w.network, d, time.Now(), until)
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

func (w *world) connect(change func(*ClientConfig)) *dev {
	d := &dev{w: w, key: key.NewDevice()}
	d.ticket = w.ticketFor(d.key.Public(), time.Now().Add(time.Hour))
	addr := w.addr
	cfg := ClientConfig{
		Relay: w.desc, Network: w.network, Authority: w.authority.Public(), Device: d.key,
		Ticket: func() (*pb.Signed, *pb.Signed) { return d.ticket, w.cert },
		OnData: func(_ rawKey, packets [][]byte) {
			d.update(func() {
				for _, b := range packets {
					d.got = append(d.got, "data "+string(b))
				}
			})
		},
		OnSignal: func(from rawKey, b []byte) { d.update(func() { d.got = append(d.got, "signal "+string(b)) }) },
		OnGone:   func(rawKey) { d.update(func() { d.gone++ }) },
		OnState: func(up bool, remote netip.AddrPort, err error) {
			d.update(func() { d.up, d.lastErr = up, err })
			if up && remote.String() != addr {
				w.t.Errorf("remote %s, want %s", remote, addr)
			}
		},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if d.client, err = NewClient(cfg); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		d.client.Run(ctx)
		close(done)
	}()
	w.t.Cleanup(func() {
		cancel()
		<-done
	})
	return d
}

func (d *dev) update(f func()) {
	d.mu.Lock()
	f()
	d.mu.Unlock()
	d.changed.Wake()
}

func (d *dev) await(what string, ok func() bool) {
	d.w.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		next := d.changed.Next()
		d.mu.Lock()
		done := ok()
		d.mu.Unlock()
		if done {
			return
		}
		select {
		case <-next:
		case <-deadline:
			d.w.t.Fatalf("still not: %s; up %v, got %q, %v", what, d.up, d.got, d.lastErr)
		}
	}
}

func (d *dev) awaitUp()    { d.await("connected", func() bool { return d.up }) }
func (d *dev) raw() rawKey { return d.key.Public().Raw() }

// dialRaw opens a WebSocket that has passed the handshake as d, for hostile frames.
func (w *world) dialRaw(d key.DevicePrivate) *websocket.Conn {
	w.t.Helper()
	c, err := NewClient(ClientConfig{
		Relay: w.desc, Network: w.network, Authority: w.authority.Public(), Device: d,
		Ticket:  func() (*pb.Signed, *pb.Signed) { return w.ticketFor(d.Public(), time.Now().Add(time.Hour)), w.cert },
		OnState: func(bool, netip.AddrPort, error) {},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	way, _, err := c.connect(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { way.ws.CloseNow() })
	return way.ws
}
