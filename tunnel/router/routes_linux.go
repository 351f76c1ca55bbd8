package router

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"warren/internal/netdump"
)

// routeProtocol marks routes and rules as ours (rtnetlink(7)): those above 4 are for daemons to choose.
const routeProtocol = 0x57

var families = []int{unix.AF_INET, unix.AF_INET6}

// applyRoutes brings the table into line, and has the rules for each family that has routes in it.
func (r *Router) applyRoutes(s State) error {
	want := make(map[netip.Prefix]int)
	use := make(map[int]bool)
	for _, p := range s.Routes {
		want[p] = unix.RTN_UNICAST
		use[familyNumber(p.Addr())] = true
	}
	for _, p := range s.Local {
		if use[familyNumber(p.Addr())] {
			want[p] = unix.RTN_THROW
		}
	}
	have, err := ourRoutes(unix.AF_UNSPEC)
	if err != nil {
		return fmt.Errorf("interface %s: routes cannot be read: %w", r.name, err)
	}
	var errs []error
	for _, route := range have {
		p, ok := fromIPNet(route.Dst)
		if route.Type == unix.RTN_UNICAST && route.LinkIndex != r.link.Attrs().Index { // another agent's
			continue
		}
		if ok && want[p] == route.Type {
			delete(want, p)
			continue
		}
		if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("interface %s: route %s cannot be removed: %w", r.name, route.Dst, err))
		}
	}
	// What stays on the LAN comes first, lest it be in the tunnel for a moment.
	for _, kind := range []int{unix.RTN_THROW, unix.RTN_UNICAST} {
		for p, k := range want {
			if k == kind {
				errs = append(errs, r.addRoute(p, kind))
			}
		}
	}
	for _, family := range families {
		if use[family] {
			errs = append(errs, addRules(family))
		} else {
			errs = append(errs, removeRules(family))
		}
	}
	return errors.Join(errs...)
}

// addRoute never replaces: the kernel would take any route to the same prefix for the one to be replaced, whoever made it.
func (r *Router) addRoute(p netip.Prefix, kind int) error {
	route := &netlink.Route{Table: Table, Dst: netipx.PrefixIPNet(p), Protocol: routeProtocol, Type: kind, Scope: netlink.SCOPE_UNIVERSE}
	if kind == unix.RTN_UNICAST {
		route.LinkIndex = r.link.Attrs().Index
		if p.Addr().Is4() {
			route.Scope = netlink.SCOPE_LINK
		}
	}
	err := netlink.RouteAdd(route)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST):
		by, agent := holder(p)
		if agent && by != r.name {
			r.noteOnce("the route %s stays with %s, of another agent on this host", p, by)
			return nil
		}
		if by != "" {
			by = ", by " + by
		}
		return fmt.Errorf("interface %s: route %s cannot be set: table %d of this host has one already%s; remove that, or use another prefix", r.name, p, Table, by)
	}
	return fmt.Errorf("interface %s: route %s cannot be set: %w", r.name, p, err)
}

// holder is the interface that has a prefix's route in the table, if that can be found out, and whether another agent has set it.
func holder(p netip.Prefix) (name string, agent bool) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: Table, Dst: netipx.PrefixIPNet(p)}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	if err != nil || len(routes) == 0 {
		return "", false
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", false
	}
	return link.Attrs().Name, routes[0].Protocol == routeProtocol
}

// ourRoutes are those of the table that have our protocol number, of all agents.
func ourRoutes(family int) ([]netlink.Route, error) {
	return netdump.Whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{Table: Table, Protocol: routeProtocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	})
}

// rulesOf are the two rules: marked packets go by the main table and never by ours, even where the main one has no route for them; all others look
// into ours first.
func rulesOf(family int) []*netlink.Rule {
	own, all := netlink.NewRule(), netlink.NewRule()
	own.Priority, own.Mark, own.Table = MarkPriority, Mark, unix.RT_TABLE_MAIN
	all.Priority, all.Mark, all.Table, all.Invert = TablePriority, Mark, Table, true
	for _, r := range []*netlink.Rule{own, all} {
		r.Family, r.Protocol = family, routeProtocol
	}
	return []*netlink.Rule{own, all}
}

func addRules(family int) error {
	for _, rule := range rulesOf(family) {
		if err := netlink.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("rule %d to table %d cannot be set: %w", rule.Priority, rule.Table, err)
		}
	}
	return nil
}

// removeRules removes the rules and what is left in the table, unless another agent has routes in it.
func removeRules(family int) error {
	left, err := ourRoutes(family)
	if noFamily(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("routes of table %d cannot be read: %w", Table, err)
	}
	for _, route := range left {
		if route.Type == unix.RTN_UNICAST {
			return nil
		}
	}
	var errs []error
	for _, route := range left {
		if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("route %s of table %d cannot be removed: %w", route.Dst, Table, err))
		}
	}
	for _, rule := range rulesOf(family) {
		err := netlink.RuleDel(rule)
		if err != nil && !errors.Is(err, unix.ENOENT) && !noFamily(err) {
			errs = append(errs, fmt.Errorf("rule %d to table %d cannot be removed: %w", rule.Priority, rule.Table, err))
		}
	}
	return errors.Join(errs...)
}

// noFamily reports whether the kernel does not have the family at all.
func noFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

func familyNumber(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
