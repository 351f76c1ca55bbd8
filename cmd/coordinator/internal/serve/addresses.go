package serve

import (
	"fmt"
	"net/netip"
	"slices"

	"warren/nat/gather"
)

// ownAddresses are those of this host at which others may reach it. Those of VPNs are left out, of which one may be this very network's, where the
// host is a device: others reach that only once they are members. If there are no others they have to do.
func ownAddresses() ([]netip.Addr, error) {
	own, err := gather.CandidateAddresses("")
	if err == nil && !slices.ContainsFunc(own, netip.Addr.IsGlobalUnicast) {
		own, err = gather.HostAddresses("")
	}
	if err != nil {
		return nil, fmt.Errorf("the host's addresses cannot be read: %w", err)
	}
	return own, nil
}
