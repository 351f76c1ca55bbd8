// Package loopguard keeps the tunnel's own datagrams from going into the tunnel on systems that have no firewall marks to route them past it. Wrap is
// the call. Without it, a gateway whose address is in a network that it carries would be found at that address, through the tunnel to itself, and
// packets would go round.
package loopguard

import (
	"encoding/binary"

	"golang.zx2c4.com/wireguard/tun"
)

// Wrap gives a device that drops what this host's socket at a UDP port sends into the tunnel. port is asked for each packet; 0: nothing is dropped.
func Wrap(inner tun.Device, port func() uint16) tun.Device { return &device{inner, port} }

type device struct {
	tun.Device
	port func() uint16
}

// Read returns when there is at least one packet of others, or an error.
func (d *device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		n, err := d.Device.Read(bufs, sizes, offset)
		kept := d.keep(bufs[:n], sizes[:n], offset)
		if kept > 0 || n == 0 || err != nil {
			return kept, err
		}
	}
}

// keep moves the packets of others to the front.
func (d *device) keep(bufs [][]byte, sizes []int, offset int) (kept int) {
	port := d.port()
	for i := range bufs {
		if sentFrom(bufs[i][offset:offset+sizes[i]], port) {
			continue
		}
		if kept != i {
			copy(bufs[kept][offset:], bufs[i][offset:offset+sizes[i]])
			sizes[kept] = sizes[i]
		}
		kept++
	}
	return kept
}

const udp = 17

// sentFrom reports whether a packet is a UDP datagram, or the first fragment of one, from a port. Later fragments are let through: alone they are of no use.
func sentFrom(packet []byte, port uint16) bool {
	if port == 0 || len(packet) == 0 {
		return false
	}
	header := 40
	switch packet[0] >> 4 {
	case 4:
		header = int(packet[0]&15) * 4
		if header < 20 || len(packet) < header || packet[9] != udp || binary.BigEndian.Uint16(packet[6:])&0x1fff != 0 {
			return false
		}
	case 6:
		if len(packet) < header || packet[6] != udp {
			return false
		}
	default:
		return false
	}
	return len(packet) >= header+2 && binary.BigEndian.Uint16(packet[header:]) == port
}
