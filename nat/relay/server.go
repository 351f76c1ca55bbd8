package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"warren/internal/backoff"
	"warren/internal/udpbatch"
	"warren/nat/relay/datagram"
	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/relayframe"
	pb "warren/proto/warrenv1"
)

// Defaults and bounds of a server.
const (
	DefaultQueueBytes     = 512 << 10
	DefaultMaxConnections = 65536
	handshakeTimeout      = 10 * time.Second
	maxHandshakes         = 512 // in progress at once
	// idleTimeout is how long a connection may be silent; clients ping more often.
	idleTimeout = 70 * time.Second
	// writeTimeout bounds one message to a device that has stopped reading.
	writeTimeout = 20 * time.Second
	// goneEvery limits how often a device is told that another is not here.
	goneEvery = 100 * time.Millisecond
	// returnsPerSecond is how many devices may come back in a second: each costs a TLS handshake and three signatures.
	returnsPerSecond = 2000
	maxGone          = 256 // peers remembered for that, for each connection
)

// ServerConfig is what a relay is made with. Key, Network and Authority are needed.
type ServerConfig struct {
	Key       key.DevicePrivate
	Network   record.NetworkID
	Authority key.AuthorityPublic
	Log       *slog.Logger
	Now       func() time.Time
	// QueueBytes bounds what waits for one device.
	QueueBytes int
	// BytesPerSecond is how much of others' packets one device may send; 0 for any amount. Over UDP more is dropped, over a WebSocket
	// connection it waits.
	BytesPerSecond int
	MaxConnections int
	Registerer     prometheus.Registerer
}

// Server is a relay.
type Server struct {
	cfg        ServerConfig
	handshakes chan struct{}
	metrics    *serverMetrics
	closing    chan struct{}
	closeOnce  sync.Once
	active     sync.WaitGroup
	start      time.Time
	udp        atomic.Pointer[udpbatch.Conn] // nil while UDP is not served

	mu       sync.RWMutex
	conns    map[rawKey]*serverConn
	sessions map[uint32]*serverConn // those with UDP
	blocked  map[rawKey]struct{}
}

// serverConn is one device's connection.
type serverConn struct {
	device key.DevicePublic
	raw    rawKey
	queue  *queue
	udp    *udpSession   // nil without UDP
	rate   *rate.Limiter // nil for any
	cancel context.CancelCauseFunc
	writer atomic.Pointer[connWriter] // nil until the device is welcome

	mu   sync.Mutex
	told map[rawKey]time.Time // when it was told that a peer is not here
}

func (c *serverConn) beginWriting() {
	if w := c.writer.Load(); w != nil {
		w.begin()
	}
}

// NewServer makes a relay. It serves as soon as its ServeHTTP is mounted.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.QueueBytes == 0 {
		cfg.QueueBytes = DefaultQueueBytes
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = DefaultMaxConnections
	}
	if cfg.Registerer == nil {
		cfg.Registerer = prometheus.NewRegistry()
	}
	s := &Server{
		cfg: cfg, handshakes: make(chan struct{}, maxHandshakes), closing: make(chan struct{}),
		conns: map[rawKey]*serverConn{}, sessions: map[uint32]*serverConn{}, blocked: map[rawKey]struct{}{}, start: time.Now(),
	}
	s.metrics = newServerMetrics(cfg.Registerer, s.count)
	return s
}

func (s *Server) count() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.conns)
}

var (
	errBlocked  = errors.New("this device is no member of the network any more")
	errReplaced = errors.New("a newer connection of this device took over")
	errClosing  = errors.New("the relay is stopping")
	errStuck    = errors.New("the device does not read")
	errIdle     = errors.New("nothing was heard from the device")
	errFull     = errors.New("the relay serves as many devices as it may; another relay helps")
)

// Block closes the device's connection at once, and refuses it from now on.
func (s *Server) Block(d key.DevicePublic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocked[d.Raw()] = struct{}{}
	if c := s.conns[d.Raw()]; c != nil {
		c.cancel(errBlocked)
	}
}

