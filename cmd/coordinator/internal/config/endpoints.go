package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// Endpoints are the URLs that tokens and maps carry: those that were configured, or else the host's own reachable addresses. private says
// that all of the latter are private ones, so that devices elsewhere will not reach them.
func (c *Config) Endpoints(hostAddresses []netip.Addr, port uint16) (out []*pb.Endpoint, private bool, err error) {
	mode, _, _, err := c.TLSMode()
	if err != nil {
		return nil, false, err
	}
	for _, u := range c.URLs {
		out = append(out, &pb.Endpoint{Url: u, TlsMode: urlMode(mode, u)})
	}
	if len(out) > 0 {
		return out, false, nil
	}
	if mode == pb.TLSMode_TLS_MODE_PUBLIC {
		return nil, false, errNoName
	}
	scheme := "https"
	if mode == pb.TLSMode_TLS_MODE_OFF {
		scheme = "http"
	}
	private = true
	for _, a := range c.reachable(hostAddresses) {
		u := scheme + "://" + net.JoinHostPort(a.String(), strconv.Itoa(int(port)))
		out = append(out, &pb.Endpoint{Url: u, TlsMode: mode})
		private = private && isPrivate(a)
	}
	if len(out) == 0 {
		return nil, false, fmt.Errorf("this host has no address that devices could reach; name one with --url")
	}
	return out, private, nil
}

// maxOwn bounds how many of the host's addresses go into a token, which a person has to copy.
const maxOwn = 4

// reachable picks the host's addresses: public ones first, IPv4 before IPv6. When the listener is bound to one address, it is that one.
func (c *Config) reachable(host []netip.Addr) []netip.Addr {
	if bound, _, err := net.SplitHostPort(c.Listen); err == nil {
		if a, err := netip.ParseAddr(bound); err == nil && !a.IsUnspecified() {
			return []netip.Addr{a}
		}
	}
	var out []netip.Addr
	for _, a := range host {
		if a.IsGlobalUnicast() {
			out = append(out, a)
		}
	}
	slices.SortStableFunc(out, func(a, b netip.Addr) int {
		if isPrivate(a) != isPrivate(b) {
			return boolOrder(isPrivate(b))
		}
		return boolOrder(b.Is6()) - boolOrder(a.Is6())
	})
	return out[:min(len(out), maxOwn)]
}

// isPrivate tells an address that is not reached from everywhere, be it behind a provider's NAT (RFC 6598) or an overlay's.
func isPrivate(a netip.Addr) bool {
	shared := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10)
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || shared.Contains(a.Unmap())
}

// boolOrder is -1 for true, so that true comes first.
func boolOrder(first bool) int {
	if first {
		return -1
	}
	return 1
}

// STUNHosts are the addresses of the STUN server: the hosts of the endpoints with each of its ports, as many as a map may name.
func STUNHosts(endpoints []string, ports []uint16) []string {
	var out []string
	for _, port := range ports { // what a map has no room for is a second port
		for _, h := range endpoints {
			out = append(out, net.JoinHostPort(h, strconv.Itoa(int(port))))
		}
	}
	return out[:min(len(out), record.MaxURLs)]
}
