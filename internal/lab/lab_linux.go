package lab

import (
	"errors"
	"fmt"
	"os"
)

// maxHosts is how many sites fit: the internet has one /30 of 203.0.113.0/24 for each.
const maxHosts = 60

// Lab is a network of hosts.
type Lab struct {
	internet *Host
	hosts    []*Host // boxes too
	count    int     // sites so far
	shared   map[NAT]*Site
	stops    []func() // of servers on boxes
	inner    bool
}

// New makes a lab with an internet and nobody on it.
func New() (*Lab, error) {
	l := &Lab{inner: inUserNamespace(), shared: map[NAT]*Site{}}
	var err error
	if l.internet, err = l.newHost("internet"); err != nil {
		return nil, err
	}
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

// newHost starts a host and adds it to those that Close ends.
func (l *Lab) newHost(name string) (*Host, error) {
	h, err := startHost(l, name)
	if err == nil {
		l.hosts = append(l.hosts, h)
	}
	return h, err
}

// Close ends all processes on the hosts and removes everything.
func (l *Lab) Close() {
	for _, stop := range l.stops {
		stop()
	}
	l.stops = nil
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
	site := l.shared[nat]
	if site == nil {
		var err error
		if site, err = l.Site(name, nat.Access()); err != nil {
			return nil, err
		}
		if nat.shared() {
			l.shared[nat] = site
		}
	}
	h, err := l.HostAt(name, site)
	if err == nil {
		h.NAT = nat
	}
	return h, err
}

// HostAt adds a host with an uplink at each of the sites, eth0 at the first. It prefers the first, as the metrics of its default routes say,
// and like any host sends by it what is not bound to another.
func (l *Lab) HostAt(name string, sites ...*Site) (*Host, error) {
	if len(sites) == 0 {
		return nil, fmt.Errorf("host %s: at no site", name)
	}
	h, err := l.newHost(name)
	if err != nil {
		return nil, err
	}
	for i, s := range sites {
		u, err := s.plug(h, fmt.Sprintf("eth%d", i), i*metricSteps)
		if err != nil {
			return nil, err
		}
		h.Uplinks = append(h.Uplinks, u)
	}
	first := h.Uplinks[0]
	h.Addr, h.Addr6, h.Public, h.proxy = first.Addr4, first.Addr6, first.Public4, first.Proxy
	return h, nil
}