// Unblock lets the device come again.
func (s *Server) Unblock(d key.DevicePublic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.blocked, d.Raw())
}

// Close ends every connection and waits until they are gone.
func (s *Server) Close() {
	s.closeOnce.Do(func() {
		close(s.closing)
		s.mu.Lock()
		for _, c := range s.conns {
			c.cancel(errClosing)
		}
		s.mu.Unlock()
	})
	s.active.Wait()
}

// ServeHTTP takes one device's connection and returns when it ends.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case s.handshakes <- struct{}{}:
	default:
		s.metrics.refusals.WithLabelValues("busy").Inc()
		http.Error(w, "too many connections are being made; try again", http.StatusServiceUnavailable)
		return
	}
	shaking := true
	done := func() {
		if shaking {
			<-s.handshakes
			shaking = false
		}
	}
	defer done()
	h := &hijacked{ResponseWriter: w}
	ws, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		Subprotocols: []string{relayframe.Subprotocol}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		s.metrics.refusals.WithLabelValues("http").Inc()
		return // Accept has answered
	}
	if ws.Subprotocol() != relayframe.Subprotocol {
		ws.Close(websocket.StatusPolicyViolation, "subprotocol "+relayframe.Subprotocol+" is needed")
		return
	}
	// The connection outlives this call, so that an idle device does not hold its request and a stack that a TLS handshake has grown.
	ctx, cancel := context.WithCancelCause(context.Background())
	c, err := s.handshake(r.Context(), cancel, r.TLS, ws)
	if err != nil {
		s.cfg.Log.Info("relay connection refused", "remote", r.RemoteAddr, "err", err)
		cancel(err)
		ws.CloseNow()
		if c != nil {
			s.leave(c)
			s.active.Done()
		}
		return
	}
	remote := r.RemoteAddr
	go func() {
		defer s.active.Done()
		defer s.leave(c)
		defer cancel(nil)
		s.serve(ctx, ws, h.cork, c, remote)
	}()
}

// handshake admits a device or tells it why not. A device that was admitted has joined, and leaves again whatever the error: it can be
// reached before it hears that it is welcome, so that nothing which it has others send then is lost.
func (s *Server) handshake(ctx context.Context, end context.CancelCauseFunc, t *tls.ConnectionState, ws *websocket.Conn) (*serverConn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	ws.SetReadLimit(maxHandshake)
	binding, err := exporter(t)
	if err != nil {
		return nil, err
	}
	challenge := make([]byte, 32)
	rand.Read(challenge)
	err = writeMessage(ctx, ws, &pb.RelayChallenge{NetworkId: s.cfg.Network[:], RelayKey: s.cfg.Key.Public().Bytes(), Challenge: challenge})
	if err != nil {
		return nil, err
	}
	var hello pb.RelayHello
	if err := readMessage(ctx, ws, &hello); err != nil {
		return nil, err
	}
	device, err := s.admit(&hello, challenge, binding)
	reason := "credentials"
	var c *serverConn
	var offer *pb.RelayUDP
	if err == nil {
		c = &serverConn{device: device, raw: device.Raw(), queue: newQueue(s.cfg.QueueBytes), rate: s.newRate(), cancel: end}
		c.queue.begin, c.queue.onDrop = c.beginWriting, s.metrics.dropped.WithLabelValues("queue").Inc
		reason = "full"
		if offer, err = s.join(c, hello.GetUdp()); err != nil {
			c = nil
		}
	}
	if err != nil {
		s.metrics.refusals.WithLabelValues(reason).Inc()
		return nil, errors.Join(err, writeMessage(ctx, ws, &pb.RelayWelcome{Refused: err.Error()}))
	}
	within := backoff.Spread(s.count(), returnsPerSecond, longestReturn)
	return c, writeMessage(ctx, ws, &pb.RelayWelcome{
		MaxPayload: relayframe.MaxPayload, Udp: offer, ReturnWithinMilliseconds: uint32(within.Milliseconds()),
	})
}

