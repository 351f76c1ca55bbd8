package bind

import (
	"encoding/binary"
	"testing"
)

// message makes a WireGuard-shaped message.
func message(kind byte, size int) []byte {
	b := make([]byte, size)
	b[0] = kind
	return b
}

func TestShapeOf(t *testing.T) {
	stun := make([]byte, 32)
	binary.BigEndian.PutUint16(stun, 0x0001)
	binary.BigEndian.PutUint16(stun[2:], 12)
	binary.BigEndian.PutUint32(stun[4:], 0x2112A442)
	cookieIndex := message(4, 48) // a transport message whose receiver index is STUN's magic cookie
	binary.BigEndian.PutUint32(cookieIndex[4:], 0x2112A442)
	reserved := message(4, 48)
	reserved[2] = 1
	for name, c := range map[string]struct {
		b    []byte
		want shape
	}{
		"empty":                         {nil, shapeOther},
		"one byte":                      {[]byte{4}, shapeOther},
		"initiation":                    {message(1, 148), shapeInitiation},
		"initiation too long":           {message(1, 149), shapeOther},
		"initiation too short":          {message(1, 147), shapeOther},
		"response":                      {message(2, 92), shapeResponse},
		"response of a cookie's size":   {message(2, 64), shapeOther},
		"cookie reply":                  {message(3, 64), shapeCookieReply},
		"keepalive":                     {message(4, 32), shapeTransport},
		"cut keepalive":                 {message(4, 31), shapeOther},
		"transport, any length":         {message(4, 1453), shapeTransport},
		"type 5":                        {message(5, 148), shapeOther},
		"type 0":                        {message(0, 148), shapeOther},
		"reserved bytes set":            {reserved, shapeOther},
		"STUN request":                  {stun, shapeOther},
		"index equals the magic cookie": {cookieIndex, shapeTransport},
	} {
		if got := shapeOf(c.b); got != c.want {
			t.Errorf("%s: shape %d, want %d", name, got, c.want)
		}
	}
}

// FuzzShape: whatever comes, a shape promises the length that later code relies on, and STUN is never taken for WireGuard.
func FuzzShape(f *testing.F) {
	for kind := range byte(6) {
		for _, size := range []int{0, 4, 31, 32, 64, 92, 148, 1500} {
			f.Add(message(kind, size+1)[:size])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := shapeOf(b)
		want := map[shape]int{shapeInitiation: initiationSize, shapeResponse: responseSize, shapeCookieReply: cookieReplySize}
		if n, fixed := want[s]; fixed && len(b) != n {
			t.Fatalf("shape %d of %d bytes", s, len(b))
		}
		if s == shapeOther {
			return
		}
		if len(b) < transportMin || b[1] != 0 || b[2] != 0 || b[3] != 0 {
			t.Fatalf("shape %d of % x", s, b[:min(len(b), 8)])
		}
		receiverIndex(s, b)
		// RFC 8489: a Binding message is 0x0001, 0x0011, 0x0101 or 0x0111.
		if kind := binary.BigEndian.Uint16(b); kind&^0x0110 == 1 {
			t.Fatalf("STUN message type %#04x taken for WireGuard", kind)
		}
	})
}
