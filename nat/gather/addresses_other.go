//go:build !linux && !darwin && !windows

package gather

import "net/netip"

// describeLinks knows nothing on this system yet: there the point-to-point flag alone tells VPNs.
func describeLinks() map[int]link { return nil }

func defaultRoutes() (none ways) { return none }

func routesByLink() (none ways, prefixes map[int][]netip.Prefix) { return none, nil }
