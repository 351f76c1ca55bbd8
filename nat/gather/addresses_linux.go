package gather

import "github.com/vishvananda/netlink"

// describeLinks asks the kernel about all interfaces, by index. What it does not tell is left out.
func describeLinks() map[int]link {
	out := map[int]link{}
	links, _ := netlink.LinkList() // an interrupted dump gives what it has
	for _, l := range links {
		kind := l.Type()
		switch kind { // the library has words of its own
		case "device":
			kind = ""
		case "tuntap":
			kind = "tun"
		}
		out[l.Attrs().Index] = link{kind: kind}
	}
	routes, _ := netlink.RouteList(nil, netlink.FAMILY_ALL) // the main table: VPNs that take everything use others, or two halves
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		indices := []int{r.LinkIndex}
		for _, hop := range r.MultiPath {
			indices = append(indices, hop.LinkIndex)
		}
		for _, i := range indices {
			if l, ok := out[i]; ok {
				l.uplink = true
				out[i] = l
			}
		}
	}
	return out
}
