package loopguard

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/tun"
)

const port = 51820

func v4(protocol byte, from uint16, options int, fragment uint16) []byte {
	b := make([]byte, 20+options+8)
	b[0], b[9] = 0x40|byte(5+options/4), protocol
	binary.BigEndian.PutUint16(b[6:], fragment)
	binary.BigEndian.PutUint16(b[20+options:], from)
	return b
}

func v6(next byte, from uint16) []byte {
	b := make([]byte, 48)
	b[0], b[6] = 0x60, next
	binary.BigEndian.PutUint16(b[40:], from)
	return b
}

func TestSentFrom(t *testing.T) {
	for name, c := range map[string]struct {
		packet []byte
		want   bool
	}{
		"ours":                {v4(udp, port, 0, 0), true},
		"with options":        {v4(udp, port, 8, 0), true},
		"whole, as DF says":   {v4(udp, port, 0, 0x4000), true},
		"first fragment":      {v4(udp, port, 0, 0x2000), true},
		"later fragment":      {v4(udp, port, 0, 0x2001), false},
		"another port":        {v4(udp, port+1, 0, 0), false},
		"TCP":                 {v4(6, port, 0, 0), false},
		"ours over IPv6":      {v6(udp, port), true},
		"another over IPv6":   {v6(udp, 53), false},
		"ICMPv6":              {v6(58, port), false},
		"nothing":             {nil, false},
		"cut in the header":   {v4(udp, port, 0, 0)[:19], false},
		"cut in the port":     {v4(udp, port, 0, 0)[:21], false},
		"cut in IPv6":         {v6(udp, port)[:41], false},
		"header of no length": {append([]byte{0x40}, v4(udp, port, 0, 0)[1:]...), false},
		"no IP":               {append([]byte{0x00}, v4(udp, port, 0, 0)[1:]...), false},
	} {
		if got := sentFrom(c.packet, port); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if sentFrom(v4(udp, 0, 0, 0), 0) {
		t.Error("a socket that is not there sends")
	}
}

func FuzzSentFrom(f *testing.F) {
	f.Add(v4(udp, port, 8, 0))
	f.Add(v6(udp, port))
	f.Fuzz(func(_ *testing.T, b []byte) { sentFrom(b, port) })
}

// batches is a device that gives one batch for each Read, and then an error.
type batches struct {
	tun.Device
	left [][][]byte
}

var errEnd = errors.New("end")

func (d *batches) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if len(d.left) == 0 {
		return 0, errEnd
	}
	batch := d.left[0]
	d.left = d.left[1:]
	for i, p := range batch {
		sizes[i] = copy(bufs[i][offset:], p)
	}
	return len(batch), nil
}

func TestRead(t *testing.T) {
	ours, a, b := v4(udp, port, 0, 0), v4(udp, 53, 4, 0), v6(6, port)
	d := Wrap(&batches{left: [][][]byte{{a}, {ours}, {ours, ours}, {ours, a, ours, b}, {}, {b, ours}}}, func() uint16 { return port })
	const offset = 16
	bufs, sizes := make([][]byte, 4), make([]int, 4)
	for i := range bufs {
		bufs[i] = make([]byte, offset+1500)
	}
	var got [][][]byte
	for {
		n, err := d.Read(bufs, sizes, offset)
		if err != nil {
			if !errors.Is(err, errEnd) || n != 0 {
				t.Errorf("%d, %v", n, err)
			}
			break
		}
		var batch [][]byte
		for i := range n {
			batch = append(batch, slices.Clone(bufs[i][offset:offset+sizes[i]]))
		}
		got = append(got, batch)
	}
	if d := cmp.Diff([][][]byte{{a}, {a, b}, nil, {b}}, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
