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
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"warren/internal/netdump"
)

// What IPv4 asks of every host (RFC 791), and what fits into a packet's length.
const minMTU, maxMTU = 576, 65535

// maxNotes bounds what Notes returns.
const maxNotes = 100

type platform struct {
	link netlink.Link
	// noIPv6 says that the host has IPv6 switched off, which was reported once.
	noIPv6 bool
	// noSocketMatch says that the kernel has no nft_socket.
	noSocketMatch bool
	// canMark tries whether sockets may be marked.
	canMark func() error
	// forwarders are where questions for names go.
	forwarders []netip.Addr
	// firewall and killSwitch are the tables as they were loaded last; the others say, to Watch, that they have to be there.
	firewall, killSwitch       string
	hasFirewall, hasKillSwitch atomic.Bool
	journal                    *journal
	notes                      []string
}

// Open makes the interface, after CleanUp. It is up, without addresses. One that is taken over has what the process before gave it, and nothing is
// cleaned up; it is ErrUnfit if it is not what it should be.
func Open(cfg Config) (*Router, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := errors.Join(CheckName(cfg.Name), checkMTU(cfg.MTU)); err != nil {
		closeFile(cfg.TUN)
		return nil, err
	}
	if cfg.TUN != nil {
		return succeed(cfg)
	}
	if _, err := net.InterfaceByName(cfg.Name); err == nil { // it may be somebody else's
		return nil, fmt.Errorf("%w: %s; choose another with --tun", ErrNameInUse, cfg.Name)
	}
	left, err := CleanUp(cfg.Journal)
	for _, what := range left {
		cfg.Log.Info("what a process before had left on this host is gone", "what", what)
	}
	if err != nil { // all the more reason to go on: this one may set it right
		cfg.Log.Warn("not all that a process before had left on this host could be taken back", "err", err)
	}
	t, err := tun.CreateTUN(cfg.Name, cfg.MTU)
	if err != nil {
		return nil, explain(cfg.Name, err)
	}
	r := &Router{cfg: cfg, tun: t}
	r.canMark = tryMark
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
	r.journal = newJournal(cfg.Journal, r.name)
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
	_, missing := os.Stat(TUNFile)
	if errors.Is(missing, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("%w: %s is missing or has no driver; load the module with \"modprobe tun\", or give the container that device; or do without: --tun=userspace", ErrNoTUN, TUNFile)
	}
	if errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %s may not be opened; run as root, or let this user read and write that file; or do without an interface: --tun=userspace", ErrPermission, TUNFile)
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: %s; run as root, or give the program CAP_NET_ADMIN; or do without an interface: --tun=userspace", ErrPermission, name)
	}
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: %s; choose another with --tun", ErrNameInUse, name)
	}
	if errors.Is(err, unix.ENOTTY) {
		return fmt.Errorf("%w: %s is something else; remove it and make it anew: mknod %s c 10 200", ErrNoTUN, TUNFile, TUNFile)
	}
	return fmt.Errorf("interface %s: %w", name, err)
}

// Apply brings the host into line with s. It changes only what differs, and does all it can: one error does not keep it from the rest, but
// that nothing goes to an exit node when something is missing that keeps the rest from leaking. A State that makes no sense changes nothing.
// Routes, rules and tables of others stay as they are. Calls must not overlap, nor one with Close.
func (r *Router) Apply(s State) error {
	if err := s.check(); err != nil {
		return fmt.Errorf("interface %s: %w", r.name, err)
	}
	s = r.usable(s)
	s, unmarkable := r.withoutMarks(s)
	unwritten := r.begin(s)
	if unwritten != nil {
		s = State{
			Addresses: s.Addresses, MTU: s.MTU, Network: s.Network, Routes: s.withoutExit().Routes, Local: s.Local,
			KillSwitch: s.KillSwitch, KillSwitchLAN: s.KillSwitchLAN, // which the journal does not name
		}
	}
	errs := []error{unmarkable, unwritten, r.applyKillSwitch(s), r.applyMTU(s.MTU), r.applyAddresses(s.Addresses)}
	leaky := errors.Join(r.applyFirewall(s), r.applySysctls(s))
	if leaky != nil && s.exits().Any() {
		leaky = fmt.Errorf("no exit node is used: %w", leaky)
		s = s.withoutExit()
	}
	return errors.Join(append(errs, leaky, r.applyAccept(s), r.applyRoutes(s))...)
}

