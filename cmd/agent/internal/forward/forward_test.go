package forward

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"warren/cmd/agent/internal/clients/clientstest"
)

var quiet = slog.New(slog.DiscardHandler)

func TestParseRule(t *testing.T) {
	at := netip.MustParseAddrPort
	for text, want := range map[string]Rule{
		"tcp/127.0.0.1:5432=db:5432":     {TCP, at("127.0.0.1:5432"), "db", 5432},
		"TCP/8080=100.64.0.2:80":         {TCP, at("127.0.0.1:8080"), "100.64.0.2", 80},
		"udp/[::1]:53=[fd00::2]:5353":    {UDP, at("[::1]:53"), "fd00::2", 5353},
		"udp/[::ffff:10.0.0.1]:53=ns:53": {UDP, at("10.0.0.1:53"), "ns", 53},
		"tcp/0.0.0.0:1=a.b.c:65535":      {TCP, at("0.0.0.0:1"), "a.b.c", 65535},
	} {
		got, err := ParseRule(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if again, err := ParseRule(got.String()); err != nil || again != got {
			t.Errorf("%s is read as %+v, %v", got, again, err)
		}
	}
	for _, text := range []string{
		"", "tcp", "tcp/", "5432=db:5432", "icmp/1=db:1", "tcp/5432", "tcp/5432=", "tcp/5432=db", "tcp/5432=:80", "tcp/5432=db:0", "tcp/0=db:1", "tcp/65536=db:1",
		"tcp/x:1=db:1", "tcp/+1=db:1", "tcp/[fe80::1%eth0]:1=db:1", "tcp/127.0.0.1=db:1", "tcp/1=" + strings.Repeat("x", 300) + ":1", "tcp/1=db:ssh",
	} {
		if got, err := ParseRule(text); err == nil || !strings.Contains(err.Error(), ruleForm) || len(err.Error()) > 400 {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestParseExposed(t *testing.T) {
	at := netip.MustParseAddrPort
	for text, want := range map[string]Exposed{
		"tcp/80": {TCP, 80, at("127.0.0.1:80")}, "udp/53=[::1]:5353": {UDP, 53, at("[::1]:5353")}, "tcp/80=8080": {TCP, 80, at("127.0.0.1:8080")},
		"tcp/22=192.168.1.5:22": {TCP, 22, at("192.168.1.5:22")},
	} {
		got, err := ParseExposed(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if again, err := ParseExposed(got.String()); err != nil || again != got {
			t.Errorf("%s is read as %+v, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "80", "tcp/0", "tcp/80=", "tcp/80=0.0.0.0:80", "tcp/80=host:80", "tcp/127.0.0.1:80", "tcp/-1", "sctp/1"} {
		if got, err := ParseExposed(text); err == nil || !strings.Contains(err.Error(), exposedForm) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestCheck(t *testing.T) {
	rule, exposed := func(text string) Rule { r, _ := ParseRule(text); return r }, func(text string) Exposed { e, _ := ParseExposed(text); return e }
	if err := CheckRules([]Rule{rule("tcp/1=a:1"), rule("udp/1=a:1"), rule("tcp/[::1]:1=a:1")}); err != nil {
		t.Error(err)
	}
	if err := CheckRules([]Rule{rule("tcp/1=a:1"), rule("tcp/127.0.0.1:1=b:1")}); err == nil {
		t.Error("two rules for a port were taken")
	}
	if err := CheckRules(make([]Rule, MaxRules+1)); err == nil {
		t.Error("too many rules were taken")
	}
	if err := CheckExposed([]Exposed{exposed("tcp/1"), exposed("udp/1"), exposed("tcp/2=1")}); err != nil {
		t.Error(err)
	}
	if err := CheckExposed([]Exposed{exposed("tcp/1"), exposed("tcp/1=2")}); err == nil {
		t.Error("a port was exposed twice")
	}
	if err := CheckExposed(make([]Exposed, MaxRules+1)); err == nil {
		t.Error("too many were exposed")
	}
}

// fakeNetwork has every host at one of two places on this host.
type fakeNetwork struct {
	tcp, udp string
	err      error
	asked    sync.Map
}

func (n *fakeNetwork) Dial(ctx context.Context, p Protocol, host string, port uint16) (net.Conn, error) {
	n.asked.Store(fmt.Sprintf("%s %s:%d", p, host, port), true)
	if n.err != nil {
		return nil, n.err
	}
	at := n.tcp
	if p == UDP {
		at = n.udp
	}
	return new(net.Dialer).DialContext(ctx, string(p), at)
}

// service answers each line, and each datagram, with itself behind a mark.
func service(t *testing.T) (tcp, udp string) {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			p.WriteTo(append([]byte("re: "), b[:n]...), from)
		}
	}()
	return clientstest.Lines(t).String(), p.LocalAddr().String()
}

func free(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func start(t *testing.T, n Network, rules ...Rule) *Forwarder {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f, err := Listen(ctx, rules, n, quiet)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if s := f.Stats(); s.Open != 0 {
			t.Errorf("left open: %+v", s)
		}
	})
	return f
}

func dial(t *testing.T, network string, to netip.AddrPort) net.Conn {
	t.Helper()
	c, err := net.Dial(network, to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// TestForward: both protocols reach the peer that the rule names, halves close one by one, and ending closes all that is open.
func TestForward(t *testing.T) {
	n := new(fakeNetwork)
	n.tcp, n.udp = service(t)
	at := free(t)
	f := start(t, n, Rule{TCP, at, "db", 5432}, Rule{UDP, at, "ns", 53})
	c := dial(t, "tcp", at)
	fmt.Fprintln(c, "hello")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "re: hello\nbye\n" {
		t.Errorf("%q, %v", b, err)
	}
	for range 2 {
		u := dial(t, "udp", at)
		for _, word := range []string{"one", "two"} {
			fmt.Fprint(u, word)
			b := make([]byte, 100)
			if n, err := u.Read(b); err != nil || string(b[:n]) != "re: "+word {
				t.Errorf("%q, %v", b[:n], err)
			}
		}
	}
	for _, want := range []string{"tcp db:5432", "udp ns:53"} {
		if _, ok := n.asked.Load(want); !ok {
			t.Errorf("%s was not asked for", want)
		}
	}
	open := dial(t, "tcp", at)
	fmt.Fprintln(open, "hello")
	if line, err := bufio.NewReader(open).ReadString('\n'); err != nil || line != "re: hello\n" {
		t.Errorf("%q, %v", line, err)
	}
	if diff := cmp.Diff(Stats{Opened: 4}, f.Stats(), cmpopts.IgnoreFields(Stats{}, "Open")); diff != "" {
		t.Error(diff)
	}
}

// TestForwardFails: who connects to a port whose peer is not reached sees a reset and no empty answer.
func TestForwardFails(t *testing.T) {
	at := free(t)
	f := start(t, &fakeNetwork{err: errors.New("no such peer")}, Rule{TCP, at, "db", 5432})
	c, err := net.Dial("tcp", at.String())
	if err == nil { // else the reset was quicker
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	if s := f.Stats(); s.Failed != 1 || s.Opened != 0 {
		t.Errorf("%+v", s)
	}
}

// TestListen: one port that cannot be had, and none is.
func TestListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	at := free(t)
	busy := taken.Addr().(*net.TCPAddr).AddrPort()
	if _, err := Listen(t.Context(), []Rule{{TCP, at, "a", 1}, {TCP, busy, "b", 2}}, nil, quiet); err == nil || !strings.Contains(err.Error(), busy.String()) {
		t.Errorf("a port in use: %v", err)
	}
	again, err := net.Listen("tcp", at.String())
	if err != nil {
		t.Fatalf("the other rule's port was left open: %v", err)
	}
	again.Close()
}

// TestExpose: a peer reaches what is exposed; everything else, and a service that does not listen, is refused, before the peer's connection stands.
func TestExpose(t *testing.T) {
	tcp, udp := service(t)
	ctx, cancel := context.WithCancel(t.Context())
	x := NewExposer(ctx, []Exposed{{TCP, 80, netip.MustParseAddrPort(tcp)}, {UDP, 53, netip.MustParseAddrPort(udp)}, {TCP, 81, free(t)}}, quiet)
	peer := netip.MustParseAddrPort("100.64.0.9:4000")
	ask := func(port uint16) (near net.Conn, refused bool) {
		near, far := net.Pipe()
		decided := make(chan bool, 1)
		go x.Stream(Incoming{
			From: peer, Port: port, Refuse: func() { decided <- true },
			Accept: func() (net.Conn, error) {
				decided <- false
				return far, nil
			},
		})
		return near, <-decided
	}
	c, refused := ask(80)
	if refused {
		t.Fatal("refused")
	}
	fmt.Fprintln(c, "hello")
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "re: hello\n" {
		t.Errorf("%q, %v", line, err)
	}
	for _, port := range []uint16{81, 53, 443} {
		if _, refused := ask(port); !refused {
			t.Errorf("port %d was accepted", port)
		}
	}
	if x.Datagrams(peer, 80) != nil {
		t.Error("a port of TCP takes datagrams")
	}
	serve := x.Datagrams(peer, 53)
	if serve == nil {
		t.Fatal("datagrams are refused")
	}
	near, far := net.Pipe()
	go serve(far)
	fmt.Fprint(near, "hello")
	b := make([]byte, 100)
	if n, err := near.Read(b); err != nil || string(b[:n]) != "re: hello" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if s := x.Stats(); s.Open != 2 || s.Opened != 2 || s.Failed != 1 {
		t.Errorf("%+v", s)
	}
	cancel()
	x.Wait()
	if _, err := near.Read(b); err == nil {
		t.Error("a flow is open after the end")
	}
	if _, refused := ask(80); !refused {
		t.Error("accepted after the end")
	}
}

// TestExposeBound: one peer cannot have more than its share, and does not take that of others.
func TestExposeBound(t *testing.T) {
	x := NewExposer(t.Context(), []Exposed{{UDP, 53, netip.MustParseAddrPort("127.0.0.1:9")}}, quiet)
	greedy, other := netip.MustParseAddr("100.64.0.9"), netip.MustParseAddr("100.64.0.8")
	var kept []func(net.Conn)
	for port := range uint16(maxSessions) {
		kept = append(kept, x.Datagrams(netip.AddrPortFrom(greedy, port+1), 53))
	}
	if x.Datagrams(netip.AddrPortFrom(greedy, 9999), 53) != nil || kept[maxSessions-1] == nil {
		t.Error("the bound does not hold")
	}
	if x.Datagrams(netip.AddrPortFrom(other, 1), 53) == nil {
		t.Error("another peer is kept out")
	}
	if s := x.Stats(); s.Dropped != 1 {
		t.Errorf("%+v", s)
	}
	x.dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("none") }
	_, far := net.Pipe()
	kept[0](far)
	if x.Datagrams(netip.AddrPortFrom(greedy, 9999), 53) == nil {
		t.Error("no room after one has ended")
	}
}

// TestStreamBound: as many as there is room for, and the next waits for one to end.
func TestStreamBound(t *testing.T) {
	var dialled atomic.Int64
	hold := make(chan struct{})
	at := free(t)
	start(t, networkFunc(func(ctx context.Context) (net.Conn, error) {
		dialled.Add(1)
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil, errors.New("held")
	}), Rule{TCP, at, "db", 1})
	var conns []net.Conn
	for range maxStreams + 1 {
		conns = append(conns, dial(t, "tcp", at))
	}
	deadline := time.After(20 * time.Second)
	for tick := time.Tick(time.Millisecond); dialled.Load() < maxStreams; {
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("%d of %d were served", dialled.Load(), maxStreams)
		}
	}
	if dialled.Load() > maxStreams {
		t.Errorf("%d at once", dialled.Load())
	}
	close(hold)
	if _, err := conns[maxStreams].Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the last: %v", err)
	}
	if dialled.Load() != maxStreams+1 {
		t.Errorf("%d were served in all", dialled.Load())
	}
}

type networkFunc func(context.Context) (net.Conn, error)

func (f networkFunc) Dial(ctx context.Context, _ Protocol, _ string, _ uint16) (net.Conn, error) {
	return f(ctx)
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"tcp/127.0.0.1:5432=db:5432", "udp/[::1]:53=[fd00::2]:53", "tcp/80", "udp/53=[::1]:5353"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseRule(s); err == nil {
			if again, err := ParseRule(r.String()); err != nil || again != r {
				t.Errorf("%q: %+v, again %+v, %v", s, r, again, err)
			}
		}
		if e, err := ParseExposed(s); err == nil {
			if again, err := ParseExposed(e.String()); err != nil || again != e {
				t.Errorf("%q: %+v, again %+v, %v", s, e, again, err)
			}
		}
	})
}
