package portmap

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestLyingGateway lets a gateway's answers be wrong in one way each.
func TestLyingGateway(t *testing.T) {
	set16 := func(at int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint16(b[at:], v); return b }
	}
	set32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], v); return b }
	}
	for _, tc := range []struct {
		name     string
		protocol Protocol
		lie      func([]byte) []byte
		want     string // failure; empty: the answer is ignored; "taken": it does no harm
	}{
		{"wrong nonce", PCP, set16(24, 0xffff), ""},
		{"other internal port", PCP, set16(40, 1), ""},
		{"other protocol", PCP, func(b []byte) []byte { b[36] = 6; return b }, ""},
		{"request sent back", PCP, func(b []byte) []byte { b[1] &= 0x7f; return b }, ""},
		{"cut", PCP, func(b []byte) []byte { return b[:44] }, ""},
		{"port zero", PCP, set16(42, 0), "PCP: malformed answer"},
		{"zero lifetime", PCP, set32(4, 0), "PCP: lifetime too short"},
		{"short lifetime", PCP, set32(4, 59), "PCP: lifetime too short"},
		{"huge lifetime", PCP, set32(4, 1<<32-1), "taken"},
		{"loopback outside", PCP, set32(56, 0x7f000001), "PCP: no address outside"},
		{"IPv6 outside", PCP, set32(44, 0x20010db8), "PCP: no address outside"},
		{"other internal port", NATPMP, set16(8, 1), ""},
		{"cut", NATPMP, func(b []byte) []byte { return b[:len(b)-1] }, ""},
		{"port zero", NATPMP, set16(10, 0), "NAT-PMP: malformed answer"},
		{"zero lifetime", NATPMP, set32(12, 0), "NAT-PMP: lifetime too short"},
		{"huge lifetime", NATPMP, set32(12, 1<<32-1), "taken"},
	} {
		t.Run(tc.protocol.String()+", "+tc.name, func(t *testing.T) {
			w, g := begin(t, func(w *world, g *gateway) {
				w.only(tc.protocol)
				g.lie = func(b []byte) []byte {
					if tc.protocol == NATPMP && len(b) != 16 || tc.protocol == PCP && len(b) != 60 {
						return b
					}
					return tc.lie(b)
				}
			})
			w.pass(time.Minute / 2)
			want := tc.want
			if want == "" {
				want = tc.protocol.String() + ": no answer"
			}
			if tc.want != "taken" {
				if w.published != (Mapping{}) || !slices.Contains(w.failures, want) {
					t.Errorf("published %+v, failures %q; want %q", w.published, w.failures, want)
				}
				return
			}
			g.lie = nil
			if g.reboot(w.now); !w.works() {
				w.pass(askLife)
			}
			if !w.works() {
				t.Error("a promise was relied on")
			}
		})
	}
}

func TestOnlyTheGatewayIsHeard(t *testing.T) {
	w, g := begin(t, func(w *world, g *gateway) { w.only(); w.loss = 1 })
	_, answer := PCP, g.answerNATPMP(w.now, home.Local, []byte{0, 0})
	for _, from := range []string{"192.168.1.66:5351", "192.168.1.1:5350", "[::ffff:192.168.1.1]:5351"} {
		w.handle(Datagram{From: netip.MustParseAddrPort(from), B: answer})
	}
	if w.core.clients[NATPMP].state != asking {
		t.Error("another host's answer was taken")
	}
	w.handle(Datagram{From: netip.AddrPortFrom(home.Gateway, 5351), Announced: true, B: answer})
	if w.core.clients[NATPMP].state != asking {
		t.Error("an announcement was taken for an answer")
	}
	w.handle(Datagram{From: netip.AddrPortFrom(home.Gateway, 5351), B: answer})
	if w.core.clients[NATPMP].state == asking {
		t.Error("the gateway's answer was not taken")
	}
}

// What anybody could make up, for want of a nonce, does not end a mapping that works.
func TestForgedRefusalsEndNothing(t *testing.T) {
	w, g := begin(t, speaking(PCP))
	w.pass(time.Minute)
	short := make([]byte, 24)
	short[0], short[1], short[3] = 2, 0x81, 2
	for _, version := range []byte{1, 2} {
		old := slices.Clone(short)
		old[0], old[3] = version, 1
		w.handle(Datagram{From: netip.AddrPortFrom(home.Gateway, 5351), B: old})
	}
	w.handle(Datagram{From: netip.AddrPortFrom(home.Gateway, 5351), B: short})
	g.lie = func(b []byte) []byte { b[24] ^= 1; b[3] = 2; return b }
	w.handle(SetNetwork{home})
	w.pass(time.Millisecond)
	g.lie = nil
	w.pass(time.Second)
	if !w.works() || w.changes != 1 {
		t.Errorf("works %t, published %d times, failures %q", w.works(), w.changes, w.failures)
	}
}

// The outcome of an operation that is no longer awaited changes nothing.
func TestStaleOperations(t *testing.T) {
	w, _ := begin(t, speaking(UPnP))
	w.pass(time.Second)
	evil := netip.AddrPortFrom(public2, 1)
	w.handle(SetNetwork{home}) // a renewal is under way
	for op := range w.core.lastOp {
		w.handle(Added{Op: op, External: evil, Life: time.Hour})
		w.handle(Found{Op: op, Reason: Refused})
		w.handle(Deleted{Op: op})
	}
	if !w.works() || w.changes != 1 {
		t.Errorf("published %+v, %d times", w.published, w.changes)
	}
}

// A grant of NAT-PMP that comes after it was given up is not taken for anything.
func TestLateGrant(t *testing.T) {
	w, g := begin(t, speaking(NATPMP))
	w.pass(1500 * time.Microsecond) // the mapping is asked for
	w.queue, w.loss = nil, 1
	w.pass(time.Minute / 4)
	late := g.answerNATPMP(w.now, home.Local, []byte{0, 1, 0, 0, byte(home.Port >> 8), byte(home.Port & 255), 1, 1, 0, 0, 9, 9})
	w.handle(Datagram{From: netip.AddrPortFrom(home.Gateway, 5351), B: late})
	if w.published != (Mapping{}) {
		t.Errorf("published %+v", w.published)
	}
}
