package router

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// routeProtocol marks routes as ours (rtnetlink(7)): those above 4 are for daemons to choose.
const routeProtocol = 0x57

const tunFile = "/dev/net/tun"

// What IPv4 asks of every host (RFC 791), and what fits into a packet's length.
const minMTU, maxMTU = 576, 65535

// dumpTries is how often a netlink dump is repeated that a change has interrupted.
const dumpTries = 5

type platform struct {
	link netlink.Link
	// noIPv6 says that the host has IPv6 switched off, which was reported once.
	noIPv6 bool
}

// Open makes the interface. It is up, without addresses.
func Open(cfg Config) (*Router, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := errors.Join(CheckName(cfg.Name), checkMTU(cfg.MTU)); err != nil {
		return nil, err
	}
	if _, err := net.InterfaceByName(cfg.Name); err == nil { // it may be somebody else's
		return nil, fmt.Errorf("%w: %s; choose another with --tun", ErrNameInUse, cfg.Name)
	}
	t, err := tun.CreateTUN(cfg.Name, cfg.MTU)
	if err != nil {
		return nil, explain(cfg.Name, err)
	}
	r := &Router{cfg: cfg, tun: t}
	if r.name, err = t.Name(); err == nil {
		r.link, err = netlink.LinkByName(r.name)
	}
	if err == nil {
		err = netlink.LinkSetUp(r.link)
	}
	if err != nil {
		t.Close()
		return nil, explain(cfg.Name, err)
	}
	return r, nil
}

// CheckName refuses what the kernel takes for no name, or for a pattern of names.
func CheckName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || slices.ContainsFunc([]byte(name), func(c byte) bool { return c <= ' ' || c == '/' || c == ':' || c == '%' }) {
		return fmt.Errorf("interface name %q: a name has 1 to %d characters, no spaces, slashes, colons or percent signs", name, unix.IFNAMSIZ-1)
	}
	return nil
}

// checkMTU spares an attempt that would leave an interface behind: the TUN library does not close it when its MTU is refused.
func checkMTU(mtu int) error {
	if mtu < minMTU || mtu > maxMTU {
		return fmt.Errorf("MTU %d: an MTU is %d to %d bytes", mtu, minMTU, maxMTU)
	}
	return nil
}

// explain says what a person can do.
func explain(name string, err error) error {
	_, missing := os.Stat(tunFile)
	if errors.Is(missing, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("%w: %s is missing or has no driver; load the module with \"modprobe tun\", or give the container that device", ErrNoTUN, tunFile)
	}
	if errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %s may not be opened; run as root, or let this user read and write that file", ErrPermission, tunFile)
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: %s; run as root, or give the program CAP_NET_ADMIN", ErrPermission, name)
	}
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: %s; choose another with --tun", ErrNameInUse, name)
	}
	return fmt.Errorf("interface %s: %w", name, err)
}

// Apply brings the host into line with s. It changes only what differs, and does all it can: one error does not keep it from the rest.
// Routes of others stay as they are, also where s wants the same.
func (r *Router) Apply(s State) error {
	return errors.Join(r.applyMTU(s.MTU), r.applyAddresses(r.usable(s.Addresses)), r.applyRoutes(r.usable(s.Routes)))
}

func (r *Router) applyMTU(mtu int) error {
	if mtu == 0 || mtu == r.link.Attrs().MTU {
		return nil
	}
	if err := checkMTU(mtu); err != nil {
		return fmt.Errorf("interface %s: %w", r.name, err)
	}
	if err := netlink.LinkSetMTU(r.link, mtu); err != nil {
		return fmt.Errorf("interface %s: MTU %d: %w", r.name, mtu, err)
	}
	r.link.Attrs().MTU = mtu
	return nil
}

// usable leaves IPv6 out where the host has it switched off.
func (r *Router) usable(in []netip.Prefix) []netip.Prefix {
	off := ipv6Off(r.name)
	if off && !r.noIPv6 {
		r.cfg.Log.Warn("IPv6 is switched off on this host; the tunnel has IPv4 only")
	}
	r.noIPv6 = off
	return slices.DeleteFunc(slices.Clone(in), func(p netip.Prefix) bool { return off && p.Addr().Is6() })
}

func ipv6Off(name string) bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
	return err != nil || (len(b) > 0 && b[0] != '0')
}

func (r *Router) applyAddresses(want []netip.Prefix) error {
	have, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(r.link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("interface %s: addresses cannot be read: %w", r.name, err)
	}
	var there []netip.Prefix
	var errs []error
	for _, a := range have {
		p, ok := fromIPNet(a.IPNet)
		if !ok || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if slices.Contains(want, p) {
			there = append(there, p)
			continue
		}
		if err := netlink.AddrDel(r.link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("interface %s: address %s cannot be removed: %w", r.name, p, err))
		}
	}
	for _, p := range want {
		if slices.Contains(there, p) {
			continue
		}
		// Duplicate address detection makes no sense on a tunnel, and would keep the address from being used for a second.
		a := &netlink.Addr{IPNet: toIPNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(r.link, a); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: address %s cannot be set: %w", r.name, p, err))
		}
	}
	return errors.Join(errs...)
}

func (r *Router) applyRoutes(want []netip.Prefix) error {
	filter := &netlink.Route{LinkIndex: r.link.Attrs().Index, Protocol: routeProtocol}
	have, err := dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return fmt.Errorf("interface %s: routes cannot be read: %w", r.name, err)
	}
	var there []netip.Prefix
	var errs []error
	for _, route := range have {
		p, ok := fromIPNet(route.Dst)
		if ok && slices.Contains(want, p) {
			there = append(there, p)
			continue
		}
		if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("interface %s: route %s cannot be removed: %w", r.name, route.Dst, err))
		}
	}
	for _, p := range want {
		if !slices.Contains(there, p) {
			errs = append(errs, r.addRoute(p))
		}
	}
	return errors.Join(errs...)
}

// addRoute never replaces: the kernel would take any route to the same prefix for the one to be replaced, whoever made it.
func (r *Router) addRoute(p netip.Prefix) error {
	route := &netlink.Route{LinkIndex: r.link.Attrs().Index, Dst: toIPNet(p), Protocol: routeProtocol, Scope: netlink.SCOPE_LINK}
	if p.Addr().Is6() {
		route.Scope = netlink.SCOPE_UNIVERSE
	}
	err := netlink.RouteAdd(route)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("interface %s: route %s cannot be set: this host has one already%s; remove that, or use another prefix", r.name, p, byInterface(p))
	}
	return fmt.Errorf("interface %s: route %s cannot be set: %w", r.name, p, err)
}

// byInterface says by which interface a prefix is routed, if that can be found out.
func byInterface(p netip.Prefix) string {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Dst: toIPNet(p)}, netlink.RT_FILTER_DST)
	if err != nil || len(routes) == 0 {
		return ""
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return ""
	}
	return ", by " + link.Attrs().Name
}

// Close removes the interface, and with it its addresses and routes.
func (r *Router) Close() error {
	if err := r.tun.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("interface %s: %w", r.name, err)
	}
	return nil
}

// dump repeats a netlink dump that was interrupted by a change.
func dump[T any](list func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func fromIPNet(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, ones), a.BitLen() == bits
}
