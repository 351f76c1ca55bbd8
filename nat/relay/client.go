package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"

	"warren/internal/backoff"
	"warren/internal/udpbatch"
	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/relayframe"
	"warren/proto/tlsbind"
	pb "warren/proto/warrenv1"
)

// ClientConfig is what a device's connection to a relay is made with.
type ClientConfig struct {
	Relay     *pb.Relay
	Network   record.NetworkID
	Authority key.AuthorityPublic
	Device    key.DevicePrivate
	// Ticket gives the newest relay ticket and the signing certificate for it; nil: there is none yet.
	Ticket func() (ticket, certificate *pb.Signed)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolve looks a host name up; nil: the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Tune, unless nil, is given what Dial has made when the connection stands, and again when its round trip has been measured and now and
	// then, to adapt how long it may go unacknowledged.
	Tune func(net.Conn)
	Log  *slog.Logger
	// ListenUDP opens a socket for the relay's datagrams, which is closed after use; nil: all goes over the WebSocket connection.
	ListenUDP func() (*udpbatch.Conn, error)
	// LongestUDP is the longest packet that may go over UDP; 0 is the constant of that name.
	LongestUDP int
	// Known tells whether a peer is worth a channel for its datagrams; nil: each is.
	Known func(peer [key.Size]byte) bool
	// OnData takes packets of one device that came together. It is called from two goroutines, and by waiting holds back what the relay sends.
	OnData func(from [key.Size]byte, packets [][]byte)
	// OnSignal and OnGone are called from one goroutine. What any of the three is given is good during the call only.
	OnSignal func(from [key.Size]byte, b []byte)
	OnGone   func(peer [key.Size]byte)
	// OnState is told when the connection stands, with the relay's address, and when it is lost, with the reason.
	OnState func(connected bool, remote netip.AddrPort, err error)
	// OnUDP, unless nil, is told when packets begin to go over UDP, and when they no longer do. OnRTT is told of each measured round trip
	// to the relay.
	OnUDP func(used bool, remote netip.AddrPort)
	OnRTT func(time.Duration)
	// QueueBytes bounds what waits to be sent.
	QueueBytes int
}

// Client is a device's connection to one relay.
type Client struct {
	cfg   ClientConfig
	relay key.DevicePublic
	reset chan struct{}
	queue atomic.Pointer[queue]   // nil while not connected
	udp   atomic.Pointer[udpLink] // nil while not connected, or without UDP
	// Run's alone:
	best         int           // the URL that answered last
	returnWithin time.Duration // as the relay wants it
}

// ErrNotConnected says that nothing can be sent now.
var ErrNotConnected = errors.New("not connected to the relay")

const (
	firstWait   = 100 * time.Millisecond
	longestWait = 20 * time.Second
	// steady is how long a connection has to stand until earlier failures are forgotten.
	steady = 5 * time.Second
	// longestReturn bounds how long a device without its relay waits for the sake of others who lost it too.
	longestReturn = 1500 * time.Millisecond
	// pingEvery keeps NAT entries alive, and pingDead is how long an answer may take.
	pingEvery = 5 * time.Second
	pingDead  = 5 * time.Second
)

