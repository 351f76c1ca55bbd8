package domain

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
)

// Bounds on a network's prefixes: an IPv4 one must leave room for devices, and an IPv6 one for the IPv4 host part.
const (
	minHostBits4 = 4
	minHostBits6 = 32
)

// RandomPrefixes draws an IPv4 /16 of 100.64.0.0/10 (RFC 6598) and an IPv6 unique local /48 (RFC 4193 section 3.2.2).
func RandomPrefixes(random io.Reader) ([]netip.Prefix, error) {
	var b [6]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return nil, err
	}
	v4 := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64 | b[0]&0x3f}), 16)
	v6 := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, b[1], b[2], b[3], b[4], b[5]}), 48)
	return []netip.Prefix{v4, v6}, nil
}

// CheckPrefix accepts a prefix from which devices can get addresses.
func CheckPrefix(p netip.Prefix, v6 bool) error {
	need := minHostBits4
	if v6 {
		need = minHostBits6
	}
	switch {
	case !p.IsValid() || p.Addr().Is4In6() || p.Addr().Is4() == v6:
		return fmt.Errorf("prefix %s is not of the wanted family", p)
	case p != p.Masked():
		return fmt.Errorf("prefix %s has bits set beyond its length; did you mean %s?", p, p.Masked())
	case p.Addr().BitLen()-p.Bits() < need:
		return fmt.Errorf("prefix %s is too small: /%d or shorter", p, p.Addr().BitLen()-need)
	case p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() || p.Addr().IsUnspecified():
		return fmt.Errorf("prefix %s cannot be used for devices", p)
	}
	return nil
}

// tries is how many random addresses are tried before the prefix is searched from one end.
const tries = 64

// PickAddresses chooses one free address in each prefix. The host part drawn for IPv4 is also used for IPv6, so that a person sees
// that they belong together; never the first address, which people take for a gateway, nor the last one of an IPv4 prefix, nor the one before it, from
// which gateways probe their LANs.
func PickAddresses(prefixes []netip.Prefix, taken func(netip.Addr) bool, random io.Reader) ([]netip.Addr, error) {
	bits := 32
	for _, p := range prefixes {
		bits = min(bits, p.Addr().BitLen()-p.Bits())
	}
	last := uint64(1)<<bits - 3
	free := func(host uint64) ([]netip.Addr, bool) {
		out := make([]netip.Addr, 0, len(prefixes))
		for _, p := range prefixes {
			a := hostAddress(p, host)
			if taken(a) {
				return nil, false
			}
			out = append(out, a)
		}
		return out, true
	}
	var b [8]byte
	for range tries {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return nil, err
		}
		host := 2 + binary.BigEndian.Uint64(b[:])%(last-1)
		if out, ok := free(host); ok {
			return out, nil
		}
	}
	for host := uint64(2); host <= last; host++ {
		if out, ok := free(host); ok {
			return out, nil
		}
	}
	return nil, fmt.Errorf("%w in %v; remove devices that are not used any more", ErrFull, prefixes)
}

func hostAddress(p netip.Prefix, host uint64) netip.Addr {
	if p.Addr().Is4() {
		b := p.Addr().As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|uint32(host))
		return netip.AddrFrom4(b)
	}
	b := p.Addr().As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])|host)
	return netip.AddrFrom16(b)
}
