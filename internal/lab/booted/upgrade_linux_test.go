//go:build booted

package booted

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"warren/internal/lab/warrennet"
)

// transfer is one TCP connection from a peer to a program on a machine, by which the peer sends all the time.
type transfer struct {
	sent, got atomic.Int64
	stop      chan struct{}
	failed    chan error // two of them

	mu    sync.Mutex
	last  time.Time
	still time.Duration // the longest time in which nothing came
	at    time.Time     // when that began
}

// block and blockEvery make 16 MB/s, so that the machine that tests has something left for the rest.
const (
	block      = 32 << 10
	blockEvery = 2 * time.Millisecond
)

// transfer connects to the machine.
func (w *world) transfer(p *peer, m *machine) *transfer {
	w.t.Helper()
	var l net.Listener
	must(w.t, m.Do(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(p.addr, "0"))
		return err
	}))
	defer l.Close()
	out, err := p.Dial(w.ctx, "tcp", l.Addr().String())
	must(w.t, err)
	in, err := l.Accept()
	must(w.t, err)
	f := &transfer{stop: make(chan struct{}), failed: make(chan error, 2)}
	go func() {
		defer in.Close()
		n, err := io.Copy(f, in)
		if n != f.sent.Load() && err == nil {
			err = errors.New("it ended early")
		}
		f.failed <- err
	}()
	go func() {
		defer out.Close()
		f.failed <- f.send(out)
	}()
	w.t.Cleanup(func() { in.Close(); out.Close() })
	return f
}

func (f *transfer) send(c net.Conn) error {
	b := make([]byte, block)
	tick := time.NewTicker(blockEvery)
	defer tick.Stop()
	for {
		select {
		case <-f.stop:
			return nil
		case <-tick.C:
		}
		n, err := c.Write(b)
		f.sent.Add(int64(n))
		if err != nil {
			return err
		}
	}
}

// Write counts what has come.
func (f *transfer) Write(b []byte) (int, error) {
	f.got.Add(int64(len(b)))
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if long := now.Sub(f.last); !f.last.IsZero() && long > f.still {
		f.still, f.at = long, f.last
	}
	f.last = now
	return len(b), nil
}

// standstill is the longest time in which nothing came, and when it began.
func (f *transfer) standstill() (time.Duration, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.still, f.at
}

// end stops sending and has it that everything arrived by the one connection.
func (w *world) end(f *transfer) {
	w.t.Helper()
	close(f.stop)
	for range 2 {
		select {
		case err := <-f.failed:
			if err != nil {
				w.t.Errorf("the transfer broke after %d bytes: %v", f.got.Load(), err)
			}
		case <-w.ctx.Done():
			w.t.Fatalf("of %d bytes %d have arrived", f.sent.Load(), f.got.Load())
		}
	}
	if f.sent.Load() != f.got.Load() {
		w.t.Errorf("%d bytes were sent, %d have arrived", f.sent.Load(), f.got.Load())
	}
	w.t.Logf("%d MiB by one TCP connection", f.got.Load()>>20)
}

// flows waits until the transfer has gone on for so many bytes.
func (w *world) flows(f *transfer, bytes int64) {
	w.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for from := f.got.Load(); f.got.Load() < from+bytes; {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("the transfer stands at %d bytes", f.got.Load())
		}
	}
}

// outage is the longest time without traffic that an upgrade of the agent may cause.
const outage = time.Second

// TestUpgrade: apt upgrades the agent while it carries a TCP transfer and a ping every millisecond, which hardly notice.
func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	m, p := w.joined("laptop")
	before, err := m.status()
	must(t, err)
	old := m.must("warren", "version")
	for _, change := range []struct {
		what string
		do   func()
	}{
		{"apt install of a higher version", func() { m.install(*next, "warren") }},
		{"systemctl restart", func() { m.must("systemctl", "restart", "warren.service") }},
	} {
		f := w.transfer(p, m)
		w.flows(f, 8<<20)
		meter, err := warrennet.NewMeter(w.ctx, p.Host, p.addr)
		must(t, err)
		w.flows(f, 8<<20)
		began, pid := time.Now(), m.unit("warren.service", "MainPID")
		change.do()
		took := time.Since(began)
		m.awaitRestart(pid)
		m.await("up again", func(s *warrennet.Status) bool { return s.State == "up" && s.Coordinator.Connected })
		w.flows(f, 16<<20)
		long := meter.Longest(began)
		meter.Close()
		still, at := f.standstill()
		t.Logf("%s: it took %s; for %s no ping of 1000 a second was answered, and for %s, from %s on, nothing came by TCP", change.what,
			took.Round(time.Millisecond), long.Round(time.Millisecond), still.Round(time.Millisecond), at.Sub(began).Round(time.Millisecond))
		if long > outage {
			t.Errorf("%s: for %s no ping was answered; at most %s is allowed", change.what, long, outage)
		}
		w.end(f)
	}
	after, err := m.status()
	must(t, err)
	if after.Self.NodeKey != before.Self.NodeKey || after.Self.Addresses[0] != before.Self.Addresses[0] {
		t.Errorf("before %+v, after %+v", before.Self, after.Self)
	}
	if said := m.must("warren", "version"); said == old || !strings.Contains(said, "900.0.0") {
		t.Errorf("the new version says %q", said)
	}
	if n := m.unit("warren.service", "NRestarts"); n != "0" {
		t.Errorf("systemd had to start the agent again %s times", n)
	}
}