// NewClient checks the relay's description.
func NewClient(cfg ClientConfig) (*Client, error) {
	k, err := key.DevicePublicFromBytes(cfg.Relay.GetRelayKey())
	if err != nil {
		return nil, fmt.Errorf("relay %q: %w", cfg.Relay.GetName(), err)
	}
	if len(cfg.Relay.GetUrls()) == 0 {
		return nil, fmt.Errorf("relay %q has no address", cfg.Relay.GetName())
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if cfg.Tune == nil {
		cfg.Tune = func(net.Conn) {}
	}
	if cfg.QueueBytes == 0 {
		cfg.QueueBytes = DefaultQueueBytes
	}
	if cfg.LongestUDP == 0 {
		cfg.LongestUDP = LongestUDP
	}
	return &Client{cfg: cfg, relay: k, reset: make(chan struct{}, 1)}, nil
}

// SendData queues a packet for a device. It never blocks; when the connection is slow the oldest packets are dropped.
func (c *Client) SendData(to [key.Size]byte, b []byte) error {
	if l := c.udp.Load(); l != nil && l.send(to, [][]byte{b}) {
		return nil
	}
	return c.send(relayframe.Frame{Type: relayframe.Data, Peer: to, Payload: b})
}

// SendSignal is SendData for a sealed signal, which goes ahead of data.
func (c *Client) SendSignal(to [key.Size]byte, b []byte) error {
	return c.send(relayframe.Frame{Type: relayframe.Signal, Peer: to, Payload: b})
}

func (c *Client) send(f relayframe.Frame) error {
	q := c.queue.Load()
	if q == nil {
		return ErrNotConnected
	}
	if len(f.Payload) > relayframe.MaxPayload {
		return fmt.Errorf("%d bytes are more than a relay frame holds", len(f.Payload))
	}
	q.push(f)
	return nil
}

// SendDataBatch is SendData for many packets to one device.
func (c *Client) SendDataBatch(to [key.Size]byte, bufs [][]byte) error {
	q := c.queue.Load()
	if q == nil {
		return ErrNotConnected
	}
	if l := c.udp.Load(); l != nil && l.send(to, bufs) {
		return nil
	}
	q.pushAll(relayframe.Data, to, bufs)
	return nil
}

// Reset makes the client connect anew at once: the network under it changed.
func (c *Client) Reset() {
	select {
	case c.reset <- struct{}{}:
	default:
	}
}

var errReset = errors.New("connecting anew")

// Run keeps the connection up until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	pauses := &backoff.Backoff{First: firstWait, Longest: longestWait, Steady: steady, Rand: rand.N[time.Duration]}
	for ctx.Err() == nil {
		stood, err := c.once(ctx)
		if ctx.Err() != nil {
			break
		}
		var pause time.Duration
		switch {
		case errors.Is(err, errReset):
			pauses.Reset()
		case stood > 0:
			pause = pauses.Lost(stood, min(c.returnWithin, longestReturn))
		default:
			pause = pauses.Failed()
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-c.reset:
			pauses.Reset()
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// once connects and serves one connection. stood tells for how long it was of use; 0: never.
func (c *Client) once(ctx context.Context) (stood time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-c.reset:
			cancel(errReset)
		case <-ended:
		}
	}()
	w, offer, err := c.connect(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		c.cfg.OnState(false, netip.AddrPort{}, err)
		return 0, err
	}
	defer w.ws.CloseNow()
	began := time.Now()
	q := newQueue(c.cfg.QueueBytes)
	c.queue.Store(q)
	c.cfg.Tune(w.raw)
	c.cfg.OnState(true, w.remote, nil)
	err = c.serve(ctx, w, q, offer)
	c.udp.Store(nil)
	c.queue.Store(nil)
	c.cfg.OnState(false, netip.AddrPort{}, fmt.Errorf("%s: %w", w.at, err))
	return max(time.Since(began), 1), err
}

// connect finds a URL that answers and shakes hands there.
func (c *Client) connect(ctx context.Context) (*way, *pb.RelayUDP, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	ticket, certificate := c.cfg.Ticket()
	if ticket == nil {
		return nil, nil, errors.New("no relay ticket came from the coordinator yet")
	}
	w, err := c.dialFirst(ctx)
	if err != nil {
		return nil, nil, err
	}
	offer, err := c.handshake(ctx, w.ws, w.tls, ticket, certificate)
	if err != nil {
		w.ws.CloseNow()
		return nil, nil, fmt.Errorf("%s: %w", w.at, err)
	}
	return w, offer, nil
}

// tlsConfig is how the relay at a URL is recognised.
func (c *Client) tlsConfig(at string) (*tls.Config, error) {
	u, err := url.Parse(at)
	if err != nil {
		return nil, err
	}
	return tlsbind.ClientConfig(c.cfg.Authority, c.cfg.Network, c.cfg.Relay.GetTlsMode(), u.Hostname(),
		pb.TLSRole_TLS_ROLE_RELAY, pb.TLSRole_TLS_ROLE_COORDINATOR)
}

func handshakeTLS(ctx context.Context, under net.Conn, config *tls.Config) (*tls.Conn, error) {
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"} // WebSocket's upgrade (RFC 6455) is HTTP/1.1's
	conn := tls.Client(under, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		under.Close()
		return nil, err
	}
	return conn, nil
}

func (c *Client) handshake(ctx context.Context, ws *websocket.Conn, state *tls.ConnectionState, ticket, certificate *pb.Signed) (*pb.RelayUDP, error) {
	ws.SetReadLimit(maxHandshake)
	var challenge pb.RelayChallenge
	if err := readMessage(ctx, ws, &challenge); err != nil {
		return nil, err
	}
	if !bytes.Equal(challenge.GetNetworkId(), c.cfg.Network[:]) || !bytes.Equal(challenge.GetRelayKey(), c.relay.Bytes()) {
		return nil, fmt.Errorf("%w: another relay answers there", ErrProtocol)
	}
	proof := &pb.RelayProof{
		NetworkId: c.cfg.Network[:], RelayKey: c.relay.Bytes(), Challenge: challenge.GetChallenge(), DeviceKey: c.cfg.Device.Public().Bytes(),
	}
	// A TLS-terminating proxy with a public certificate has an exporter of its own, which its relay cannot know; a relay that sees TLS
	// insists on the right one.
	binding, err := exporter(state)
	if err != nil {
		return nil, err
	}
	proof.TlsExporter = binding
	signed, err := record.Sign(c.cfg.Device, record.ContextRelay, proof)
	if err != nil {
		return nil, err
	}
	hello := &pb.RelayHello{Proof: signed, Ticket: ticket, SigningCertificate: certificate, Udp: c.cfg.ListenUDP != nil}
	if err := writeMessage(ctx, ws, hello); err != nil {
		return nil, err
	}
	var welcome pb.RelayWelcome
	if err := readMessage(ctx, ws, &welcome); err != nil {
		return nil, err
	}
	if welcome.GetRefused() != "" {
		return nil, fmt.Errorf("the relay refused: %.200q", welcome.GetRefused())
	}
	c.returnWithin = time.Duration(welcome.GetReturnWithinMilliseconds()) * time.Millisecond
	return welcome.GetUdp(), nil
}

func (c *Client) serve(ctx context.Context, w *way, q *queue, offer *pb.RelayUDP) error {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { w.ws.CloseNow() }) // what is being written does not end by itself
	defer stop()
	var heard atomic.Bool
	pings := &pinger{tune: func() { c.cfg.Tune(w.raw) }}
	if offer != nil && c.cfg.ListenUDP != nil {
		l, err := newUDPLink(&c.cfg, offer, q)
		if err != nil {
			c.cfg.Log.Info("relay used without UDP", "relay", c.cfg.Relay.GetName(), "err", err)
		} else {
			c.udp.Store(l)
			group.Go(func() error {
				l.run(ctx)
				return nil
			})
		}
	}
	group.Go(func() error { return q.write(ctx, func(b []byte) error { return w.send(ctx, b) }) })
	group.Go(func() error { return c.read(ctx, w.ws, &heard, pings) })
	group.Go(func() error { return c.ping(ctx, q, &heard, pings) })
	err := group.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, errReset) {
		return cause
	}
	return err
}

