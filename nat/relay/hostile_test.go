package relay

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"

	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/relayframe"
	"warren/proto/tlsbind"
	pb "warren/proto/warrenv1"
)

// browser gives an HTTP client that trusts the relay of w.
func (w *world) browser() *http.Client {
	w.t.Helper()
	config, err := tlsbind.ClientConfig(w.authority.Public(), w.network, w.desc.GetTlsMode(), "", pb.TLSRole_TLS_ROLE_RELAY)
	if err != nil {
		w.t.Fatal(err)
	}
	t := &http.Transport{TLSClientConfig: config}
	w.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

// knock opens a WebSocket and reads the challenge, as far as everybody gets.
func (w *world) knock(ctx context.Context) *websocket.Conn {
	w.t.Helper()
	ws, _, err := websocket.Dial(ctx, w.desc.GetUrls()[0]+relayframe.Path, &websocket.DialOptions{
		HTTPClient: w.browser(), Subprotocols: []string{relayframe.Subprotocol}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ws.CloseNow() })
	var challenge pb.RelayChallenge
	if err := readMessage(ctx, ws, &challenge); err != nil || len(challenge.GetChallenge()) != 32 {
		w.t.Fatalf("challenge %v, %v", &challenge, err)
	}
	return ws
}

// TestHostileHandshake: nobody who does not say hello as agreed becomes a connection, and none of it keeps the next device out.
func TestHostileHandshake(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for name, tc := range map[string]struct {
		kind websocket.MessageType
		b    []byte
		told bool // why not
	}{
		"text":        {websocket.MessageText, []byte("hello"), false},
		"no protobuf": {websocket.MessageBinary, []byte{0xff, 0xff}, false},
		"too long":    {websocket.MessageBinary, make([]byte, maxHandshake+1), false},
		"empty":       {websocket.MessageBinary, nil, true},
		"a frame":     {websocket.MessageBinary, relayframe.Append(nil, relayframe.Frame{Type: relayframe.Ping, Payload: make([]byte, 8)}), false},
	} {
		t.Run(name, func(t *testing.T) {
			ws := w.knock(ctx)
			if err := ws.Write(ctx, tc.kind, tc.b); err != nil {
				t.Fatal(err)
			}
			var welcome pb.RelayWelcome
			err := readMessage(ctx, ws, &welcome)
			if tc.told && (err != nil || welcome.GetRefused() == "") || !tc.told && err == nil {
				t.Errorf("%v, %v", &welcome, err)
			}
			if _, _, err := ws.Read(ctx); err == nil || ctx.Err() != nil {
				t.Errorf("the connection was kept: %v", err)
			}
		})
	}
	if n := w.server.count(); n != 0 {
		t.Errorf("%d connections", n)
	}
	w.connect(nil).awaitUp()
}

// TestNotAWebSocket: what is no upgrade to our subprotocol gets an answer of HTTP, and nothing more.
func TestNotAWebSocket(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := w.browser().Get(w.desc.GetUrls()[0] + relayframe.Path)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode < 400 {
		t.Errorf("status %d", r.StatusCode)
	}
	ws, _, err := websocket.Dial(ctx, w.desc.GetUrls()[0]+relayframe.Path, &websocket.DialOptions{HTTPClient: w.browser(), Subprotocols: []string{"other"}})
	if err != nil {
		return // refused at once, which is as good
	}
	defer ws.CloseNow()
	if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("another subprotocol: %v", err)
	}
}

