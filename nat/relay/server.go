package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

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
	maxGone   = 256 // peers remembered for that, for each connection
)

// ServerConfig is what a relay is made with. Key, Network and Authority are needed.
type ServerConfig struct {
	Key       key.DevicePrivate
	Network   record.NetworkID
	Authority key.AuthorityPublic
	Log       *slog.Logger
	Now       func() time.Time
	// QueueBytes bounds what waits for one device.
	QueueBytes     int
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

	mu      sync.RWMutex
	conns   map[rawKey]*serverConn
	blocked map[rawKey]struct{}
}

// serverConn is one device's connection.
type serverConn struct {
	device key.DevicePublic
	raw    rawKey
	queue  *queue
	heard  atomic.Int64 // Unix nanoseconds
	cancel context.CancelCauseFunc
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
		conns: map[rawKey]*serverConn{}, blocked: map[rawKey]struct{}{},
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
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{relayframe.Subprotocol}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		s.metrics.refusals.WithLabelValues("http").Inc()
		return // Accept has answered
	}
	defer ws.CloseNow()
	if ws.Subprotocol() != relayframe.Subprotocol {
		ws.Close(websocket.StatusPolicyViolation, "subprotocol "+relayframe.Subprotocol+" is needed")
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	c, err := s.handshake(ctx, cancel, r.TLS, ws)
	if c != nil {
		defer s.active.Done()
		defer s.leave(c)
	}
	if err != nil {
		s.cfg.Log.Info("relay connection refused", "remote", r.RemoteAddr, "err", err)
		return
	}
	done()
	s.serve(ctx, ws, c, r.RemoteAddr)
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
	if err == nil {
		c = &serverConn{device: device, raw: device.Raw(), queue: newQueue(s.cfg.QueueBytes), cancel: end}
		reason, err = "full", s.join(c)
	}
	if err != nil {
		s.metrics.refusals.WithLabelValues(reason).Inc()
		return nil, errors.Join(err, writeMessage(ctx, ws, &pb.RelayWelcome{Refused: err.Error()}))
	}
	return c, writeMessage(ctx, ws, &pb.RelayWelcome{MaxPayload: relayframe.MaxPayload})
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
func (s *Server) serve(ctx context.Context, ws *websocket.Conn, c *serverConn, remote string) {
	s.cfg.Log.Debug("device connected to the relay", "key", c.device.Short(), "remote", remote)
	c.heard.Store(s.cfg.Now().UnixNano())
	var group sync.WaitGroup
	group.Go(func() { c.cancel(s.writeTo(ctx, ws, c)) })
	group.Go(func() { c.cancel(s.watchIdle(ctx, c)) })
	c.cancel(s.readFrom(ctx, ws, c))
	cause := context.Cause(ctx)
	if errors.Is(cause, errBlocked) || errors.Is(cause, errReplaced) || errors.Is(cause, errClosing) {
		// A polite word; the reader's cancelled context has closed the connection if it was in the middle of something.
		ws.Close(websocket.StatusGoingAway, cause.Error())
	}
	ws.CloseNow()
	group.Wait()
	s.metrics.dropped.Add(float64(c.queue.drops()))
	s.cfg.Log.Debug("device left the relay", "key", c.device.Short(), "err", cause)
}

// writeTo is queue.write with a bound on how long a reader may block it.
func (s *Server) writeTo(ctx context.Context, ws *websocket.Conn, c *serverConn) error {
	buf := make([]byte, 0, batchSize+relayframe.MaxPayload)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.queue.ready:
		}
		for {
			if buf = c.queue.take(buf); len(buf) == 0 {
				break
			}
			stuck := time.AfterFunc(writeTimeout, func() { c.cancel(errors.New("the device does not read")) })
			err := ws.Write(ctx, websocket.MessageBinary, buf)
			stuck.Stop()
			if err != nil {
				return err
			}
		}
	}
}

// watchIdle ends a connection whose device has vanished.
func (s *Server) watchIdle(ctx context.Context, c *serverConn) error {
	tick := time.NewTicker(idleTimeout / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if s.cfg.Now().UnixNano()-c.heard.Load() > int64(idleTimeout) {
				return errIdle
			}
		}
	}
}

func (s *Server) join(c *serverConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closing:
		return errClosing
	default:
	}
	old := s.conns[c.raw]
	if old == nil && len(s.conns) >= s.cfg.MaxConnections {
		return errFull
	}
	if _, blocked := s.blocked[c.raw]; blocked {
		return errBlocked
	}
	if old != nil {
		old.cancel(errReplaced)
	}
	s.conns[c.raw] = c
	s.active.Add(1)
	s.metrics.connections.Inc()
	return nil
}

func (s *Server) leave(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[c.raw] == c {
		delete(s.conns, c.raw)
	}
}

func (s *Server) find(k rawKey) *serverConn {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.conns[k]
}

// readFrom forwards what the device sends. Frames of one message to one device go into its queue together.
func (s *Server) readFrom(ctx context.Context, ws *websocket.Conn, c *serverConn) error {
	in := newReader(ws)
	gone := map[rawKey]time.Time{}
	var to *serverConn
	for {
		b, err := in.next(ctx)
		if err != nil {
			return err
		}
		c.heard.Store(s.cfg.Now().UnixNano())
		s.metrics.bytes.Add(float64(len(b)))
		to = nil
		for len(b) > 0 {
			var f relayframe.Frame
			if f, b, err = relayframe.Next(b); err != nil {
				return fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			switch f.Type {
			case relayframe.Ping:
				c.queue.push(relayframe.Frame{Type: relayframe.Pong, Payload: f.Payload[:min(len(f.Payload), 8)]})
			case relayframe.Data, relayframe.Signal:
				if to == nil || to.raw != f.Peer {
					to = s.find(f.Peer)
				}
				if to == nil {
					s.tellGone(c, f.Peer, gone)
					continue
				}
				f.Peer = c.raw
				to.queue.push(f)
				s.metrics.frames.Inc()
			case relayframe.Pong:
			default:
				return fmt.Errorf("%w: a device does not send type %d", ErrProtocol, f.Type)
			}
		}
	}
}

// tellGone says that the peer is not here, not too often.
func (s *Server) tellGone(c *serverConn, peer rawKey, told map[rawKey]time.Time) {
	now := s.cfg.Now()
	if now.Sub(told[peer]) < goneEvery {
		return
	}
	if len(told) >= maxGone {
		clear(told)
	}
	told[peer] = now
	c.queue.push(relayframe.Frame{Type: relayframe.PeerGone, Peer: peer})
}
