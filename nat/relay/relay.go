// Package relay forwards encrypted packets and sealed signals between devices that cannot reach each other otherwise. It sees who
// talks to whom and how much, never what.
//
// NewServer makes the relay, an http.Handler for relayframe.Path; NewClient makes a device's connection to one. Both sides have a
// bounded queue in front of their connection that drops the oldest packets, as a router would: nobody waits for a slow reader.
//
// A connection begins with three messages, see proto/warren/v1/relay.proto:
//
//	relay                                device
//	RelayChallenge  ------------------>           who I am, and a nonce
//	                <------------------  RelayHello    signed proof of the device key, ticket, certificate
//	RelayWelcome    ------------------>           or why not
//	frames          <----------------->  frames        package relayframe
package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"

	"warren/proto/key"
	"warren/proto/relayframe"
)

// rawKey is a device's public key.
type rawKey = [key.Size]byte

const (
	// exporterLabel and exporterSize are those of RFC 9266.
	exporterLabel = "EXPORTER-Channel-Binding"
	exporterSize  = 32
	// maxHandshake bounds each message of the handshake in bytes.
	maxHandshake = 16 << 10
	// batchSize is how much goes into one message at most; larger ones gain nothing and delay signals.
	batchSize = 64 << 10
)

// ErrProtocol says that the other side does not speak as agreed.
var ErrProtocol = errors.New("relay protocol error")

// exporter gives the value that ties a handshake to its TLS connection; nil without TLS.
func exporter(s *tls.ConnectionState) ([]byte, error) {
	if s == nil {
		return nil, nil
	}
	return s.ExportKeyingMaterial(exporterLabel, nil, exporterSize)
}

func writeMessage(ctx context.Context, c *websocket.Conn, m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return c.Write(ctx, websocket.MessageBinary, b)
}

func readMessage(ctx context.Context, c *websocket.Conn, m proto.Message) error {
	kind, b, err := c.Read(ctx)
	if err != nil {
		return err
	}
	if kind != websocket.MessageBinary {
		return fmt.Errorf("%w: a text message", ErrProtocol)
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

// buffers holds room for a message, of *[]byte: a connection has some only while it needs it, and most are idle.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, batchSize+relayframe.Overhead+relayframe.MaxPayload)
	return &b
}}

// reader reads whole messages.
type reader struct {
	conn *websocket.Conn
	buf  *[]byte // nil between messages
}

func newReader(c *websocket.Conn) *reader {
	c.SetReadLimit(relayframe.MaxMessage)
	return &reader{conn: c}
}

// release ends the use of the last message.
func (r *reader) release() {
	if r.buf != nil {
		buffers.Put(r.buf)
		r.buf = nil
	}
}

