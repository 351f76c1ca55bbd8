package tundev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"warren/proto/key"
)

// MaxWord bounds the payload of a word, in bytes: with its header it fits every path.
const MaxWord = 1200

// protoWord is for experiments (RFC 3692), and so nobody else's.
const protoWord = 253

// Words from one peer: more than a healthy agent sends, and few enough to read them all.
const (
	wordsPerSecond = 100
	wordsBurst     = 100
)

// ErrNoPeer says that no such device is in the map, or that it has no address that we could reach.
var ErrNoPeer = errors.New("no such peer")

// SendWord sends a payload of our own to the agent of another device: a packet between the two overlay addresses, which neither host ever sees. It waits
// for its peer to be configured as others do, and may be lost as others may. To WireGuard, and so to whoever removes idle peers, it is traffic:
// otherwise one side might forget the other while that waits for an answer.
func (d *Device) SendWord(to key.DevicePublic, payload []byte) error {
	if len(payload) == 0 || len(payload) > MaxWord {
		return fmt.Errorf("a word of %d bytes; there may be 1 to %d", len(payload), MaxWord)
	}
	d.mu.Lock()
	a := d.accounts[to.Raw()]
	d.mu.Unlock()
	if a == nil || to.IsZero() {
		return fmt.Errorf("%w: %s", ErrNoPeer, to.Short())
	}
	p := a.node.Load()
	if p == nil {
		return fmt.Errorf("%w: %s", ErrNoPeer, to.Short())
	}
	src, dst, ok := between(d.view.Load().own, *p.addresses.Load())
	if !ok {
		return fmt.Errorf("%w: %s and this device have no addresses of one family", ErrNoPeer, to.Short())
	}
	b := make([]byte, headerSize(src)+len(payload))
	putHeader(b, protoWord, src, dst)
	copy(b[headerSize(src):], payload)
	if !d.send(p, b, true) {
		return fmt.Errorf("a word for %s is dropped: too much waits to be sent", to.Short())
	}
	return nil
}

// hear takes a packet of protocol 253 that came for one of our addresses.
func (d *Device) hear(from *entry, b []byte) {
	payload := payloadOf(b)
	a := from.account
	if !from.own || a.device.IsZero() || len(payload) == 0 || len(payload) > MaxWord || !a.words.allow(time.Now(), wordsPerSecond, wordsBurst) {
		d.counters.wordsDropped.Add(1)
		return
	}
	d.counters.words.Add(1)
	d.cfg.OnWord(a.device, append([]byte(nil), payload...))
}

// protocol is what the fixed header of an IP packet says; Addresses has read it.
func protocol(b []byte) uint8 {
	if b[0]>>4 == 4 {
		return b[9]
	}
	return b[6]
}

func headerSize(a netip.Addr) int {
	if a.Is4() {
		return header4
	}
	return header6
}

// putHeader makes b a packet, whose payload stands behind the header or will.
func putHeader(b []byte, proto uint8, src, dst netip.Addr) {
	const hops = 64
	if src.Is4() {
		clear(b[:header4])
		b[0], b[6], b[8], b[9] = 0x45, dontFragment, hops, proto
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], checksum(0, b[:header4]))
		return
	}
	clear(b[:header6])
	b[0], b[6], b[7] = 0x60, proto, hops
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-header6))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
}

// payloadOf gives what follows a header that putHeader wrote; nil for other packets.
func payloadOf(b []byte) []byte {
	switch {
	case len(b) > header4 && b[0] == 0x45 && b[6]&^dontFragment == 0 && b[7] == 0:
		if size := int(binary.BigEndian.Uint16(b[2:])); size > header4 && size <= len(b) {
			return b[header4:size]
		}
	case len(b) > header6 && b[0]>>4 == 6:
		if size := header6 + int(binary.BigEndian.Uint16(b[4:])); size > header6 && size <= len(b) {
			return b[header6:size]
		}
	}
	return nil
}
