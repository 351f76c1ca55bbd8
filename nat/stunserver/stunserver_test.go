package stunserver

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"warren/nat/stunmsg"
)

func TestAnswersOverUDP(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(at, func(t *testing.T) {
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at)))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- New(nil, nil).Run(ctx, c) }()
			client, err := net.DialUDP("udp", nil, c.LocalAddr().(*net.UDPAddr))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if err := client.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			tx := stunmsg.NewTxID()
			for _, b := range [][]byte{[]byte("garbage"), stunmsg.NewRequest(tx, nil, nil)} {
				if _, err := client.Write(b); err != nil {
					t.Fatal(err)
				}
			}
			b := make([]byte, 1500)
			n, err := client.Read(b) // the garbage had no answer, so this is the request's
			if err != nil {
				t.Fatal(err)
			}
			m, err := stunmsg.Parse(b[:n])
			if err != nil || m.Tx != tx || m.Mapped.String() != client.LocalAddr().String() {
				t.Errorf("answer %+v, %v; want mapped address %s", m, err, client.LocalAddr())
			}
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

func TestIgnored(t *testing.T) {
	s := New(nil, nil)
	from := netip.MustParseAddrPort("192.0.2.1:1")
	for name, b := range map[string][]byte{
		"empty":            nil,
		"an answer":        stunmsg.NewSuccess(stunmsg.TxID{}, from, nil),
		"a signed check":   stunmsg.NewRequest(stunmsg.TxID{}, []byte("user"), []byte("key")),
		"cut":              stunmsg.NewRequest(stunmsg.TxID{}, nil, nil)[:19],
		"WireGuard's type": append([]byte{1, 0, 0, 0}, make([]byte, 144)...),
	} {
		if got := s.answer(b, from); got != nil {
			t.Errorf("%s was answered with %x", name, got)
		}
	}
}

// TestOtherPort: where another port is asked for, the answer comes from there, and goes to nobody else.
func TestOtherPort(t *testing.T) {
	listen := func() *net.UDPConn {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	client, other := listen(), listen()
	from := client.LocalAddr().(*net.UDPAddr).AddrPort()
	s := New(nil, nil)
	tx := stunmsg.NewTxID()
	request := stunmsg.NewOtherPortRequest(tx)
	if got := s.Answer(request, from); got != nil {
		t.Errorf("with one port there was an answer: %x", got)
	}
	s.SetOther(other)
	if got := s.Answer(request, from); got != nil {
		t.Errorf("an answer from the same port: %x", got)
	}
	if err := client.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1500)
	n, source, err := client.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	m, err := stunmsg.Parse(b[:n])
	if err != nil || m.Tx != tx || m.Mapped != from || source.String() != other.LocalAddr().String() {
		t.Errorf("%+v from %s, %v; want it from %s", m, source, err, other.LocalAddr())
	}
}

func TestNoAmplification(t *testing.T) {
	s := New(nil, nil)
	request := stunmsg.NewRequest(stunmsg.TxID{}, nil, nil)
	for _, from := range []string{"192.0.2.1:1", "[2001:db8::1]:1"} {
		if got := s.answer(request, netip.MustParseAddrPort(from)); len(got) > len(request)+24 {
			t.Errorf("%d bytes for %d", len(got), len(request))
		}
	}
}

func TestRateLimit(t *testing.T) {
	now := time.Unix(0, 0)
	s := New(nil, func() time.Time { return now })
	request := stunmsg.NewRequest(stunmsg.TxID{}, nil, nil)
	ask := func(a string) bool { return s.answer(request, netip.MustParseAddrPort(a)) != nil }
	answered := 0
	for range 2 * atOnce {
		if ask("192.0.2.1:1000") {
			answered++
		}
	}
	if answered != atOnce {
		t.Errorf("%d of a burst were answered, want %d", answered, atOnce)
	}
	if !ask("192.0.2.2:1000") {
		t.Error("another source suffers")
	}
	now = now.Add(time.Second)
	if !ask("192.0.2.1:2000") {
		t.Error("still refused a second later")
	}
	for range 2 * atOnce {
		ask("[2001:db8:0:1::1]:1")
	}
	if ask("[2001:db8:0:1:ffff::2]:1") {
		t.Error("another address of the same /64 has an allowance of its own")
	}
}

func TestTableIsBounded(t *testing.T) {
	now := time.Unix(0, 0)
	s := New(nil, func() time.Time { return now })
	for i := range 3 * maxSources {
		s.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if len(s.sources) > maxSources {
		t.Errorf("%d sources are remembered, more than %d", len(s.sources), maxSources)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(stunmsg.NewRequest(stunmsg.TxID{1}, nil, nil))
	f.Add(stunmsg.NewOtherPortRequest(stunmsg.TxID{1}))
	f.Add([]byte("x"))
	s := New(nil, func() time.Time { return time.Unix(0, 0).Add(time.Duration(len(f.Name())) * time.Hour) })
	from := netip.MustParseAddrPort("192.0.2.1:1")
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := s.answer(b, from); got != nil && len(got) > len(b)+24 {
			t.Errorf("%d bytes were answered with %d", len(b), len(got))
		}
	})
}

// TestHostileRequests: what is no plain, whole Binding request gets no answer, however near it comes.
func TestHostileRequests(t *testing.T) {
	s := New(nil, nil)
	from := netip.MustParseAddrPort("192.0.2.1:1")
	whole := stunmsg.NewRequest(stunmsg.TxID{1}, nil, nil)
	if got := s.answer(whole, from); len(got) != 40 {
		t.Fatalf("the request itself: %x", got)
	}
	for n := range whole {
		if got := s.answer(whole[:n], from); got != nil {
			t.Errorf("cut to %d bytes: %x", n, got)
		}
	}
	for bit := range len(whole) * 8 {
		if bit/8 == 20 || bit/8 == 21 {
			continue // the type of FINGERPRINT, which may be missing: that is a whole request with an attribute that nobody knows
		}
		b := append([]byte(nil), whole...)
		b[bit/8] ^= 1 << (bit % 8)
		if got := s.answer(b, from); got != nil {
			t.Errorf("bit %d changed: %x", bit, got)
		}
	}
	// XOR-MAPPED-ADDRESS of no length, in a request and in an answer (CVE-2026-54909).
	for _, class := range []byte{0, 1} {
		b := append([]byte{class, 1, 0, 4, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...)
		b = append(b, 0, 0x20, 0, 0)
		if got := s.answer(b, from); got != nil {
			t.Errorf("an empty mapped address: %x", got)
		}
	}
}

// TestPaddingIsNotPaidBack: a long request has a short answer.
func TestPaddingIsNotPaidBack(t *testing.T) {
	s := New(nil, nil)
	for _, size := range []int{100, 1200, 1500} {
		if got := s.answer(stunmsg.NewPaddedRequest(stunmsg.TxID{}, nil, nil, size), netip.MustParseAddrPort("[2001:db8::1]:1")); len(got) > 52 {
			t.Errorf("%d bytes for %d", len(got), size)
		}
	}
}
