package domain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"warren/proto/cidr"
)

// MaxRulings bounds what administrators may say of one device's routes.
const MaxRulings = 4096

// Errors about routes.
var (
	ErrRoute        = errors.New("route cannot be had")
	ErrRouteUnknown = errors.New("no such route")
)

// Advertised is a CIDR that a device offers to carry.
type Advertised struct {
	cidr.Route
	// Priority is 1 to 255. Of several gateways with one CIDR the highest one that works is used.
	Priority uint8
}

// Ruling says whether a device may carry a CIDR.
type Ruling struct {
	Prefix   netip.Prefix
	Approved bool
	// Policy says that the policy's autoApprovers approved it, which can do no more than that. Otherwise the administrator By ruled.
	Policy bool
	By     string
	At     time.Time
}

// RouteState is how things stand with a CIDR of a device.
type RouteState struct {
	Prefix netip.Prefix
	// Advertised is nil if the device does not offer it now, Ruling if nobody has ruled.
	Advertised *Advertised
	Ruling     *Ruling
}

// Approved says that the device may carry it, as soon as it advertises it.
func (r RouteState) Approved() bool { return r.Ruling != nil && r.Ruling.Approved }

// Revoked says that an administrator does not want the device to carry it.
func (r RouteState) Revoked() bool { return r.Ruling != nil && !r.Ruling.Approved }

// RouteStates lists what d advertises or somebody ruled on, in order of prefixes.
func (d *Device) RouteStates() []RouteState {
	var out []RouteState
	for i := range d.Advertised {
		a := &d.Advertised[i]
		out = append(out, RouteState{Prefix: a.Prefix, Advertised: a, Ruling: d.ruling(a.Prefix)})
	}
	for i := range d.Rulings {
		if r := &d.Rulings[i]; d.advertised(r.Prefix) == nil {
			out = append(out, RouteState{Prefix: r.Prefix, Ruling: r})
		}
	}
	slices.SortFunc(out, func(a, b RouteState) int { return a.Prefix.Compare(b.Prefix) })
	return out
}

// WaitingRoutes are those that d advertises and may not carry, in order.
func (d *Device) WaitingRoutes() (out []netip.Prefix) {
	for _, a := range d.Advertised {
		if r := d.ruling(a.Prefix); r == nil || !r.Approved {
			out = append(out, a.Prefix)
		}
	}
	return out
}

// Priority is that with which d carries p, which is one of its Routes; 0: it does not.
func (d *Device) Priority(p netip.Prefix) uint8 {
	if a := d.advertised(p); a != nil {
		return a.Priority
	}
	return 0
}

// Offers reports whether d advertises p.
func (d *Device) Offers(p netip.Prefix) bool { return d.advertised(p) != nil }

func (d *Device) advertised(p netip.Prefix) *Advertised {
	i, ok := slices.BinarySearchFunc(d.Advertised, p, func(a Advertised, p netip.Prefix) int { return a.Prefix.Compare(p) })
	if !ok {
		return nil
	}
	return &d.Advertised[i]
}

func (d *Device) ruling(p netip.Prefix) *Ruling {
	i, ok := slices.BinarySearchFunc(d.Rulings, p, compareRuling)
	if !ok {
		return nil
	}
	return &d.Rulings[i]
}

func compareRuling(r Ruling, p netip.Prefix) int { return r.Prefix.Compare(p) }

// advertise makes the state in which d offers all of list, and nothing else. What the policy says of it, Settle finds out.
func advertise(n *Network, d *Device, list []Advertised) (*Device, error) {
	if d.Removed {
		return nil, ErrRemoved
	}
	var routes []cidr.Route
	for _, a := range list {
		if a.Priority == 0 {
			return nil, fmt.Errorf("%w: %s has priority 0; give 1 to 255", ErrRoute, a.Prefix)
		}
		routes = append(routes, a.Route)
	}
	if err := cidr.CheckAll(routes, n.Prefixes); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRoute, err)
	}
	list = slices.SortedFunc(slices.Values(list), func(a, b Advertised) int { return a.Prefix.Compare(b.Prefix) })
	if slices.Equal(list, d.Advertised) {
		return d, nil
	}
	next := *d
	next.Advertised = list
	return &next, nil
}

