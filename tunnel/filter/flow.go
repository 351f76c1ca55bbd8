package filter

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"
)

// Idle flows are forgotten, after the times that RFC 4787, 5382 and 5508 ask of NATs for the same purpose.
const (
	idleTCP      = 2*time.Hour + 4*time.Minute
	idleTCPBrief = 4 * time.Minute // being opened or closed
	idleUDP      = 5 * time.Minute
	idleOther    = time.Minute
	idleFragment = 30 * time.Second
	idleRefused  = 2 * time.Minute
)

// key names an entry of the table, as bytes that hash and compare fast: two ends, their ports, protocol and kind, and on which side they are. The
// ends of a flow stand in order, so that packets of both directions have one key. What the host forwards from one peer to another is two
// flows, one with each: an end that is beyond the one peer stands on the host's side for the other.
type key [38]byte

// Where the parts of a key are.
const (
	keyA, keyB         = 0, 16
	keyAPort, keyBPort = 32, 34
	keyProto, keyKind  = 36, 37
)

// The kinds of entries.
const (
	kindFlow     = iota
	kindEcho            // the end that asks stands first
	kindFragment        // the source stands first, and the ports are the packet's identification
	kindRefused         // the source stands first, and its port is 0
	kindPeers    = 0x40 // the first end is on the peers' side
	kindV6       = 0x80
)

// makeKey names what goes between two ends. d is the direction of what goes from the first to the second.
func makeKey(d Direction, a, b netip.Addr, aPort, bPort uint16, proto, kind uint8) (k key) {
	*(*[16]byte)(k[keyA:]), *(*[16]byte)(k[keyB:]) = a.As16(), b.As16()
	binary.BigEndian.PutUint16(k[keyAPort:], aPort)
	binary.BigEndian.PutUint16(k[keyBPort:], bPort)
	if k[keyProto], k[keyKind] = proto, kind; !a.Is4() {
		k[keyKind] |= kindV6
	}
	if d == In {
		k[keyKind] |= kindPeers
	}
	return k
}

// key names the flow of a packet. flipped says that the packet goes from the second end to the first.
func (p *Packet) key(d Direction) (k key, flipped bool) {
	if p.echo != noEcho {
		k = makeKey(d, p.Src, p.Dst, p.SrcPort, p.DstPort, p.Proto, kindEcho)
		flipped = p.echo == echoReply
	} else {
		k = makeKey(d, p.Src, p.Dst, p.SrcPort, p.DstPort, p.Proto, kindFlow)
		c := bytes.Compare(k[keyA:keyB], k[keyB:keyAPort])
		flipped = c > 0 || c == 0 && p.SrcPort > p.DstPort
	}
	if flipped {
		k.flip()
	}
	return k, flipped
}

// flip has the ends change places.
func (k *key) flip() {
	a, b := (*[16]byte)(k[keyA:]), (*[16]byte)(k[keyB:])
	*a, *b = *b, *a
	k[keyAPort], k[keyAPort+1], k[keyBPort], k[keyBPort+1] = k[keyBPort], k[keyBPort+1], k[keyAPort], k[keyAPort+1]
	k[keyKind] ^= kindPeers
}

// fragmentKey names what the fragments of a packet have in common. IPv6 takes the protocol from the first one (RFC 8200 section 4.5).
func (p *Packet) fragmentKey(d Direction) key {
	proto := p.Proto
	if !p.Src.Is4() {
		proto = 0
	}
	return makeKey(d, p.Src, p.Dst, uint16(p.FragmentID>>16), uint16(p.FragmentID), proto, kindFragment)
}

// refusedKey names what is refused together, and gives the port that it came from. Echoes count as one, whatever their identifier.
func (p *Packet) refusedKey(d Direction) (k key, srcPort uint16) {
	if p.echo != noEcho {
		return makeKey(d, p.Src, p.Dst, 0, 0, p.Proto, kindRefused), 0
	}
	return makeKey(d, p.Src, p.Dst, 0, p.DstPort, p.Proto, kindRefused), p.SrcPort
}

func (k *key) end(at, port int) netip.AddrPort {
	a := netip.AddrFrom16([16]byte(k[at:]))
	if k[keyKind]&kindV6 == 0 {
		a = a.Unmap()
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(k[port:]))
}

// class says what goes first when a peer must give something up.
type class uint8

const (
	refused  class = iota // flows that may not be
	fragment              // packets whose fragments are under way
	brief                 // flows that are being opened or closed, or may be over unnoticed
	lasting               // connections
	classes
)

// Flow is an entry of the table: most often a flow that passes. Its counters may be read and changed at any time; all else belongs to the
// shard that it is in.
type Flow struct {
	key     key
	flipped bool // it was begun by the second end of key
	in      bool // its first packet came from the peer
	class   class
	tcp     uint8  // what has been seen of a connection
	srcPort uint16 // of a refused flow's first packet
	over    bool   // its end has been told
	head    uint16 // of a fragment: where a later one may begin

	next         *Flow // of the same bucket
	account      *account
	older, newer *Flow // of the same peer and class
	whole        *Flow // of a fragment: the flow of the whole packet, of which only what does not change may be read
	grant        string

	began, used, expires time.Duration
	told                 time.Duration // when it was told of last, or never
	traffic              [2]traffic    // by direction
}

// never is before all times.
const never time.Duration = -1

type traffic struct{ packets, bytes atomic.Uint64 }

// Add counts packets of a flow that passed without being judged, or are about to.
func (e *Flow) Add(d Direction, packets, size int) {
	t := &e.traffic[d]
	t.packets.Add(uint64(packets))
	t.bytes.Add(uint64(size))
}

// ends gives source and destination of the flow's first packet.
func (e *Flow) ends() (src, dst netip.AddrPort) {
	src, dst = e.key.end(keyA, keyAPort), e.key.end(keyB, keyBPort)
	if e.flipped {
		return dst, src
	}
	return src, dst
}

// What has been seen of a connection.
const (
	seenAnswer     = 1 << iota
	seenEnd        // FIN from the side that began
	seenAnswersEnd // FIN from the other
	seenReset
	seenEnds = seenEnd | seenAnswersEnd
)

// closed reports whether a connection has ended, as far as it can be seen.
func (e *Flow) closed() bool { return e.tcp&seenReset != 0 || e.tcp&seenEnds == seenEnds }

// beginsAnew reports whether a packet makes another connection of the ports of one that has ended.
func (e *Flow) beginsAnew(p *Packet, flipped bool) bool {
	return p.Proto == protoTCP && p.tcpFlags&tcpSYN != 0 && flipped == e.flipped && e.closed()
}

// track sets when the flow is forgotten if nothing more comes, and gives its class. answer says that p goes against the flow's direction.
func (e *Flow) track(p *Packet, answer bool, now time.Duration) class {
	idle := idleOther
	switch p.Proto {
	case protoTCP:
		e.connection(p.tcpFlags, answer)
		if e.tcp&seenAnswer != 0 && !e.closed() {
			e.expires = now + idleTCP
			return lasting
		}
		idle = idleTCPBrief
	case protoUDP, protoSCTP:
		idle = idleUDP
	}
	e.expires = now + idle
	return brief
}

// connection follows TCP.
func (e *Flow) connection(flags uint8, answer bool) {
	if flags&tcpSYN != 0 && !answer {
		e.tcp = 0 // the ports are used again
	}
	end := uint8(seenEnd)
	if answer {
		e.tcp |= seenAnswer
		end = seenAnswersEnd
	}
	if flags&tcpFIN != 0 {
		e.tcp |= end
	}
	if flags&tcpRST != 0 {
		e.tcp |= seenReset
	}
}