// newRate makes the limit of one device. A whole message always fits.
func (s *Server) newRate() *rate.Limiter {
	if s.cfg.BytesPerSecond == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(s.cfg.BytesPerSecond), max(s.cfg.BytesPerSecond/4, 2*relayframe.MaxMessage))
}

// admit checks who it is, and that the coordinator lets the device use relays.
func (s *Server) admit(h *pb.RelayHello, challenge, binding []byte) (key.DevicePublic, error) {
	var none key.DevicePublic
	signing, err := record.OpenCertificate(s.cfg.Authority, s.cfg.Network, h.GetSigningCertificate())
	if err != nil {
		return none, err
	}
	device, err := record.OpenTicket(signing, s.cfg.Network, s.cfg.Now(), h.GetTicket())
	if err != nil {
		return none, err
	}
	var proof pb.RelayProof
	if err := record.Open(device, record.ContextRelay, h.GetProof(), &proof); err != nil {
		return none, err
	}
	switch {
	case !bytes.Equal(proof.GetNetworkId(), s.cfg.Network[:]), !bytes.Equal(proof.GetRelayKey(), s.cfg.Key.Public().Bytes()):
		return none, errors.New("the proof is for another relay")
	case !bytes.Equal(proof.GetChallenge(), challenge):
		return none, errors.New("the proof is for another challenge")
	case binding != nil && !bytes.Equal(proof.GetTlsExporter(), binding):
		return none, errors.New("the proof is for another TLS connection")
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, blocked := s.blocked[device.Raw()]; blocked {
		return none, errBlocked
	}
	return device, nil
}

// serve forwards until the connection ends.
func (s *Server) serve(ctx context.Context, ws *websocket.Conn, cork *cork, c *serverConn, remote string) {
	s.cfg.Log.Debug("device connected to the relay", "key", c.device.Short(), "remote", remote)
	w := &connWriter{ctx: ctx, ws: ws, cork: cork, c: c}
	c.writer.Store(w)
	w.begin() // for what came before the device was welcome
	c.cancel(s.readFrom(ctx, ws, c))
	cause := context.Cause(ctx)
	if errors.Is(cause, errBlocked) || errors.Is(cause, errReplaced) || errors.Is(cause, errClosing) {
		// A polite word; the reader's cancelled context has closed the connection if it was in the middle of something.
		ws.Close(websocket.StatusGoingAway, cause.Error())
	}
	ws.CloseNow()
	w.end()
	s.cfg.Log.Debug("device left the relay", "key", c.device.Short(), "err", cause)
}

// maxSessions bounds devices with UDP, so that a free number is soon found.
const maxSessions = datagram.MaxSession / 2

// join makes the device reachable, and gives it a session for datagrams if it wants one.
func (s *Server) join(c *serverConn, udp bool) (*pb.RelayUDP, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closing:
		return nil, errClosing
	default:
	}
	old := s.conns[c.raw]
	if old == nil && len(s.conns) >= s.cfg.MaxConnections {
		return nil, errFull
	}
	if _, blocked := s.blocked[c.raw]; blocked {
		return nil, errBlocked
	}
	var offer *pb.RelayUDP
	if conn := s.udp.Load(); udp && conn != nil && len(s.sessions) < maxSessions {
		id := mrand.Uint32N(datagram.MaxSession + 1)
		for s.sessions[id] != nil {
			id = mrand.Uint32N(datagram.MaxSession + 1)
		}
		var err error
		if c.udp, offer, err = newUDPSession(id); err != nil {
			return nil, err
		}
		offer.Port = uint32(conn.Port())
		s.sessions[id] = c
	}
	if old != nil {
		old.cancel(errReplaced)
	}
	s.conns[c.raw] = c
	s.active.Add(1)
	s.metrics.connections.Inc()
	return offer, nil
}

