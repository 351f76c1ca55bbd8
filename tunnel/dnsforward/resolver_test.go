package dnsforward

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const patience = 10 * time.Second

var loopback = netip.MustParseAddr("127.0.0.1")

// freePort is one that neither UDP nor TCP uses, and below those that the kernel gives away by itself.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for range 100 {
		at := netip.AddrPortFrom(loopback, uint16(10000+rand.IntN(20000)))
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			continue
		}
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		l.Close()
		if err == nil {
			u.Close()
			return at.Port()
		}
	}
	t.Fatal("no port is free of both")
	return 0
}

// resolver is one of the host's: it hands each question to answer, and sends what that gives.
type resolver struct {
	at     netip.AddrPort
	answer func(network string, question []byte) [][]byte

	mu    sync.Mutex
	asked []string
	ids   []uint16
}

func newResolver(t *testing.T, answer func(network string, question []byte) [][]byte) *resolver {
	t.Helper()
	r := &resolver{at: netip.AddrPortFrom(loopback, freePort(t)), answer: answer}
	u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(r.at))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", r.at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close(); l.Close() })
	go func() {
		b := make([]byte, 65535)
		for {
			n, from, err := u.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			for _, a := range r.note("udp", b[:n]) {
				_, _ = u.WriteToUDPAddrPort(a, from)
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			q, err := readFramed(c, 65535)
			if err == nil {
				for _, a := range r.note("tcp", q) {
					_ = writeFramed(c, a)
				}
			}
			c.Close()
		}
	}()
	return r
}

func (r *resolver) note(network string, q []byte) [][]byte {
	r.mu.Lock()
	r.asked = append(r.asked, network)
	r.ids = append(r.ids, binary.BigEndian.Uint16(q))
	r.mu.Unlock()
	return r.answer(network, q)
}

func (r *resolver) seen() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.asked, " ")
}

// ask makes a question; size is what EDNS says, or 0 for none.
func ask(t testing.TB, id uint16, name string, kind dnsmessage.Type, size int) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	err := errors.Join(b.StartQuestions(), b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}))
	if size > 0 {
		var h dnsmessage.ResourceHeader
		err = errors.Join(err, h.SetEDNS0(size, dnsmessage.RCodeSuccess, false), b.StartAdditionals(), b.OPTResource(h, dnsmessage.OPTResource{}))
	}
	out, err2 := b.Finish()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return out
}

// address is an answer with one address, and padding of so many bytes.
func address(q []byte, a [4]byte, padding int) []byte {
	var p dnsmessage.Parser
	h, _ := p.Start(q)
	asked, err := p.Question()
	if err != nil {
		return nil
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: h.ID, Response: true, RecursionAvailable: true})
	rh := dnsmessage.ResourceHeader{Name: asked.Name, Class: dnsmessage.ClassINET, TTL: 60}
	_ = errors.Join(b.StartQuestions(), b.Question(asked), b.StartAnswers(), b.AResource(rh, dnsmessage.AResource{A: a}))
	for ; padding > 0; padding -= 200 {
		_ = b.TXTResource(rh, dnsmessage.TXTResource{TXT: []string{strings.Repeat("x", 200)}})
	}
	out, _ := b.Finish()
	return out
}

func resolves(_ string, q []byte) [][]byte { return [][]byte{address(q, [4]byte{192, 0, 2, 7}, 0)} }

// start runs a forwarder at 127.0.0.1 that asks these resolvers.
func start(t *testing.T, change func(*Config), servers ...netip.AddrPort) (*Forwarder, netip.AddrPort) {
	t.Helper()
	cfg := Config{
		Dial: new(net.Dialer).DialContext, Resolvers: func() []netip.AddrPort { return servers },
		Allowed: func(netip.Addr) bool { return true }, port: freePort(t), retry: time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	f := New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	f.Set([]netip.Addr{loopback})
	at := netip.AddrPortFrom(loopback, cfg.port)
	eventually(t, "listening", func() bool {
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
	return f, at
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("never %s", what)
		}
	}
}

// exchange asks from an address of this host and gives the answer.
func exchange(t *testing.T, network string, at netip.AddrPort, q []byte) []byte {
	t.Helper()
	c, err := net.Dial(network, at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if network == "tcp" {
		if err := writeFramed(c, q); err != nil {
			t.Fatal(err)
		}
		a, err := readFramed(c, 65535)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if _, err := c.Write(q); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 65535)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// read gives an answer's header and its first address.
func read(t *testing.T, b []byte) (dnsmessage.Header, string) {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatalf("answer % x: %v", b, err)
	}
	for _, a := range m.Answers {
		if r, ok := a.Body.(*dnsmessage.AResource); ok {
			return m.Header, netip.AddrFrom4(r.A).String()
		}
	}
	return m.Header, ""
}
