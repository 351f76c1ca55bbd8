package gather

import (
	"net/netip"
	"strings"

	"warren/internal/hostroutes"
)

// What is read out of a routing table and the names of interfaces on systems that have one table only.

// waysOf are the default routes. Those for bound sockets count, after all others: macOS has one for each interface but the first.
func waysOf(table []hostroutes.Route) ways {
	const scoped = 1 << 20
	out := ways{metrics{}, metrics{}}
	for _, r := range table {
		if !r.Default() {
			continue
		}
		through := out.v6
		if r.Prefix.Addr().Is4() {
			through = out.v4
		}
		if r.Scoped {
			r.Metric += scoped
		}
		through.add(r.Interface, r.Metric)
	}
	return out
}

func prefixesByLink(table []hostroutes.Route) map[int][]netip.Prefix {
	out := map[int][]netip.Prefix{}
	for _, r := range table {
		if !r.Default() && !r.Own && !r.Scoped {
			out[r.Interface] = append(out[r.Interface], r.Prefix)
		}
	}
	return out
}

// linksOf joins the interfaces' kinds with whether a default route goes through them.
func linksOf(kinds map[int]string, w ways) map[int]link {
	out := map[int]link{}
	for i, kind := range kinds {
		_, v4 := w.v4[i]
		_, v6 := w.v6[i]
		out[i] = link{kind, v4 || v6}
	}
	return out
}

// kindByName is the kind of an interface of macOS, in the words of ip-link(8).
func kindByName(name string) string {
	for prefix, kind := range map[string]string{"utun": "tun", "tun": "tun", "tap": "tun", "ipsec": "xfrm", "ppp": "ppp", "gif": "sit", "stf": "sit"} {
		if number, ok := strings.CutPrefix(name, prefix); ok && strings.Trim(number, "0123456789") == "" {
			return kind
		}
	}
	return ""
}

// Types of interfaces as IANA numbers them (ifType).
const (
	typePPP             = 23
	typePropVirtual     = 53 // Wintun and TAP adapters, and switches of virtual machines
	typePropPointToMany = 54
	typeTunnel          = 131
)

// kindByType is the kind of an interface of Windows, in the words of ip-link(8). Its TAP adapters call themselves Ethernet: their description tells.
func kindByType(ifType uint32, description string) string {
	switch {
	case ifType == typePPP:
		return "ppp"
	case ifType == typeTunnel:
		return "sit"
	case strings.Contains(description, "WireGuard"):
		return "wireguard"
	case ifType == typePropVirtual, ifType == typePropPointToMany, strings.Contains(description, "TAP-Windows"), strings.Contains(description, "Wintun"):
		return "tun"
	}
	return ""
}
