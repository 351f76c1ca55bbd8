package server

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"warren/coord/domain"
	"warren/coord/policy"
	"warren/coord/policy/compile"
	"warren/coord/store"
	"warren/proto/cidr"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// policyName stands for the policy's autoApprovers where an administrator's name would be.
const policyName = "policy"

// advertisedFrom reads what a device offers to carry. Whether it may be, the domain says.
func advertisedFrom(m *pb.Advertise) ([]domain.Advertised, error) {
	if n := len(m.GetRoutes()); n > cidr.MaxRoutes {
		return nil, fmt.Errorf("%d CIDRs are advertised, more than %d", n, cidr.MaxRoutes)
	}
	var out []domain.Advertised
	for _, r := range m.GetRoutes() {
		a, err := advertisedRoute(r)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func advertisedRoute(m *pb.AdvertisedRoute) (a domain.Advertised, err error) {
	if a.Prefix, err = record.PrefixFromProto(m.GetPrefix()); err != nil {
		return a, fmt.Errorf("advertised: %w", err)
	}
	a.LAN, a.Kind = a.Prefix, cidr.Masqueraded
	switch {
	case m.GetPriority() > 255:
		return a, fmt.Errorf("%s has priority %d; give 1 to 255", a.Prefix, m.GetPriority())
	case m.GetLan() != nil && m.GetSite():
		return a, fmt.Errorf("%s cannot be translated and keep its addresses", a.Prefix)
	case m.GetLan() != nil:
		a.Kind = cidr.Translated
		if a.LAN, err = record.PrefixFromProto(m.GetLan()); err != nil {
			return a, fmt.Errorf("LAN of %s: %w", a.Prefix, err)
		}
	case a.Prefix.Bits() == 0:
		a.Kind = cidr.Exit
	case m.GetSite():
		a.Kind = cidr.Site
	}
	if a.Priority = uint8(m.GetPriority()); a.Priority == 0 {
		a.Priority = record.DefaultPriority
	}
	return a, nil
}

// settle brings the routes of d, which is to follow old, into line with the policy that is in force after the batch.
func (b *batch) settle(old *store.Device, d *domain.Device) *domain.Device {
	var before *domain.Device
	if old != nil {
		before = &old.Device
	}
	var approves func(netip.Prefix) bool
	if len(d.Advertised) > 0 { // else nothing is asked
		approves = b.approvers().Approves(compiledDevice(d))
	}
	return domain.Settle(&b.s.network, before, d, approves, b.s.cfg.Now())
}

// approvers answers by the policy that is in force after the batch. It changes with commits only, of which this is one.
func (b *batch) approvers() *compile.Compiler {
	if b.asked == nil {
		b.s.hub.mu.Lock()
		b.asked = b.s.hub.access.compiled
		b.s.hub.mu.Unlock()
		if b.policy != nil {
			b.asked = b.asked.Under(b.policy)
		}
	}
	return b.asked
}

// settleAll is for another policy: it may approve what waits, and approve no more what the one before did.
func (b *batch) settleAll() error {
	if b.policy == nil {
		return nil
	}
	for _, k := range b.s.hub.advertisers() {
		d, err := b.device(k)
		if err != nil {
			return err
		}
		if d == nil || b.settle(&store.Device{Device: *d}, d) == d {
			continue
		}
		if err := b.put(d); err != nil {
			return err
		}
	}
	return nil
}

// RouteChange is what another policy would do to a route.
type RouteChange struct {
	Device   string
	Prefix   netip.Prefix
	Approves bool // or takes back
}

// String is for a person.
func (c RouteChange) String() string {
	verb := "takes back"
	if c.Approves {
		verb = "approves"
	}
	return fmt.Sprintf("%s %s for %s", verb, c.Prefix, c.Device)
}

// directoryUnder is the network as it would be under p, and what p would do to its routes, in order of the devices' names.
func (h *hub) directoryUnder(p *policy.Policy) (dir compile.Directory, changes []RouteChange) {
	h.mu.Lock()
	defer h.mu.Unlock()
	dir = h.s.emptyDirectory()
	asked, now := h.access.compiled.Under(p), h.s.cfg.Now()
	for _, d := range h.devices {
		if !d.Visible() {
			continue
		}
		as := compiledDevice(&d.Device)
		if len(d.Advertised) > 0 {
			next := domain.Settle(&h.s.network, &d.Device, &d.Device, asked.Approves(as), now)
			for _, a := range d.Advertised {
				was, is := slices.Contains(d.Routes, a.Prefix), slices.Contains(next.Routes, a.Prefix)
				if was != is {
					changes = append(changes, RouteChange{d.Name, a.Prefix, is})
				}
			}
			as.Routes = next.Routes
		}
		dir.Devices = append(dir.Devices, as)
	}
	slices.SortFunc(changes, func(a, b RouteChange) int {
		return cmp.Or(strings.Compare(a.Device, b.Device), a.Prefix.Compare(b.Prefix))
	})
	return dir, changes
}

// ruled is a change of what a device may carry, for the log.
type ruled struct {
	device string
	prefix netip.Prefix
	state  string
	by     string
}

// noteRulings keeps what the rulings on next say that those on old did not.
func (b *batch) noteRulings(old *store.Device, next *domain.Device) {
	was := map[netip.Prefix]domain.Ruling{}
	if old != nil {
		for _, r := range old.Rulings {
			was[r.Prefix] = r
		}
	}
	for _, r := range next.Rulings {
		before := was[r.Prefix]
		delete(was, r.Prefix)
		if r != before {
			b.rulings = append(b.rulings, ruled{next.Name, r.Prefix, stateOf(&r), byOf(&r)})
		}
	}
	if old == nil || next.Removed {
		return
	}
	for _, r := range old.Rulings {
		if _, gone := was[r.Prefix]; gone && next.Offers(r.Prefix) {
			b.rulings = append(b.rulings, ruled{next.Name, r.Prefix, stateWaiting, policyName})
		}
	}
}

// The states of a route.
const (
	stateWaiting  = "waiting"
	stateApproved = "approved"
	stateRevoked  = "revoked"
)

func stateOf(r *domain.Ruling) string {
	switch {
	case r == nil:
		return stateWaiting
	case r.Approved:
		return stateApproved
	}
	return stateRevoked
}

func byOf(r *domain.Ruling) string {
	switch {
	case r == nil:
		return ""
	case r.Policy:
		return policyName
	}
	return r.By
}

// logRulings tells the log what a committed batch changed.
func (b *batch) logRulings() {
	for _, r := range b.rulings {
		b.s.log.Info("route "+r.state, "device", r.device, "route", r.prefix, "by", r.by)
	}
}

// routeMessage is one route of a device, for administrators.
func (s *Server) routeMessage(d *domain.Device, r domain.RouteState, online bool) *pb.Route {
	m := &pb.Route{
		Device: d.Name, DeviceKey: d.Key.Bytes(), Prefix: record.PrefixToProto(r.Prefix),
		State: stateOf(r.Ruling), By: byOf(r.Ruling), Exit: r.Prefix.Bits() == 0, Online: online,
	}
	if r.Approved() && r.Advertised != nil {
		m.Granted, m.Named = s.hub.used(d.Key, r.Prefix)
	}
	if r.Ruling != nil {
		m.At = timestamp(r.Ruling.At.Truncate(time.Second))
	}
	if a := r.Advertised; a != nil {
		m.Advertised, m.Site, m.Priority = true, a.Kind == cidr.Site, uint32(a.Priority)
		if a.Kind == cidr.Translated {
			m.Lan = record.PrefixToProto(a.LAN)
		}
	}
	return m
}