// TestOtherNetworks: credentials of another network admit to nothing, even if the same keys signed them.
func TestOtherNetworks(t *testing.T) {
	w := newWorld(t, nil)
	device, other := key.NewDevice(), record.NetworkID{99}
	challenge := bytes.Repeat([]byte{1}, 32)
	now, until := time.Now(), time.Now().Add(time.Hour)
	must := func(s *pb.Signed, err error) *pb.Signed {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	proof := func(change func(*pb.RelayProof)) *pb.Signed {
		p := &pb.RelayProof{NetworkId: w.network[:], RelayKey: w.desc.RelayKey, Challenge: challenge, DeviceKey: device.Public().Bytes()}
		change(p)
		return must(record.Sign(device, record.ContextRelay, p))
	}
	nothing := func(*pb.RelayProof) {}
	good := func() *pb.RelayHello {
		return &pb.RelayHello{Proof: proof(nothing), Ticket: w.ticketFor(device.Public(), until), SigningCertificate: w.cert}
	}
	if _, err := w.server.admit(good(), challenge, nil); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*pb.RelayHello)
		want   string
	}{
		"ticket": {func(h *pb.RelayHello) {
			h.Ticket = must(record.SignTicket(w.signing, other, device.Public(), now, until))
		}, "of network"},
		"certificate": {func(h *pb.RelayHello) {
			h.SigningCertificate = must(record.Certify(w.authority, other, w.signing.Public(), now))
		}, "of network"},
		"certificate of another authority": {func(h *pb.RelayHello) {
			h.SigningCertificate = must(record.Certify(key.NewAuthority(), w.network, w.signing.Public(), now))
		}, "does not verify"},
		"proof":           {func(h *pb.RelayHello) { h.Proof = proof(func(p *pb.RelayProof) { p.NetworkId = other[:] }) }, "another relay"},
		"another relay":   {func(h *pb.RelayHello) { h.Proof = proof(func(p *pb.RelayProof) { p.RelayKey = make([]byte, 32) }) }, "another relay"},
		"no proof":        {func(h *pb.RelayHello) { h.Proof = nil }, "missing"},
		"no ticket":       {func(h *pb.RelayHello) { h.Ticket = nil }, "missing"},
		"ticket as proof": {func(h *pb.RelayHello) { h.Proof = h.Ticket }, "does not verify"},
		"proof as ticket": {func(h *pb.RelayHello) { h.Ticket = h.Proof }, "does not verify"},
		"expired": {func(h *pb.RelayHello) {
			h.Ticket = w.ticketFor(device.Public(), now.Add(-time.Second))
		}, "expired"},
		"no expiry": {func(h *pb.RelayHello) {
			h.Ticket = must(record.Sign(w.signing, record.ContextTicket, &pb.RelayTicket{NetworkId: w.network[:], DeviceKey: device.Public().Bytes()}))
		}, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			h := good()
			tc.change(h)
			if _, err := w.server.admit(h, challenge, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v; want one that says %q", err, tc.want)
			}
		})
	}
}

// TestFull: a relay that serves as many devices as it may refuses another one, says so, and takes it once there is room; a device that is
// connected already may connect anew.
func TestFull(t *testing.T) {
	w := newWorld(t, func(c *ServerConfig) { c.MaxConnections = 1 })
	a := w.connect(nil)
	a.awaitUp()
	b := w.connect(nil)
	b.await("a refusal", func() bool {
		return b.lastErr != nil && strings.Contains(b.lastErr.Error(), "as many devices as it may")
	})
	w.dialRaw(a.key)
	w.server.Block(a.key.Public())
	b.awaitUp()
}

// TestGoneIsToldNowAndThen: a device that sends to many who are not there hears of it now and then, not each time.
func TestGoneIsToldNowAndThen(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.connect(nil), w.connect(nil)
	a.awaitUp()
	b.awaitUp()
	const sent = 5000
	for range sent {
		if err := a.client.SendData(rawKey{1}, []byte("nobody")); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.client.SendData(b.raw(), []byte("end")); err != nil {
		t.Fatal(err)
	}
	b.await("the end", func() bool { return len(b.got) > 0 })
	a.await("word that nobody is there", func() bool { return a.gone > 0 })
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gone > sent/50 {
		t.Errorf("told %d times in %d", a.gone, sent)
	}
}

// FuzzAdmit: nothing but what coordinator and device signed is admitted.
func FuzzAdmit(f *testing.F) {
	w := newWorld(f, nil)
	device, challenge := key.NewDevice(), bytes.Repeat([]byte{1}, 32)
	signed, err := record.Sign(device, record.ContextRelay, &pb.RelayProof{
		NetworkId: w.network[:], RelayKey: w.desc.RelayKey, Challenge: challenge, DeviceKey: device.Public().Bytes(),
	})
	if err != nil {
		f.Fatal(err)
	}
	hello := &pb.RelayHello{Proof: signed, Ticket: w.ticketFor(device.Public(), time.Now().Add(time.Hour)), SigningCertificate: w.cert}
	b, err := proto.Marshal(hello)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Add(b[:len(b)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		var h pb.RelayHello
		if proto.Unmarshal(b, &h) != nil {
			return
		}
		// Keys differ from process to process, so that a seed of another one is as good as forged.
		alike := func(a, b *pb.Signed) bool {
			return bytes.Equal(a.GetPayload(), b.GetPayload()) && bytes.Equal(a.GetSignature(), b.GetSignature())
		}
		same := alike(h.GetProof(), hello.Proof) && alike(h.GetTicket(), hello.Ticket) && alike(h.GetSigningCertificate(), hello.SigningCertificate)
		if _, err := w.server.admit(&h, challenge, nil); (err == nil) != same {
			t.Errorf("admitted: %v, the same: %v", err, same)
		}
	})
}
