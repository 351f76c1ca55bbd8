package onetable

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"warren/internal/hostroutes"
)

// System is what a Host asks of the operating system. Errors of AddRoute that say that the prefix is taken wrap ErrTaken, those of RemoveRoute and
// RemoveAddress that say that nothing is there ErrGone.
type System interface {
	// Addresses are those of the tunnel's interface, link-local ones too.
	Addresses() ([]netip.Prefix, error)
	AddAddress(netip.Prefix) error
	RemoveAddress(netip.Prefix) error
	SetMTU(int) error
	// Table is the whole routing table.
	Table() ([]hostroutes.Route, error)
	Router
}

// Router changes routes. Those that have no gateway lead to the interface's link.
type Router interface {
	AddRoute(hostroutes.Route) error
	RemoveRoute(hostroutes.Route) error
}

// Errors that Systems give.
var (
	ErrTaken = errors.New("the table has a route for it already")
	ErrGone  = errors.New("not there")
)

// State is how interface and table should look.
type State struct {
	Addresses []netip.Prefix
	// MTU in bytes; 0 leaves it.
	MTU int
	// Routes lead into the tunnel but for what is in Local.
	Routes, Local []netip.Prefix
}

// Host keeps one tunnel's interface and its routes. Its methods may be called at once.
type Host struct {
	mu      sync.Mutex
	system  System
	tunnel  int
	mtu     int
	journal *journal
	// last is what was asked for. The system has routes of its own to the addresses.
	last State
}

// NewHost makes one for the interface with index tunnel, which has that MTU in bytes. What outlives the process goes into the journal at path, if that is
// not empty; boot tells this start of the system from others.
func NewHost(system System, tunnel, mtu int, path, boot string) *Host {
	return &Host{system: system, tunnel: tunnel, mtu: mtu, journal: &journal{path: path, boot: boot}}
}

// Apply brings the host into line with s. It changes only what differs, and does all that it can.
func (h *Host) Apply(s State) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = s
	return errors.Join(h.applyMTU(s.MTU), h.applyAddresses(s.Addresses), h.applyRoutes(s))
}

func (h *Host) applyMTU(mtu int) error {
	if mtu == 0 || mtu == h.mtu {
		return nil
	}
	if err := h.system.SetMTU(mtu); err != nil {
		return fmt.Errorf("MTU %d: %w", mtu, err)
	}
	h.mtu = mtu
	return nil
}

func (h *Host) applyAddresses(want []netip.Prefix) error {
	have, err := h.system.Addresses()
	if err != nil {
		return fmt.Errorf("addresses cannot be read: %w", err)
	}
	var errs []error
	for _, p := range have {
		if p.Addr().IsLinkLocalUnicast() || slices.Contains(want, p) {
			continue
		}
		if err := h.system.RemoveAddress(p); err != nil && !errors.Is(err, ErrGone) {
			errs = append(errs, fmt.Errorf("address %s cannot be removed: %w", p, err))
		}
	}
	for _, p := range want {
		if slices.Contains(have, p) {
			continue
		}
		if err := h.system.AddAddress(p); err != nil {
			errs = append(errs, fmt.Errorf("address %s cannot be set: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

func (h *Host) applyRoutes(s State) error {
	table, err := h.system.Table()
	if err != nil {
		return fmt.Errorf("routes cannot be read: %w", err)
	}
	have, others := h.split(table)
	want := Plan(h.tunnel, s.Routes, s.Local, others)
	// What stays outside comes first, lest it be in the tunnel for a moment.
	slices.SortStableFunc(want, func(a, b hostroutes.Route) int { return h.rank(a) - h.rank(b) })
	if err := h.journal.save(h.outside(slices.Concat(have, want))); err != nil {
		want = slices.DeleteFunc(want, func(r hostroutes.Route) bool { return r.Interface != h.tunnel })
		return errors.Join(err, h.change(have, want))
	}
	if err := h.change(have, want); err != nil {
		return err // the journal goes on naming what may be left
	}
	return h.journal.save(h.outside(want))
}

// Stale reports whether the table is no longer as the last State asks: somebody has changed it, or the way past the tunnel is another one.
func (h *Host) Stale() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	table, err := h.system.Table()
	if err != nil {
		return false
	}
	have, others := h.split(table)
	want := Plan(h.tunnel, h.last.Routes, h.last.Local, others)
	missing := func(list []hostroutes.Route) func(hostroutes.Route) bool {
		return func(r hostroutes.Route) bool { return !slices.Contains(list, r) }
	}
	return slices.ContainsFunc(have, missing(want)) || slices.ContainsFunc(want, missing(have))
}

// split tells our routes from all others: those into the tunnel, but for the system's to its addresses, and those that the journal names.
func (h *Host) split(table []hostroutes.Route) (ours, others []hostroutes.Route) {
	for _, r := range table {
		switch {
		case r.Interface == h.tunnel && (!isWay(r) || slices.Contains(h.last.Addresses, r.Prefix)):
		case r.Interface == h.tunnel, slices.Contains(h.journal.routes, plain(r)):
			ours = append(ours, plain(r))
		default:
			others = append(others, r)
		}
	}
	return ours, others
}

// plain is a route as Plan gives it.
func plain(r hostroutes.Route) hostroutes.Route {
	return hostroutes.Route{Prefix: r.Prefix, Gateway: r.Gateway, Interface: r.Interface}
}

func (h *Host) rank(r hostroutes.Route) int {
	if r.Interface == h.tunnel {
		return 1
	}
	return 0
}

// outside are those that the interface's end does not take along.
func (h *Host) outside(list []hostroutes.Route) (out []hostroutes.Route) {
	for _, r := range list {
		if r.Interface != h.tunnel && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

func (h *Host) change(have, want []hostroutes.Route) error {
	var errs []error
	for _, r := range have {
		if slices.Contains(want, r) {
			continue
		}
		if err := h.system.RemoveRoute(r); err != nil && !errors.Is(err, ErrGone) {
			errs = append(errs, fmt.Errorf("route %s cannot be removed: %w", r.Prefix, err))
		}
	}
	for _, r := range want {
		if slices.Contains(have, r) {
			continue
		}
		switch err := h.system.AddRoute(r); {
		case err == nil:
		case errors.Is(err, ErrTaken) && r.Prefix.IsSingleIP() && r.Interface != h.tunnel: // an entry of the neighbour cache does as well
		case errors.Is(err, ErrTaken):
			errs = append(errs, fmt.Errorf("route %s cannot be set: %w; remove that, or use another prefix", r.Prefix, err))
		default:
			errs = append(errs, fmt.Errorf("route %s cannot be set: %w", r.Prefix, err))
		}
	}
	return errors.Join(errs...)
}

// Close takes back what the interface's end does not.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = State{}
	return h.journal.takeBack(h.system)
}

// CleanUp takes back what a process that was killed has left by the journal at that path, and says in words what it did.
func CleanUp(system Router, path, boot string) ([]string, error) {
	j, err := readJournal(path, boot)
	if j == nil || err != nil {
		return nil, err
	}
	n := len(j.routes)
	if err := j.takeBack(system); err != nil || n == 0 {
		return nil, err
	}
	return []string{fmt.Sprintf("removed %d routes past the tunnel", n)}, nil
}
