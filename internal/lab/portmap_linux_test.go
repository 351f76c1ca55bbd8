package lab

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
)

// natPMP asks the host's router for a mapping of its UDP port (RFC 6886, section 3.3) and gives the external port.
func natPMP(t *testing.T, h *Host, port uint16, seconds uint32) uint16 {
	t.Helper()
	c := socket(t, h, ":0")
	b := []byte{0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(b[4:], port)
	binary.BigEndian.PutUint16(b[6:], port)
	binary.BigEndian.PutUint32(b[8:], seconds)
	send(t, c, netip.AddrPortFrom(h.Uplinks[0].gateway4, 5351), string(b))
	_, answer := receive(t, c, soon)
	if len(answer) != 16 || answer[:4] != "\x00\x81\x00\x00" {
		t.Fatalf("answer %x; want success and 16 bytes", answer)
	}
	return binary.BigEndian.Uint16([]byte(answer[10:]))
}

// pcpMap does the same by PCP (RFC 6887, section 11.1) and gives the external address too.
func pcpMap(t *testing.T, h *Host, port uint16, seconds uint32) netip.AddrPort {
	t.Helper()
	c := socket(t, h, ":0")
	b := make([]byte, 60)
	b[0], b[1] = 2, 1
	binary.BigEndian.PutUint32(b[4:], seconds)
	own := h.Addr.As16()
	copy(b[8:], own[:])
	copy(b[24:], "warren nonce")
	b[36] = 17
	binary.BigEndian.PutUint16(b[40:], port)
	copy(b[44:], "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00\x00\x00")
	send(t, c, netip.AddrPortFrom(h.Uplinks[0].gateway4, 5351), string(b))
	_, answer := receive(t, c, soon)
	if len(answer) != 60 || answer[:4] != "\x02\x81\x00\x00" {
		t.Fatalf("answer %x; want success and 60 bytes", answer)
	}
	a, _ := netip.AddrFromSlice([]byte(answer[44:60]))
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16([]byte(answer[42:])))
}

// TestPortMapping asks a real miniupnpd by all three protocols, and sees who gets in:
//
//	host --- hard NAT with miniupnpd --- internet --- outside
func TestPortMapping(t *testing.T) {
	l := newLab(t)
	outside, host := mustHost(t, l, "outside", None), mustHost(t, l, "host", PortMapped)
	from, inside := socket(t, outside, ":1000"), socket(t, host, ":41000")
	gets := func(to netip.AddrPort) bool {
		send(t, from, to, "x")
		wait := never
		if to.Port() == 41000 {
			wait = soon
		}
		_, text := receive(t, inside, wait)
		return text == "x"
	}
	if gets(netip.AddrPortFrom(host.Public, 41001)) {
		t.Error("a port that nobody mapped lets packets in")
	}
	port := natPMP(t, host, 41000, 60)
	if at := netip.AddrPortFrom(host.Public, port); port != 41000 || !gets(at) {
		t.Errorf("NAT-PMP gave %s, and nothing comes in there", at)
	}
	// What the host sends from there has the mapped port too, so that a STUN server sees the same.
	send(t, inside, netip.AddrPortFrom(outside.Public, 1000), "out")
	if at, _ := receive(t, from, soon); at != netip.AddrPortFrom(host.Public, 41000) {
		t.Errorf("the mapped socket sends from %s", at)
	}
	natPMP(t, host, 41000, 0)
	other := socket(t, outside, ":2000")
	send(t, other, netip.AddrPortFrom(host.Public, 41000), "late")
	if _, text := receive(t, inside, never); text != "" {
		t.Error("the mapping was deleted, and a stranger gets in")
	}
	if at := pcpMap(t, host, 41000, 60); at != netip.AddrPortFrom(host.Public, 41000) || !gets(at) {
		t.Errorf("PCP gave %s, and nothing comes in there", at)
	}
	c := socket(t, host, ":0")
	send(t, c, netip.MustParseAddrPort("239.255.255.250:1900"), strings.ReplaceAll(
		"M-SEARCH * HTTP/1.1\nHOST: 239.255.255.250:1900\nMAN: \"ssdp:discover\"\nMX: 1\nST: upnp:rootdevice\n\n", "\n", "\r\n"))
	if at, text := receive(t, c, soon); at.Addr() != host.Uplinks[0].gateway4 || !strings.Contains(text, "LOCATION: http://"+host.Uplinks[0].gateway4.String()) {
		t.Errorf("SSDP answer from %s: %q", at, text)
	}
}