// withoutMarks leaves out what would loop or lock the tunnel out where its own packets cannot be told from others.
func (r *Router) withoutMarks(s State) (State, error) {
	if !s.exits().Any() && !s.KillSwitch {
		return s, nil
	}
	err := r.canMark()
	if err == nil {
		return s, nil
	}
	s.KillSwitch = false
	return s.withoutExit(), fmt.Errorf("interface %s: neither an exit node nor the kill switch can be used: %w (%v)", r.name, ErrNoMark, err)
}

// tryMark marks a socket as the agent marks its own.
func tryMark() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, Mark)
}

// withoutExit is s without the use of an exit node.
func (s State) withoutExit() State {
	s.Routes = slices.DeleteFunc(slices.Clone(s.Routes), func(p netip.Prefix) bool { return p.Bits() == 0 })
	s.DNS, s.Blocked = nil, Families{}
	return s
}

// begin has the journal on the disk before the first change that outlives the process.
func (r *Router) begin(s State) error {
	if len(s.Routes) == 0 && firewallFor(r.name, s, true).empty() && r.journal.onDisk == "" {
		return nil
	}
	return r.journal.save()
}

// note tells people what was changed.
func (r *Router) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.cfg.Log.Info("host changed", "what", text)
	r.notes = append(r.notes[max(0, len(r.notes)-maxNotes+1):], text)
}

// noteOnce is note, but for what it told last.
func (r *Router) noteOnce(format string, args ...any) {
	if !slices.Contains(r.notes, fmt.Sprintf(format, args...)) {
		r.note(format, args...)
	}
}

// Notes say in words what Apply has changed on the host beyond the interface, for people to read, the oldest first; of very many the last. Calls
// must not overlap with Apply.
func (r *Router) Notes() []string { return slices.Clone(r.notes) }

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

// usable leaves IPv6 out where the host has it switched off for the interface. What was to leave by an exit node is blocked then: other
// interfaces may have it.
func (r *Router) usable(s State) State {
	off := ipv6Off(r.name)
	if off && !r.noIPv6 {
		r.cfg.Log.Warn("IPv6 is switched off on this host; the tunnel has IPv4 only")
	}
	r.noIPv6 = off
	if !off {
		return s
	}
	s.Blocked.IPv6 = s.Blocked.IPv6 || s.exits().IPv6
	s.Exit.IPv6 = false
	six := func(p netip.Prefix) bool { return p.Addr().Is6() }
	s.Addresses, s.Routes = slices.DeleteFunc(slices.Clone(s.Addresses), six), slices.DeleteFunc(slices.Clone(s.Routes), six)
	s.Carried = slices.DeleteFunc(slices.Clone(s.Carried), func(c Carried) bool { return six(c.Prefix) })
	s.DNS, s.Probes = slices.DeleteFunc(slices.Clone(s.DNS), netip.Addr.Is6), slices.DeleteFunc(slices.Clone(s.Probes), netip.Addr.Is6)
	return s
}

func ipv6Off(name string) bool {
	off, err := readSysctl(conf6 + name + "/disable_ipv6")
	return err != nil || off != "0"
}

func (r *Router) applyAddresses(want []netip.Prefix) error {
	have, err := netdump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(r.link, netlink.FAMILY_ALL) })
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
		a := &netlink.Addr{IPNet: netipx.PrefixIPNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(r.link, a); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: address %s cannot be set: %w", r.name, p, err))
		}
	}
	return errors.Join(errs...)
}

// Close removes the interface, and with it its addresses and routes, and takes back all other changes but the kill switch.
func (r *Router) Close() error {
	err := r.tun.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("interface %s: %w", r.name, err)
	}
	err = errors.Join(err, r.removeLink())
	r.hasFirewall.Store(false)
	notes, undone := r.journal.takeBack()
	if len(r.forwarders) > 0 {
		forgetQuestions()
	}
	for _, n := range notes {
		r.note("%s", n)
	}
	return errors.Join(err, undone)
}

// fromIPNet reads what netlink gives, which may be nothing.
func fromIPNet(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	p, ok := netipx.FromStdIPNet(n)
	return p, ok && p.IsValid()
}
