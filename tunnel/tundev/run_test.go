package tundev

import (
	"encoding/binary"
	"testing"
)

// tcpPacket is one of a stream, to be changed.
func tcpPacket(change func(b []byte)) []byte {
	b := packet4(protoTCP, 100, dontFragment)
	binary.BigEndian.PutUint16(b[20:], 4711)
	binary.BigEndian.PutUint16(b[22:], 443)
	b[32], b[33] = 5<<4, 0x10 // ACK
	if change != nil {
		change(b)
	}
	return b
}

func udpPacket6(change func(b []byte)) []byte {
	b := packet6(protoUDP, 200)
	binary.BigEndian.PutUint16(b[40:], 53)
	binary.BigEndian.PutUint16(b[42:], 5353)
	if change != nil {
		change(b)
	}
	return b
}

// Only what is in every respect one flow goes on as one, and nothing that a filter looks at more closely.
func TestRun(t *testing.T) {
	for name, tc := range map[string]struct {
		first, next []byte
		want        bool
	}{
		"one stream":           {tcpPacket(nil), tcpPacket(func(b []byte) { b[25], b[99] = 7, 9 }), true},
		"pushed":               {tcpPacket(nil), tcpPacket(func(b []byte) { b[33] = 0x18 }), true},
		"UDP over IPv6":        {udpPacket6(nil), udpPacket6(nil), true},
		"behind a SYN":         {tcpPacket(func(b []byte) { b[33] = flagSYN }), tcpPacket(nil), false},
		"a SYN":                {tcpPacket(nil), tcpPacket(func(b []byte) { b[33] = flagSYN }), false},
		"a FIN":                {tcpPacket(nil), tcpPacket(func(b []byte) { b[33] = 0x11 }), false},
		"a RST":                {tcpPacket(nil), tcpPacket(func(b []byte) { b[33] = 4 }), false},
		"another source":       {tcpPacket(nil), tcpPacket(func(b []byte) { b[15]++ }), false},
		"another destination":  {tcpPacket(nil), tcpPacket(func(b []byte) { b[19]++ }), false},
		"another source port":  {tcpPacket(nil), tcpPacket(func(b []byte) { b[21]++ }), false},
		"another port":         {tcpPacket(nil), tcpPacket(func(b []byte) { b[23]++ }), false},
		"another protocol":     {tcpPacket(nil), tcpPacket(func(b []byte) { b[9] = protoUDP }), false},
		"ICMP":                 {packet4(protoICMP, 100, 0), packet4(protoICMP, 100, 0), false},
		"fragments":            {tcpPacket(nil), tcpPacket(func(b []byte) { b[6] = 0x20 }), false},
		"a later fragment":     {tcpPacket(nil), tcpPacket(func(b []byte) { b[7] = 1 }), false},
		"options":              {tcpPacket(nil), tcpPacket(func(b []byte) { b[0] = 0x46 }), false},
		"a wrong length":       {tcpPacket(nil), tcpPacket(func(b []byte) { b[3]-- }), false},
		"cut":                  {tcpPacket(nil), tcpPacket(nil)[:30], false},
		"nothing":              {tcpPacket(nil), nil, false},
		"IPv6, another source": {udpPacket6(nil), udpPacket6(func(b []byte) { b[8]++ }), false},
		"IPv6, another port":   {udpPacket6(nil), udpPacket6(func(b []byte) { b[43]++ }), false},
		"IPv6, extensions":     {udpPacket6(nil), udpPacket6(func(b []byte) { b[6] = 44 }), false},
		"IPv4 behind IPv6":     {udpPacket6(nil), tcpPacket(nil), false},
	} {
		var r run
		p := &peer{}
		r.begin(tc.first, p, nil)
		if got := r.goesOn(tc.next); got != tc.want || got && r.peer != p {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	if new(run).goesOn(tcpPacket(nil)) {
		t.Error("a run begins without a first packet")
	}
}
