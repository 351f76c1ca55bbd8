package router

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Requests of macOS' ioctls that set addresses of interfaces, which its headers <net/if.h>, <netinet/in_var.h> and <netinet6/in6_var.h> lay out.
// Both of its processors are little-endian. The numbers of the IPv6 ones are made of 'i', 25 or 26, and the length of the request.
const (
	siocAIFAddrIn6 = 0x8000_0000 | aliasSize6<<16 | 'i'<<8 | 26
	siocDIFAddrIn6 = 0x8000_0000 | removeSize6<<16 | 'i'<<8 | 25

	nameSize                   = 16
	inetSize, inet6Size        = 16, 28
	aliasSize4                 = nameSize + 3*inetSize
	aliasSize6                 = nameSize + 3*inet6Size + 4 + 24 // flags; lifetimes
	removeSize4                = nameSize + inetSize
	removeSize6                = 288 // with room for the statistics that the same structure may hold
	familyInet                 = 2
	familyInet6                = 30
	noDAD                      = 0x20 // IN6_IFF_NODAD: duplicate address detection makes no sense on a tunnel
	forever             uint32 = 0xffffffff
)

// aliasRequest4 is a struct ifaliasreq: name, address, the address at the other end, netmask. The other end of a tunnel's is the address itself.
func aliasRequest4(name string, p netip.Prefix) []byte {
	b := make([]byte, 0, aliasSize4)
	b = appendName(b, name)
	b = appendInet(b, p.Addr().AsSlice())
	b = appendInet(b, p.Addr().AsSlice())
	return appendInet(b, net.CIDRMask(p.Bits(), 32))
}

// aliasRequest6 is a struct in6_aliasreq: name, address, the address at the other end, which is none, netmask, flags and lifetimes.
func aliasRequest6(name string, p netip.Prefix) []byte {
	b := make([]byte, 0, aliasSize6)
	b = appendName(b, name)
	b = appendInet6(b, p.Addr().AsSlice())
	b = append(b, make([]byte, inet6Size)...)
	b = appendInet6(b, net.CIDRMask(p.Bits(), 128))
	b = binary.LittleEndian.AppendUint32(b, noDAD)
	b = append(b, make([]byte, 16)...) // when they end, which the kernel works out
	b = binary.LittleEndian.AppendUint32(b, forever)
	return binary.LittleEndian.AppendUint32(b, forever)
}

// removeRequest4 is a struct ifreq with an address.
func removeRequest4(name string, p netip.Prefix) []byte {
	return appendInet(appendName(make([]byte, 0, removeSize4), name), p.Addr().AsSlice())
}

// removeRequest6 is a struct in6_ifreq with an address.
func removeRequest6(name string, p netip.Prefix) []byte {
	b := make([]byte, removeSize6)
	appendInet6(appendName(b[:0], name), p.Addr().AsSlice())
	return b
}

// appendName appends a name that ends with a zero, cut to fit.
func appendName(b []byte, name string) []byte {
	var out [nameSize]byte
	copy(out[:nameSize-1], name)
	return append(b, out[:]...)
}

// appendInet appends a struct sockaddr_in: length, family, port, address, eight zeros.
func appendInet(b, address []byte) []byte {
	b = append(b, inetSize, familyInet, 0, 0)
	b = append(b, address...)
	return append(b, make([]byte, 8)...)
}

// appendInet6 appends a struct sockaddr_in6: length, family, port, flow, address, scope.
func appendInet6(b, address []byte) []byte {
	b = append(b, inet6Size, familyInet6, 0, 0, 0, 0, 0, 0)
	b = append(b, address...)
	return append(b, 0, 0, 0, 0)
}
