package routeplan

import (
	"net/netip"
	"slices"
)

// Shown says that a connected network is the site that a route leads to.
type Shown struct {
	Route      netip.Prefix
	Network    netip.Prefix
	Interface  string
	Generation uint64 // of the link
}

// Evidence is a verified direct path to a gateway of a route: one whose checks were answered with the gateway's own integrity.
type Evidence struct {
	Route netip.Prefix
	// Remote is where the gateway was reached, Seen is where it saw the check come from, as its answer says.
	Remote, Seen netip.Addr
}

// Sites remembers which networks were shown to be a site, for as long as the host stays connected to them. Once a network has won, there may be
// no more traffic through the tunnel to show it again. The zero value knows nothing. It is to be told of links before a plan is made.
type Sites struct{ shown []Shown }

// maxShown bounds what is remembered.
const maxShown = 4096

// SetLinks gives the host's links. What was shown of those that are no more, or are another generation, is forgotten.
func (s *Sites) SetLinks(links []Link) {
	s.shown = slices.DeleteFunc(s.shown, func(n Shown) bool {
		return !slices.ContainsFunc(links, func(l Link) bool {
			return l.Interface == n.Interface && l.Generation == n.Generation &&
				slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Masked() == n.Network })
		})
	})
}

// Saw takes evidence, and reports whether it has shown something new.
func (s *Sites) Saw(links []Link, e Evidence) (news bool) {
	remote, seen := e.Remote.Unmap().WithZone(""), e.Seen.Unmap().WithZone("")
	for _, l := range links {
		for _, p := range l.Prefixes {
			n := Shown{e.Route, p.Masked(), l.Interface, l.Generation}
			// Link-local addresses are the same everywhere, and tell no site.
			if !p.Contains(remote) || !p.Contains(seen) || remote == seen || remote.IsLinkLocalUnicast() ||
				slices.Contains(s.shown, n) || len(s.shown) >= maxShown {
				continue
			}
			s.shown, news = append(s.shown, n), true
		}
	}
	return news
}

// Shown gives all that was shown.
func (s *Sites) Shown() []Shown { return slices.Clone(s.shown) }
