package netmon

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"warren/internal/hostroutes"
)

// describe lists the addresses and routes that packets may take, in order. Link-local addresses are no candidates, and the entries of neighbour caches no
// routes: they come and go by themselves.
func describe(interfaces []hostroutes.Interface, table []hostroutes.Route, ignore string) string {
	var out []string
	tunnel := 0
	for _, i := range interfaces {
		if i.Name == ignore {
			tunnel = i.Index
			continue
		}
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		for _, p := range i.Prefixes {
			if !p.Addr().IsLinkLocalUnicast() {
				out = append(out, fmt.Sprintf("address %s on %d", p, i.Index))
			}
		}
	}
	for _, r := range table {
		if r.Interface != tunnel && !r.Own && !r.Prefix.Addr().IsLinkLocalUnicast() && !r.Prefix.Addr().IsMulticast() {
			out = append(out, fmt.Sprintf("route %s by %s on %d", r.Prefix, r.Gateway, r.Interface))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
