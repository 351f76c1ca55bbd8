package tundev

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// packet4 and packet6 are packets of size bytes, from 10.0.0.1 or fd00::1 to .2.
func packet4(proto byte, size int, flags byte) []byte {
	b := make([]byte, size)
	b[0], b[6], b[8], b[9] = 0x45, flags, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(size))
	copy(b[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	return b
}

func packet6(proto byte, size int) []byte {
	b := make([]byte, size)
	b[0], b[6], b[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(b[4:], uint16(size-40))
	b[8], b[23], b[24], b[39] = 0xfd, 1, 0xfd, 2
	return b
}

// TestTooBig reads the answers with another implementation.
func TestTooBig(t *testing.T) {
	m := tooBig(packet4(17, 1400, dontFragment), 1300)[writeHeadroom:]
	h, err := ipv4.ParseHeader(m)
	if err != nil {
		t.Fatal(err)
	}
	if h.Src.String() != "10.0.0.2" || h.Dst.String() != "10.0.0.1" || h.TotalLen != len(m) || len(m) > 576 || checksum(0, m[:20]) != 0 {
		t.Errorf("header %v of %d bytes", h, len(m))
	}
	if checksum(0, m[20:]) != 0 {
		t.Error("the ICMP checksum is wrong")
	}
	p, err := icmp.ParseMessage(1, m[20:])
	if err != nil {
		t.Fatal(err)
	}
	if p.Type != ipv4.ICMPTypeDestinationUnreachable || p.Code != 4 || binary.BigEndian.Uint16(m[26:]) != 1300 {
		t.Errorf("message %+v, MTU %d", p, binary.BigEndian.Uint16(m[26:]))
	}

	m = tooBig(packet6(17, 1400), 1300)[writeHeadroom:]
	h6, err := ipv6.ParseHeader(m)
	if err != nil {
		t.Fatal(err)
	}
	if h6.Src.String() != "fd00::2" || h6.Dst.String() != "fd00::1" || h6.PayloadLen != len(m)-40 || len(m) > 1280 {
		t.Errorf("header %v of %d bytes", h6, len(m))
	}
	p, err = icmp.ParseMessage(58, m[40:])
	if err != nil {
		t.Fatal(err)
	}
	if b, ok := p.Body.(*icmp.PacketTooBig); p.Type != ipv6.ICMPTypePacketTooBig || !ok || b.MTU != 1300 {
		t.Errorf("message %+v", p)
	}
	sent, err := (&icmp.Message{Type: p.Type, Body: p.Body}).Marshal(icmp.IPv6PseudoHeader(h6.Src, h6.Dst))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sent, m[40:]); d != "" {
		t.Errorf("not as x/net writes it (-want +got):\n%s", d)
	}
}

func TestNoErrorsAboutErrors(t *testing.T) {
	four, six := packet4(1, 1400, dontFragment), packet6(58, 1400)
	four[20], six[40] = 3, 1
	if tooBig(four, 1300) != nil || tooBig(six, 1300) != nil {
		t.Error("an error is answered by an error")
	}
	four[20], six[40] = 8, 128
	if tooBig(four, 1300) == nil || tooBig(six, 1300) == nil {
		t.Error("an echo is not answered")
	}
}

// syn is a TCP SYN with the options given.
func syn(six bool, options ...byte) []byte {
	headers := 20
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	b := packet4(6, 20+20+len(options), dontFragment)
	if six {
		b, headers = packet6(6, 40+20+len(options)), 40
	}
	tcp := b[headers:]
	binary.BigEndian.PutUint16(tcp, 4711)
	binary.BigEndian.PutUint16(tcp[2:], 443)
	tcp[12], tcp[13] = byte(20+len(options))<<2, flagSYN
	copy(tcp[20:], options)
	binary.BigEndian.PutUint16(tcp[16:], tcpChecksum(b, headers))
	return b
}

func tcpChecksum(b []byte, headers int) uint16 {
	addresses := b[12:20]
	if headers == 40 {
		addresses = b[8:40]
	}
	return checksum(sum(0, addresses)+6+uint64(len(b)-headers), b[headers:])
}

func TestClampMSS(t *testing.T) {
	for name, tc := range map[string]struct {
		b       []byte
		mtu     int
		at      int // of the MSS in b
		want    uint16
		changed bool
	}{
		"IPv4, larger":        {syn(false, 2, 4, 5, 0xb4), 1300, 42, 1260, true},
		"IPv4, small enough":  {syn(false, 2, 4, 4, 0xec), 1300, 42, 1260, false},
		"IPv6":                {syn(true, 2, 4, 5, 0xa0), 1300, 62, 1240, true},
		"behind others":       {syn(false, 1, 1, 4, 2, 2, 4, 5, 0xb4), 1300, 46, 1260, true},
		"at an odd place":     {syn(false, 1, 2, 4, 5, 0xb4), 1300, 43, 1260, true},
		"none":                {syn(false, 4, 2), 1300, 40, 0x0402, false},
		"option beyond end":   {syn(false, 2, 40, 5, 0xb4), 1300, 42, 1460, false},
		"option of no length": {syn(false, 2, 0, 5, 0xb4), 1300, 42, 1460, false},
	} {
		t.Run(name, func(t *testing.T) {
			headers := 20
			if tc.b[0]>>4 == 6 {
				headers = 40
			}
			if got := clampMSS(tc.b, tc.mtu); got != tc.changed {
				t.Errorf("changed: %v", got)
			}
			if got := binary.BigEndian.Uint16(tc.b[tc.at:]); got != tc.want {
				t.Errorf("MSS %d, want %d", got, tc.want)
			}
			if tcpChecksum(tc.b, headers) != 0 {
				t.Error("the checksum is wrong")
			}
		})
	}
	b := syn(false, 2, 4, 5, 0xb4)
	b[20+13] = 0x10 // an ACK
	if clampMSS(b, 1300) {
		t.Error("clamped what is no SYN")
	}
}

func FuzzClampMSS(f *testing.F) {
	f.Add(syn(false, 2, 4, 5, 0xb4), uint16(1300))
	f.Add(syn(true, 1, 2, 4, 5, 0xb4), uint16(1280))
	f.Fuzz(func(t *testing.T, b []byte, mtu uint16) {
		if len(b) == 0 {
			return
		}
		tcp, headers := tcpOf(b)
		before := tcp != nil && tcpChecksum(b, headers) == 0
		clampMSS(b, int(mtu))
		if before && tcpChecksum(b, headers) != 0 {
			t.Error("the checksum is wrong")
		}
	})
}

func TestAnswersAreLimited(t *testing.T) {
	var a limiter
	now, n := time.Unix(0, 0), 0
	for range 10 * 1000 {
		now = now.Add(time.Millisecond)
		if a.allow(now, answersPerSecond, answersBurst) {
			n++
		}
	}
	if most := answersBurst + 10*answersPerSecond; n > most || n < most-answersBurst {
		t.Errorf("%d answers in 10 s, want at most %d", n, most)
	}
}
