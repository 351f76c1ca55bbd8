package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"warren/internal/netdump"
	"warren/tunnel/router"
)

func lookAtTUN(path string) *TUN {
	t := &TUN{Path: path}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Err = &fs.PathError{Op: "open", Path: path, Err: err}
		return t
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Err = err
	} else if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(10, 200) {
		t.Err = errNoDevice
	}
	return t
}

// rightsOf looks at a process; 0 is this one.
func rightsOf(pid int) *Rights {
	who := "self"
	if pid > 0 {
		who = strconv.Itoa(pid)
	}
	b, err := os.ReadFile("/proc/" + who + "/status")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		text, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		have, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
		if err != nil {
			return nil
		}
		r := &Rights{Daemon: pid > 0}
		for _, c := range []struct {
			bit  int
			name string
		}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}} {
			if have&(1<<c.bit) == 0 {
				r.Missing = append(r.Missing, c.name)
			}
		}
		return r
	}
	return nil
}

// mark puts the agent's mark on a socket, so that a kill switch lets its packets through. Where that is refused they go as any others.
func mark(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, router.Mark) })
}

func lookAtHost(tunnel string) (*Host, error) {
	h := new(Host)
	links, err := netdump.Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		if a.Name == tunnel || a.Flags&net.FlagLoopback != 0 || a.Flags&net.FlagUp == 0 {
			continue
		}
		names[a.Index] = a.Name
		one := Link{Name: a.Name, Kind: l.Type(), MTU: a.MTU}
		addrs, err := netdump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil {
			return nil, fmt.Errorf("addresses of %s: %w", a.Name, err)
		}
		for _, addr := range addrs {
			if p, ok := prefixOf(addr.IPNet); ok {
				one.Prefixes = append(one.Prefixes, p)
			}
		}
		h.Links = append(h.Links, one)
	}
	if h.Routes, err = hostRoutes(names); err != nil {
		return nil, err
	}
	if h.Rules, err = hostRules(); err != nil {
		return nil, err
	}
	h.Chains, h.ChainsErr = hostChains(tunnel)
	h.Forwards4, h.Forwards6 = isOn("/proc/sys/net/ipv4/ip_forward"), isOn("/proc/sys/net/ipv6/conf/all/forwarding")
	return h, nil
}

func isOn(sysctl string) bool {
	b, err := os.ReadFile(sysctl)
	return err == nil && strings.TrimSpace(string(b)) != "0"
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	p, ok := netipx.FromStdIPNet(n)
	return p.Masked(), ok && !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsMulticast()
}

// hostRoutes are those of all tables by the named links.
func hostRoutes(names map[int]string) (out []HostRoute, err error) {
	for _, family := range []struct {
		id      int
		nowhere netip.Prefix
	}{{netlink.FAMILY_V4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)}, {netlink.FAMILY_V6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)}} {
		routes, err := netdump.Whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family.id, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("routes: %w", err)
		}
		for _, r := range routes {
			p, ok := family.nowhere, true
			if r.Dst != nil {
				p, ok = prefixOf(r.Dst)
			}
			if name := names[r.LinkIndex]; ok && name != "" && r.Table != localTable {
				out = append(out, HostRoute{p, name, r.Table})
			}
		}
	}
	return out, nil
}

// hostRules are those that are not of this program.
func hostRules() (out []Rule, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netdump.Whole(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("rules: %w", err)
		}
		for _, r := range rules {
			if r.Table == router.Table || r.Priority == router.MarkPriority && r.Mark == router.Mark {
				continue
			}
			one := Rule{IPv6: family == netlink.FAMILY_V6, Priority: r.Priority, Mark: r.Mark, Table: r.Table, Always: unlimited(r)}
			if r.Mask != nil {
				one.Mask = *r.Mask
			} else if r.Mark != 0 {
				one.Mask = ^uint32(0)
			}
			out = append(out, one)
		}
	}
	return out, nil
}

// unlimited reports whether a rule holds for all packets, of whichever mark.
func unlimited(r netlink.Rule) bool {
	return r.Src == nil && r.Dst == nil && r.IifName == "" && r.OifName == "" && r.IPProto == 0 && r.Dport == nil && r.Sport == nil &&
		r.UIDRange == nil && r.Tos == 0 && r.SuppressPrefixlen < 0 && !r.Invert
}