// ping notices a relay that has vanished: when nothing was heard for a while a ping is sent, and its answer must come in time.
func (c *Client) ping(ctx context.Context, q *queue, heard *atomic.Bool, pings *pinger) error {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	silent := time.Duration(0)
	q.push(pings.next())
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if heard.Swap(false) {
			silent = 0
		} else if silent += pingEvery; silent > pingEvery+pingDead {
			return fmt.Errorf("nothing heard for %s", silent)
		}
		pings.tune()
		q.push(pings.next())
	}
}

// pinger measures the round trip of the WebSocket connection.
type pinger struct {
	tune func() // called when there is a new measure

	mu sync.Mutex
	id [8]byte // of the last ping; zero once it was answered
	at time.Time
}

func (p *pinger) next() relayframe.Frame {
	p.mu.Lock()
	defer p.mu.Unlock()
	binary.BigEndian.PutUint64(p.id[:], rand.Uint64()|1)
	p.at = time.Now()
	id := p.id
	return relayframe.Frame{Type: relayframe.Ping, Payload: id[:]}
}

// answered gives the round trip if the answer is to the last ping.
func (p *pinger) answered(id []byte) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !bytes.Equal(id, p.id[:]) || p.id == [8]byte{} {
		return 0, false
	}
	p.id = [8]byte{}
	return time.Since(p.at), true
}

func (c *Client) read(ctx context.Context, ws *websocket.Conn, heard *atomic.Bool, pings *pinger) error {
	in, data := newReader(ws), &run{deliver: c.overWebSocket}
	for {
		b, err := in.next(ctx)
		if err != nil {
			return err
		}
		heard.Store(true)
		if err := c.message(b, data, pings); err != nil {
			return err
		}
		in.release()
	}
}

// message takes the frames of one message.
func (c *Client) message(b []byte, data *run, pings *pinger) error {
	defer data.end()
	for len(b) > 0 {
		f, rest, err := relayframe.Next(b)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		if b = rest; f.Type == relayframe.Data {
			data.add(f.Peer, f.Payload)
		} else {
			data.end()
			c.control(f, pings)
		}
	}
	return nil
}

// overWebSocket takes packets that came over the WebSocket connection.
func (c *Client) overWebSocket(from rawKey, packets [][]byte) {
	if l := c.udp.Load(); l != nil {
		l.noteTraffic()
		l.lane(from) // so that the next may come over UDP
	}
	c.cfg.OnData(from, packets)
}

// control takes a frame other than Data.
func (c *Client) control(f relayframe.Frame, pings *pinger) {
	switch f.Type {
	case relayframe.Pong:
		if rtt, ok := pings.answered(f.Payload); ok {
			pings.tune()
			if c.cfg.OnRTT != nil {
				c.cfg.OnRTT(rtt)
			}
		}
	case relayframe.Bound:
		if l := c.udp.Load(); l != nil {
			l.bound(f.Peer, f.Payload)
		}
	case relayframe.Signal:
		c.cfg.OnSignal(f.Peer, f.Payload)
	case relayframe.PeerGone:
		c.cfg.OnGone(f.Peer)
	}
}
