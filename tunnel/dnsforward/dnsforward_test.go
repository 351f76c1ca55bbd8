package dnsforward

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestForward(t *testing.T) {
	r := newResolver(t, resolves)
	f, at := start(t, nil, r.at)
	for i, network := range []string{"udp", "tcp", "udp", "tcp"} {
		h, a := read(t, exchange(t, network, at, ask(t, uint16(i), "www.example.com.", dnsmessage.TypeA, 0)))
		if a != "192.0.2.7" || h.ID != uint16(i) || h.RCode != dnsmessage.RCodeSuccess {
			t.Errorf("over %s: %+v, %q", network, h, a)
		}
	}
	if got := r.seen(); got != "udp tcp udp tcp" {
		t.Errorf("the resolver was asked over %s", got)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids[0] == 0 && r.ids[1] == 1 && r.ids[2] == 2 && r.ids[3] == 3 {
		t.Error("the resolver sees the clients' identifiers")
	}
	if got := f.Stats(); got != (Stats{Answered: 4}) {
		t.Errorf("counted %+v", got)
	}
}

// TestPipelined: a TCP connection carries many questions.
func TestPipelined(t *testing.T) {
	r := newResolver(t, resolves)
	_, at := start(t, nil, r.at)
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for id := range uint16(5) {
		if err := writeFramed(c, ask(t, id, "a.example.", dnsmessage.TypeA, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for id := range uint16(5) {
		b, err := readFramed(c, 65535)
		if err != nil {
			t.Fatal(err)
		}
		if h, a := read(t, b); h.ID != id || a == "" {
			t.Errorf("answer %d: %+v %q", id, h, a)
		}
	}
}

func TestRefused(t *testing.T) {
	r := newResolver(t, resolves)
	f, at := start(t, func(c *Config) { c.Allowed = func(netip.Addr) bool { return false } }, r.at)
	for _, network := range []string{"udp", "tcp"} {
		if h, a := read(t, exchange(t, network, at, ask(t, 5, "www.example.com.", dnsmessage.TypeA, 0))); h.RCode != dnsmessage.RCodeRefused || h.ID != 5 || a != "" {
			t.Errorf("over %s: %+v %q", network, h, a)
		}
	}
	if r.seen() != "" || f.Stats() != (Stats{Refused: 2}) {
		t.Errorf("the resolver was asked over %q, counted %+v", r.seen(), f.Stats())
	}
}

// TestResolverAway: who does not answer, or says that it failed, is followed by the next; with none left the client is told.
func TestResolverAway(t *testing.T) {
	silent := func(string, []byte) [][]byte { return nil }
	fails := func(_ string, b []byte) [][]byte {
		q, err := parse(b)
		if err != nil {
			return nil
		}
		return [][]byte{q.reply(dnsmessage.RCodeServerFailure, false)}
	}
	closed := netip.AddrPortFrom(loopback, freePort(t))
	for name, c := range map[string]struct {
		servers []netip.AddrPort
		code    dnsmessage.RCode
		asked   func() string
	}{
		"closed":          {[]netip.AddrPort{closed}, dnsmessage.RCodeServerFailure, nil},
		"none":            {nil, dnsmessage.RCodeServerFailure, nil},
		"silent":          {[]netip.AddrPort{newResolver(t, silent).at}, dnsmessage.RCodeServerFailure, nil},
		"fails":           {[]netip.AddrPort{newResolver(t, fails).at}, dnsmessage.RCodeServerFailure, nil},
		"closed, works":   {[]netip.AddrPort{closed, newResolver(t, resolves).at}, dnsmessage.RCodeSuccess, nil},
		"silent, works":   {[]netip.AddrPort{newResolver(t, silent).at, newResolver(t, resolves).at}, dnsmessage.RCodeSuccess, nil},
		"fails, works":    {[]netip.AddrPort{newResolver(t, fails).at, newResolver(t, resolves).at}, dnsmessage.RCodeSuccess, nil},
		"works, not more": {[]netip.AddrPort{newResolver(t, resolves).at, newResolver(t, fails).at}, dnsmessage.RCodeSuccess, nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, at := start(t, func(c *Config) { c.patience = 50 * time.Millisecond }, c.servers...)
			for _, network := range []string{"udp", "tcp"} {
				if h, _ := read(t, exchange(t, network, at, ask(t, 9, "www.example.com.", dnsmessage.TypeA, 0))); h.RCode != c.code || h.ID != 9 {
					t.Errorf("over %s: %+v, want %s", network, h, c.code)
				}
			}
		})
	}
}

// TestItself: a host whose resolver is the forwarder does not ask in a circle.
func TestItself(t *testing.T) {
	var servers []netip.AddrPort
	f, at := start(t, func(c *Config) {
		servers = []netip.AddrPort{netip.AddrPortFrom(loopback, c.port)}
		c.Resolvers = func() []netip.AddrPort { return servers }
	})
	if h, _ := read(t, exchange(t, "udp", at, ask(t, 1, "a.example.", dnsmessage.TypeA, 0))); h.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("answered %+v", h)
	}
	if got := f.Stats(); got != (Stats{Failed: 1}) {
		t.Errorf("counted %+v", got)
	}
}

// TestLongAnswer: what does not fit into the client's datagram is for TCP.
func TestLongAnswer(t *testing.T) {
	r := newResolver(t, func(_ string, q []byte) [][]byte { return [][]byte{address(q, [4]byte{192, 0, 2, 8}, 1000)} })
	_, at := start(t, nil, r.at)
	for _, c := range []struct {
		network   string
		size      int
		truncated bool
	}{{"udp", 0, true}, {"udp", 800, true}, {"udp", 1400, false}, {"tcp", 0, false}} {
		b := exchange(t, c.network, at, ask(t, 3, "long.example.", dnsmessage.TypeA, c.size))
		h, a := read(t, b)
		if h.Truncated != c.truncated || (a == "") != c.truncated || h.ID != 3 {
			t.Errorf("over %s with %d bytes: %+v %q", c.network, c.size, h, a)
		}
	}
}

// TestForged: answers to other questions, or under other identifiers, are not taken.
func TestForged(t *testing.T) {
	r := newResolver(t, func(_ string, q []byte) [][]byte {
		wrongID := address(q, [4]byte{6, 6, 6, 1}, 0)
		wrongID[0] ^= 0x80
		other := ask(t, binary.BigEndian.Uint16(q), "evil.example.", dnsmessage.TypeA, 0)
		return [][]byte{{}, {1, 2, 3}, q, wrongID, address(other, [4]byte{6, 6, 6, 2}, 0), address(q, [4]byte{192, 0, 2, 9}, 0)}
	})
	_, at := start(t, nil, r.at)
	if h, a := read(t, exchange(t, "udp", at, ask(t, 3, "www.example.", dnsmessage.TypeA, 0))); a != "192.0.2.9" {
		t.Errorf("answered %+v %q", h, a)
	}
}

// TestNotForwarded: zone transfers, updates and what makes no sense do not reach a resolver.
func TestNotForwarded(t *testing.T) {
	r := newResolver(t, resolves)
	_, at := start(t, nil, r.at)
	update := ask(t, 4, "a.example.", dnsmessage.TypeA, 0)
	update[2] |= 5 << 3
	two := ask(t, 4, "a.example.", dnsmessage.TypeA, 0)
	two[5] = 2
	cut := ask(t, 4, "a.example.", dnsmessage.TypeA, 1232)
	for name, c := range map[string]struct {
		q    []byte
		code dnsmessage.RCode
	}{
		"AXFR":          {ask(t, 4, "a.example.", typeAXFR, 0), dnsmessage.RCodeRefused},
		"IXFR":          {ask(t, 4, "a.example.", typeIXFR, 0), dnsmessage.RCodeRefused},
		"update":        {update, dnsmessage.RCodeNotImplemented},
		"two questions": {two, dnsmessage.RCodeFormatError},
		"cut":           {cut[:len(cut)-3], dnsmessage.RCodeFormatError},
		"header only":   {cut[:headerLength], dnsmessage.RCodeFormatError},
	} {
		for _, network := range []string{"udp", "tcp"} {
			b := exchange(t, network, at, c.q)
			if got := code(b); got != c.code || binary.BigEndian.Uint16(b) != 4 {
				t.Errorf("%s over %s: %s, want %s", name, network, got, c.code)
			}
		}
	}
	// An answer is answered by nobody: the next question is.
	u, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for _, b := range [][]byte{address(ask(t, 8, "a.example.", dnsmessage.TypeA, 0), [4]byte{1, 2, 3, 4}, 0), {1}, ask(t, 11, "a.example.", dnsmessage.TypeA, 0)} {
		if _, err := u.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, 2000)
	if err := u.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := u.Read(b); err != nil || binary.BigEndian.Uint16(b) != 11 {
		t.Errorf("answered % x, %v", b[:n], err)
	}
}

// TestLimits: one client's questions that wait are bounded and do not keep others from being answered.
func TestLimits(t *testing.T) {
	hold := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Add(2)
	r := newResolver(t, func(string, []byte) [][]byte { return nil })
	f, at := start(t, func(c *Config) {
		c.limits = limits{all: 3, each: 2}
		c.patience = patience
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			waiting.Done()
			select {
			case <-hold:
			case <-ctx.Done():
			}
			return nil, errors.New("no more")
		}
	}, r.at)
	u, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for id := range uint16(5) {
		if _, err := u.Write(ask(t, id, fmt.Sprintf("a%d.example.", id), dnsmessage.TypeA, 0)); err != nil {
			t.Fatal(err)
		}
	}
	waiting.Wait()
	eventually(t, "dropping", func() bool { return f.Stats().Dropped == 3 })
	waiting.Add(1)
	other, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Write(ask(t, 1, "b.example.", dnsmessage.TypeA, 0)); err != nil {
		t.Fatal(err)
	}
	waiting.Wait() // the other client's question is asked
	waiting.Add(100)
	close(hold)
	eventually(t, "done", func() bool { return f.Stats().Failed == 3 })
	eventually(t, "forgetting clients", func() bool {
		f.limiter.mu.Lock()
		defer f.limiter.mu.Unlock()
		return len(f.limiter.clients) == 0 && f.limiter.total == 0
	})
}

// TestPortTaken: while another program has the port, that is told, and taken when it lets go; and what is not wanted is let go.
func TestPortTaken(t *testing.T) {
	port := freePort(t)
	at := netip.AddrPortFrom(loopback, port)
	taken, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
	if err != nil {
		t.Fatal(err)
	}
	f := New(Config{
		Dial: new(net.Dialer).DialContext, Resolvers: func() []netip.AddrPort { return nil }, Allowed: func(netip.Addr) bool { return true },
		port: port, retry: time.Millisecond,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	f.Set([]netip.Addr{loopback})
	eventually(t, "a problem", func() bool { return f.Problem() != nil })
	if got := f.Problem().Error(); !strings.Contains(got, at.String()) || !strings.Contains(got, "another program") {
		t.Errorf("problem %q", got)
	}
	taken.Close()
	eventually(t, "no problem", func() bool { return f.Problem() == nil })
	if h, _ := read(t, exchange(t, "udp", at, ask(t, 1, "a.example.", dnsmessage.TypeA, 0))); h.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("answered %+v", h)
	}
	f.Set(nil)
	eventually(t, "free", func() bool {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(ask(f, 1, "www.example.com.", dnsmessage.TypeA, 1232))
	f.Add(ask(f, 1, ".", dnsmessage.TypeNS, 0))
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parse(b)
		if errors.Is(err, errNoQuestion) {
			return
		}
		for _, reply := range [][]byte{q.reply(dnsmessage.RCodeServerFailure, false), q.reply(dnsmessage.RCodeSuccess, true)} {
			var p dnsmessage.Parser
			h, startErr := p.Start(reply)
			if startErr != nil || !h.Response || h.ID != q.id() {
				t.Fatalf("reply % x to % x: %+v, %v", reply, b, h, startErr)
			}
			if _, allErr := p.AllQuestions(); err == nil && allErr != nil {
				t.Fatalf("reply % x to % x: %v", reply, b, allErr)
			}
		}
		if err == nil && (q.longest < plainDatagram || q.longest > longestDatagram || !q.answeredBy(q.reply(dnsmessage.RCodeSuccess, false), q.id())) {
			t.Fatalf("%+v", q)
		}
	})
}
