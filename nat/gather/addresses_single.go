//go:build darwin || windows

package gather

import (
	"net/netip"

	"warren/internal/hostroutes"
)

// table reads the host's routes; what cannot be read is as if there were none.
func table() []hostroutes.Route {
	t, _ := hostroutes.Read()
	return t
}

// describeLinks tells of all interfaces what their names and types say.
func describeLinks() map[int]link { return linksOf(kinds(), waysOf(table())) }

func defaultRoutes() ways { return waysOf(table()) }

// routesByLink gives the default routes, and the prefixes of all routes by interface.
func routesByLink() (ways, map[int][]netip.Prefix) {
	t := table()
	return waysOf(t), prefixesByLink(t)
}