// next gives the next message, which stays good until release.
func (r *reader) next(ctx context.Context) ([]byte, error) {
	kind, in, err := r.conn.Reader(ctx)
	if err != nil {
		return nil, err
	}
	if kind != websocket.MessageBinary {
		return nil, fmt.Errorf("%w: a text message", ErrProtocol)
	}
	r.buf = buffers.Get().(*[]byte)
	n := 0
	for {
		if n == len(*r.buf) {
			*r.buf = append(*r.buf, make([]byte, len(*r.buf))...)
		}
		m, err := in.Read((*r.buf)[n:])
		n += m
		if errors.Is(err, io.EOF) {
			return (*r.buf)[:n], nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// queue holds encoded frames for one connection. Frames are pushed from anywhere, one writer takes them.
type queue struct {
	limit int // of each lane, in bytes
	ready chan struct{}
	// begin, unless nil, is called instead of filling ready; it must not block.
	begin func()
	// onDrop, unless nil, is called for each frame that goes because others came; it must not block.
	onDrop func()

	mu     sync.Mutex
	urgent lane // signals, pings: ahead of data
	data   lane
}

// lane is a run of whole frames; those before head are gone.
type lane struct {
	b    []byte
	head int
}

func newQueue(limit int) *queue { return &queue{limit: limit, ready: make(chan struct{}, 1)} }

// push appends a frame and drops the oldest of its lane beyond the limit.
func (q *queue) push(f relayframe.Frame) {
	q.put(f)
	q.wake()
}

// put is push for a caller that calls wake after the last of several.
func (q *queue) put(f relayframe.Frame) {
	q.mu.Lock()
	q.add(f)
	q.mu.Unlock()
}

// pushAll is push for many payloads to one peer.
func (q *queue) pushAll(kind relayframe.Type, peer rawKey, payloads [][]byte) {
	q.mu.Lock()
	for _, p := range payloads {
		q.add(relayframe.Frame{Type: kind, Peer: peer, Payload: p})
	}
	q.mu.Unlock()
	q.wake()
}

func (q *queue) wake() {
	if q.begin != nil {
		q.begin()
		return
	}
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// add does the work of push. The caller holds mu.
func (q *queue) add(f relayframe.Frame) {
	l := &q.data
	if f.Type != relayframe.Data {
		l = &q.urgent
	}
	if l.head > 0 && len(l.b)+relayframe.Overhead+len(f.Payload) > cap(l.b) {
		l.b = append(l.b[:0], l.b[l.head:]...)
		l.head = 0
	}
	l.b = relayframe.Append(l.b, f)
	for len(l.b)-l.head > q.limit {
		_, rest, err := relayframe.Next(l.b[l.head:])
		if err != nil || len(rest) == 0 {
			l.b, l.head = l.b[:0], 0
			break
		}
		l.head = len(l.b) - len(rest)
		if q.onDrop != nil {
			q.onDrop()
		}
	}
}

// take moves whole frames into buf, urgent ones first, up to batchSize. It gives nothing when the queue is empty.
func (q *queue) take(buf []byte) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	buf = q.urgent.moveTo(buf[:0])
	buf = q.data.moveTo(buf)
	if q.begin == nil && q.urgent.size()+q.data.size() > 0 {
		q.wake()
	}
	return buf
}

func (l *lane) size() int { return len(l.b) - l.head }

func (l *lane) moveTo(buf []byte) []byte {
	pending := l.b[l.head:]
	n := len(pending)
	if len(buf)+n > batchSize {
		n = wholeFrames(pending, max(batchSize-len(buf), 0), len(buf) == 0)
	}
	buf = append(buf, pending[:n]...)
	if l.head += n; l.head == len(l.b) {
		l.b, l.head = l.b[:0], 0
	}
	return buf
}

// wholeFrames tells how many bytes of b are whole frames within limit; with atLeastOne the first counts whatever its size.
func wholeFrames(b []byte, limit int, atLeastOne bool) int {
	n := 0
	for rest := b; len(rest) > 0; {
		_, after, err := relayframe.Next(rest)
		if err != nil {
			return n
		}
		end := len(b) - len(after)
		if end > limit && !(atLeastOne && n == 0) {
			return n
		}
		n, rest = end, after
	}
	return n
}

// shrink gives the memory of a burst back, when nothing is left of it.
func (q *queue) shrink() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range []*lane{&q.urgent, &q.data} {
		if l.size() == 0 && cap(l.b) > keepLane {
			*l = lane{}
		}
	}
}

// keepLane is what an idle lane may keep, in bytes.
const keepLane = 4 << 10

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.urgent.size()+q.data.size() == 0
}

// write has what is queued sent until ctx ends or send fails.
func (q *queue) write(ctx context.Context, send func([]byte) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-q.ready:
		}
		if err := q.drain(send); err != nil {
			return err
		}
	}
}

func (q *queue) drain(send func([]byte) error) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		b := q.take(*buf)
		if len(b) == 0 {
			return nil
		}
		if err := send(b); err != nil {
			return err
		}
	}
}
