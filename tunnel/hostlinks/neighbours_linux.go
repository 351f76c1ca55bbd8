package hostlinks

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"warren/internal/netdump"
)

// Neighbours gives the hosts that the kernel has heard of lately on the links other than the tunnel's: those to which it has the link-layer address.
func (r *Reader) Neighbours() ([]netip.Addr, error) {
	list, err := netdump.Whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("neighbours of this host: %w", err)
	}
	const known = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE
	var out []netip.Addr
	for _, n := range list {
		a, ok := netip.AddrFromSlice(n.IP)
		if ok && n.State&known != 0 && len(n.HardwareAddr) > 0 && !a.IsLinkLocalUnicast() && !a.IsMulticast() {
			out = append(out, a.Unmap())
		}
	}
	return out, nil
}
