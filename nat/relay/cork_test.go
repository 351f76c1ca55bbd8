package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/relayframe"
	pb "warren/proto/warrenv1"
)

// pieces is a connection that notes the sizes of what is written to it.
type pieces struct {
	net.Conn
	mu    sync.Mutex
	sizes []int
	b     bytes.Buffer
	err   error
}

func (p *pieces) Write(b []byte) (int, error) {
	p.mu.Lock()
	p.sizes = append(p.sizes, len(b))
	p.b.Write(b)
	err := p.err
	p.mu.Unlock()
	if p.Conn == nil || err != nil {
		return len(b), err
	}
	return p.Conn.Write(b)
}

func (p *pieces) taken() []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sizes)
}

func TestCork(t *testing.T) {
	under := new(pieces)
	c := &cork{Conn: under}
	write := func(s string) {
		t.Helper()
		if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	write("through")
	for range 2 { // nothing of the first is left in the second
		err := c.together(func() error {
			write("one ")
			write("two ")
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := c.together(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got := under.taken(); !slices.Equal(got, []int{7, 8, 8}) || under.b.String() != "throughone two one two " {
		t.Errorf("pieces of %d bytes, %q", got, under.b.String())
	}
	// What was written before a failure leaves all the same, and the first error counts.
	mine := errors.New("mine")
	if err := c.together(func() error { write("rest"); return mine }); !errors.Is(err, mine) || !bytes.HasSuffix(under.b.Bytes(), []byte("rest")) {
		t.Errorf("%v, %q", err, under.b.String())
	}
	under.err = io.ErrClosedPipe
	if err := c.together(func() error { write("lost"); return nil }); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v, want that of the connection below", err)
	}
	var none *cork
	if err := none.together(func() error { return mine }); !errors.Is(err, mine) {
		t.Error(err)
	}
}

// TestMessagesLeaveWhole: a message of 64 KiB is one write to the TCP connection, from the device and from the relay, and two at most if
// something comes between.
func TestMessagesLeaveWhole(t *testing.T) {
	w := newWorld(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counted := &countingListener{Listener: l}
	h := &http.Server{Handler: w.server, TLSConfig: w.certificate(pb.TLSRole_TLS_ROLE_RELAY)}
	go h.ServeTLS(Listener(counted), "", "")
	defer h.Close()
	w.desc.Urls, w.addr = []string{"https://" + l.Addr().String()}, l.Addr().String()

	up, ready := new(pieces), make(chan struct{})
	a := w.connect(func(c *ClientConfig) {
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			up.Conn = conn
			return up, err
		}
		c.OnState = func(up bool, _ netip.AddrPort, _ error) {
			if up {
				close(ready)
			}
		}
	})
	<-ready
	b := w.connect(nil)
	b.awaitUp()
	const packets = 40
	var train [][]byte
	for i := range packets {
		train = append(train, bytes.Repeat([]byte{byte('a' + i%26)}, 1452))
	}
	const size = packets * (1452 + relayframe.Overhead)
	if err := a.client.SendDataBatch(b.raw(), train); err != nil {
		t.Fatal(err)
	}
	b.await("the train", func() bool { return len(b.got) == packets })
	for i, got := range b.got {
		if got != "data "+string(train[i]) {
			t.Fatalf("packet %d is another", i)
		}
	}
	down := counted.last()
	for name, p := range map[string]*pieces{"device": up, "relay": down} {
		large := 0
		for _, n := range p.taken() {
			if n > 4<<10 {
				large += n
			}
		}
		if got := slices.Max(p.taken()); got < size || large > size+1024 {
			t.Errorf("%s: the largest piece has %d bytes, all large ones %d, want one of %d and a little", name, got, large, size)
		}
	}
}

// countingListener gives connections that note what is written to them.
type countingListener struct {
	net.Listener
	mu    sync.Mutex
	conns []*pieces
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	p := &pieces{Conn: c}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, p)
	return p, nil
}

func (l *countingListener) last() *pieces {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns[len(l.conns)-1]
}

// stuck is a connection that says when a write of many bytes begins.
type stuck struct {
	net.Conn
	begins chan struct{}
}

func (s *stuck) Write(b []byte) (int, error) {
	if len(b) > 4<<10 {
		close(s.begins)
	}
	return s.Conn.Write(b)
}

// TestCloseWhileStuck: whoever closes a connection whose other side does not read waits for nothing.
func TestCloseWhileStuck(t *testing.T) {
	w := &world{t: t, network: record.NetworkID{7}, authority: key.NewAuthority()}
	client, server := net.Pipe()
	defer client.Close()
	shaken := make(chan error, 1)
	go func() { shaken <- tls.Client(client, &tls.Config{InsecureSkipVerify: true}).Handshake() }()
	raw := &stuck{server, make(chan struct{})}
	lower := &cork{Conn: raw}
	config := w.certificate(pb.TLSRole_TLS_ROLE_RELAY)
	config.SessionTicketsDisabled = true // which nobody would read
	over := tls.Server(lower, config)
	if err := errors.Join(over.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	wrote, closed := make(chan error, 1), make(chan struct{})
	go func() {
		wrote <- lower.together(func() error {
			_, err := over.Write(make([]byte, 64<<10))
			return err
		})
	}()
	<-raw.begins
	go func() {
		(&cork{Conn: over, below: lower}).Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(4 * time.Second): // TLS gives its goodbye 5 s
		t.Fatal("closing waits for what is not written")
	}
	if err := <-wrote; err == nil {
		t.Error("the write succeeded though nobody read")
	}
}