func (s *Server) leave(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[c.raw] == c {
		delete(s.conns, c.raw)
	}
	if c.udp != nil {
		delete(s.sessions, c.udp.id)
	}
}

func (s *Server) find(k rawKey) *serverConn {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.conns[k]
}

// readFrom forwards what the device sends, and ends the connection when nothing comes for long.
func (s *Server) readFrom(ctx context.Context, ws *websocket.Conn, c *serverConn) error {
	idle := time.AfterFunc(idleTimeout, func() { c.cancel(errIdle) })
	defer idle.Stop()
	in := newReader(ws)
	for {
		b, err := in.next(ctx)
		if err != nil {
			return err
		}
		idle.Reset(idleTimeout)
		s.metrics.bytes.Add(float64(len(b)))
		if !c.allow(s.cfg.Now, len(b)) {
			s.metrics.waits.Inc()
			if err := c.rate.WaitN(ctx, len(b)); err != nil {
				return err
			}
		}
		if err := s.message(c, b); err != nil {
			return err
		}
		in.release()
	}
}

// message forwards the frames of one message. Packets to one device go out together.
func (s *Server) message(c *serverConn, b []byte) error {
	out := s.newOutgoing()
	defer out.done()
	for len(b) > 0 {
		f, rest, err := relayframe.Next(b)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		b = rest
		switch f.Type {
		case relayframe.Ping:
			c.queue.shrink()
			c.queue.push(relayframe.Frame{Type: relayframe.Pong, Payload: f.Payload[:min(len(f.Payload), 8)]})
		case relayframe.Data, relayframe.Signal:
			if out.to == nil || out.to.raw != f.Peer {
				out.begin(c, s.find(f.Peer))
			}
			s.forward(c, out, f)
		case relayframe.Pong:
		case relayframe.Bind, relayframe.Stop:
			if err := s.control(c, f); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: a device does not send type %d", ErrProtocol, f.Type)
		}
	}
	return nil
}

// forward passes a packet or signal on. Signals take the connection, which loses none.
func (s *Server) forward(c *serverConn, out *outgoing, f relayframe.Frame) {
	switch {
	case out.to == nil:
		s.metrics.dropped.WithLabelValues("absent").Inc()
		s.tellGone(c, f.Peer)
	case f.Type == relayframe.Data:
		out.packet(f.Payload)
	default:
		s.metrics.overWebSocket.Inc()
		out.to.queue.push(relayframe.Frame{Type: f.Type, Peer: c.raw, Payload: f.Payload})
	}
}

// control takes what a device says about its datagrams.
func (s *Server) control(c *serverConn, f relayframe.Frame) error {
	if c.udp == nil {
		return fmt.Errorf("%w: type %d without a session for datagrams", ErrProtocol, f.Type)
	}
	if f.Type == relayframe.Stop {
		c.udp.stop()
		return nil
	}
	if len(f.Payload) != 2 || !c.udp.bind(binary.BigEndian.Uint16(f.Payload), f.Peer) {
		return fmt.Errorf("%w: channel % x", ErrProtocol, f.Payload)
	}
	c.queue.push(relayframe.Frame{Type: relayframe.Bound, Peer: f.Peer, Payload: f.Payload})
	return nil
}

// tellGone says that the peer is not here, not too often.
func (s *Server) tellGone(c *serverConn, peer rawKey) {
	now := s.cfg.Now()
	c.mu.Lock()
	last, known := c.told[peer]
	silent := known && now.Sub(last) < goneEvery
	if !silent {
		if c.told == nil || len(c.told) >= maxGone {
			c.told = map[rawKey]time.Time{}
		}
		c.told[peer] = now
	}
	c.mu.Unlock()
	if !silent {
		c.queue.push(relayframe.Frame{Type: relayframe.PeerGone, Peer: peer})
	}
}
