package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
)

// maxHosts is how many fit: the internet has one /30 of 203.0.113.0/24 for each.
const maxHosts = 60

// Lab is a network of hosts.
type Lab struct {
	internet *Host
	hosts    []*Host // NAT boxes too
	count    int
	inner    bool
}

// New makes a lab with an internet and nobody on it.
func New() (*Lab, error) {
	l := &Lab{inner: inUserNamespace()}
	var err error
	if l.internet, err = newHost(l, "internet"); err != nil {
		return nil, err
	}
	l.hosts = append(l.hosts, l.internet)
	if err := l.internet.forward(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// inUserNamespace tells whether root here is root only of a part of the system.
func inUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	var first, outside, size uint64
	_, err = fmt.Sscan(string(b), &first, &outside, &size)
	return err == nil && size != 1<<32-1
}

// Close ends all processes on the hosts and removes everything.
func (l *Lab) Close() {
	for _, h := range l.hosts {
		h.close()
	}
	l.hosts = nil
}

func (h *Host) forward() error {
	err := h.sysctl("ipv4/ip_forward", "1")
	if v6 := h.sysctl("ipv6/conf/all/forwarding", "1"); v6 != nil && !errors.Is(v6, os.ErrNotExist) {
		err = errors.Join(err, v6)
	}
	return err
}

// Host adds a host behind a NAT of the given kind.
func (l *Lab) Host(name string, nat NAT) (*Host, error) {
	if l.count >= maxHosts {
		return nil, fmt.Errorf("a lab has room for %d hosts", maxHosts)
	}
	n := l.count
	l.count++
	h, err := newHost(l, name)
	if err != nil {
		return nil, err
	}
	l.hosts = append(l.hosts, h)
	h.NAT = nat
	public, gateway := host4(203, 0, 113, byte(4*n+2)), host4(203, 0, 113, byte(4*n+1))
	h.Public = public.Addr()
	if nat == None {
		h.Addr = h.Public
		return h, connect(h, "eth0", public, l.internet, fmt.Sprintf("to%d", n), gateway, true)
	}
	box, err := newHost(l, name+"'s NAT")
	if err != nil {
		return nil, err
	}
	l.hosts = append(l.hosts, box)
	inside, own := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(n + 1), 1}), 24), netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(n + 1), 2}), 24)
	h.Addr = own.Addr()
	return h, errors.Join(
		connect(box, wanName, public, l.internet, fmt.Sprintf("to%d", n), gateway, true),
		connect(h, "eth0", own, box, lanName, inside, true),
		box.forward(),
		box.applyNAT(nat),
	)
}

// host4 is an address of one of the internet's /30s.
func host4(a, b, c, d byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b, c, d}), 30)
}

// connect joins two hosts by a cable. With toward, a's default route leads to b.
func connect(a *Host, aName string, aAddr netip.Prefix, b *Host, bName string, bAddr netip.Prefix, toward bool) error {
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: aName, MTU: 1500, TxQLen: 1000}, PeerName: bName,
		PeerNamespace: netlink.NsFd(b.ns.Fd()),
	}
	if err := a.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("cable between %s and %s: %w", a.Name, b.Name, err)
	}
	for _, end := range []struct {
		h    *Host
		name string
		addr netip.Prefix
	}{{a, aName, aAddr}, {b, bName, bAddr}} {
		link, err := end.h.handle.LinkByName(end.name)
		if err != nil {
			return err
		}
		if err := end.h.handle.AddrAdd(link, &netlink.Addr{IPNet: ipNet(end.addr)}); err != nil {
			return fmt.Errorf("%s: address %s: %w", end.h.Name, end.addr, err)
		}
		if err := end.h.handle.LinkSetUp(link); err != nil {
			return err
		}
	}
	if !toward {
		return nil
	}
	return a.handle.RouteAdd(&netlink.Route{Gw: bAddr.Addr().AsSlice()})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Unplug takes the host off the network, Plug puts it back.
func (h *Host) Unplug() error { return h.set(false) }

// Plug undoes Unplug.
func (h *Host) Plug() error { return h.set(true) }

func (h *Host) set(up bool) error {
	link, err := h.handle.LinkByName("eth0")
	if err != nil {
		return err
	}
	if !up {
		return h.handle.LinkSetDown(link)
	}
	if err := h.handle.LinkSetUp(link); err != nil {
		return err
	}
	// Taking a link down takes its routes away.
	gateway := h.Addr.As4()
	gateway[3]--
	err = h.handle.RouteReplace(&netlink.Route{Gw: gateway[:]})
	return err
}