// RuleRoutes has an administrator approve or revoke CIDRs of d; MeantRoutes are those of who names none. What is as it is asked for stays so, with its
// former author. Settle is to follow.
func RuleRoutes(n *Network, d *Device, prefixes []netip.Prefix, approved bool, by string, now time.Time) (*Device, error) {
	if d.Removed {
		return nil, ErrRemoved
	}
	if len(prefixes) == 0 {
		return nil, errNoRoutes(d, approved)
	}
	next := *d
	next.Rulings = slices.Clone(d.Rulings)
	for _, p := range prefixes {
		if err := d.checkRuling(n, p, approved); err != nil {
			return nil, err
		}
		i, known := slices.BinarySearchFunc(next.Rulings, p, compareRuling)
		switch r := (Ruling{Prefix: p, Approved: approved, By: by, At: now}); {
		case !known:
			next.Rulings = slices.Insert(next.Rulings, i, r)
		case next.Rulings[i].Approved != approved || next.Rulings[i].Policy:
			next.Rulings[i] = r
		}
	}
	if len(next.Rulings) > MaxRulings {
		return nil, fmt.Errorf("%w: that makes %d approvals and revocations for %s, more than %d; let it join anew", ErrRoute, len(next.Rulings),
			d.Name, MaxRulings)
	}
	return &next, nil
}

func errNoRoutes(d *Device, approved bool) error {
	if !approved {
		return fmt.Errorf("%w: %s advertises nothing, and nothing is approved for it", ErrRouteUnknown, d.Name)
	}
	return fmt.Errorf("%w: %s advertises nothing that waits; run \"warren up --advertise CIDR\" there, or name the CIDR that it is to carry",
		ErrRouteUnknown, d.Name)
}

// MeantRoutes are the CIDRs that an administrator means who names none: to approve, what d advertises, unless somebody revoked it; to revoke, what
// it advertises or may carry.
func (d *Device) MeantRoutes(approve bool) (out []netip.Prefix) {
	for _, r := range d.RouteStates() {
		if approve && r.Advertised != nil && !r.Revoked() || !approve && (r.Advertised != nil || r.Approved()) {
			out = append(out, r.Prefix)
		}
	}
	return out
}

// checkRuling accepts a CIDR that an administrator names.
func (d *Device) checkRuling(n *Network, p netip.Prefix, approve bool) error {
	a := d.advertised(p)
	switch {
	case a != nil || d.ruling(p) != nil:
		return nil
	case !approve:
		return fmt.Errorf("%w: %s neither advertises %s nor may carry it; \"route list\" shows what it does", ErrRouteUnknown, d.Name, p)
	}
	r := cidr.Route{Kind: cidr.Site, Prefix: p, LAN: p}
	if p.Bits() == 0 {
		r.Kind = cidr.Exit
	}
	if err := cidr.CheckAll([]cidr.Route{r}, n.Prefixes); err != nil {
		return fmt.Errorf("%w: %w", ErrRoute, err)
	}
	return nil
}

// Settle brings next, which is to follow old, into line with what the policy approves and the rulings say: Routes are those that it advertises and
// that are approved. Rulings of the policy are there for what is advertised only, and never instead of a person's. If what peers see differs
// from old, the version grows. old is nil for a new device. approves is asked about what next advertises only, and may be nil if that is nothing.
func Settle(n *Network, old, next *Device, approves func(netip.Prefix) bool, now time.Time) *Device {
	if next.Removed {
		return next
	}
	d := *next
	d.Rulings = next.settledRulings(approves, now)
	d.Routes = nil
	for _, a := range d.Advertised {
		if r := d.ruling(a.Prefix); r != nil && r.Approved {
			d.Routes = append(d.Routes, a.Prefix)
		}
	}
	if slices.Equal(d.Rulings, next.Rulings) && slices.Equal(d.Routes, next.Routes) && (old == nil || d.carriesAs(old)) {
		return next
	}
	if old != nil && d.Version == old.Version && !d.carriesAs(old) {
		d.bump(n)
	}
	return &d
}

func (d *Device) settledRulings(approves func(netip.Prefix) bool, now time.Time) (out []Ruling) {
	for _, r := range d.Rulings {
		if !r.Policy || d.advertised(r.Prefix) != nil && approves(r.Prefix) {
			out = append(out, r)
		}
	}
	kept := Device{Rulings: out}
	for _, a := range d.Advertised {
		if kept.ruling(a.Prefix) == nil && approves(a.Prefix) {
			out = append(out, Ruling{Prefix: a.Prefix, Approved: true, Policy: true, At: now})
		}
	}
	slices.SortFunc(out, func(a, b Ruling) int { return a.Prefix.Compare(b.Prefix) })
	return out
}

// carriesAs reports whether d carries what old did, as it did.
func (d *Device) carriesAs(old *Device) bool {
	return slices.EqualFunc(d.Routes, old.Routes, func(p, q netip.Prefix) bool { return p == q && d.Priority(p) == old.Priority(q) })
}
