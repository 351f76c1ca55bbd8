package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/internal/lab/natbox"
	"warren/internal/sim/natmodel"
)

// modelName is the TUN device where the model sits. The box's kernel only routes:
//
//	        from lan: to the model   --->
//	lan <-- to hosts -- nat0 (the model) -- default route --> wan
//	        <--- from wan: the external address is routed to the model
const (
	modelName  = "nat0"
	modelTable = 100
)

// model runs a NAT of the simulator's on a box.
type model struct {
	tun    *os.File
	inside netip.Prefix
	own    netip.Addr // the box's address inside, which its ICMP errors have
	mu     sync.Mutex // held while box is used
	box    *natbox.Box
	ended  chan struct{}
}

// startModel has the box translate what comes from its LAN to the external address, which must be routed to it.
func (h *Host) startModel(o *natmodel.Options, inside netip.Prefix, external netip.Addr, seed uint64) (*model, error) {
	tun, err := h.openTUN(modelName, unix.IFF_TUN)
	if err != nil {
		return nil, err
	}
	m := &model{tun: tun, inside: inside.Masked(), own: nth(inside, 1).Addr(), box: natbox.New(natmodel.New(*o, external, seed)), ended: make(chan struct{})}
	go m.run()
	h.lab.stops = append(h.lab.stops, m.close)
	return m, h.routeToModel(external)
}

func (h *Host) routeToModel(external netip.Addr) error {
	// Packets to hosts come from the model with sources that are routed elsewhere, and the box's own ICMP errors with its own address.
	if err := h.sysctl("ipv4/conf/"+modelName+"/accept_local", "1"); err != nil {
		return err
	}
	for _, name := range []string{"all", modelName, wanName, lanName} {
		if err := h.sysctl("ipv4/conf/"+name+"/rp_filter", "0"); err != nil {
			return err
		}
	}
	if err := h.raise(modelName); err != nil {
		return err
	}
	link, err := h.handle.LinkByName(modelName)
	if err != nil {
		return err
	}
	rule := netlink.NewRule()
	rule.IifName, rule.Table, rule.Priority, rule.Family = lanName, modelTable, 1000, unix.AF_INET
	return errors.Join(
		h.handle.RuleAdd(rule),
		h.handle.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Table: modelTable, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0"))}),
		h.handle.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(netip.PrefixFrom(external, 32)), Scope: netlink.SCOPE_LINK}),
	)
}

// run translates until the device is closed.
func (m *model) run() {
	defer close(m.ended)
	b := make([]byte, 1<<16)
	for {
		n, err := m.tun.Read(b)
		if err != nil {
			return
		}
		if m.translate(b[:n]) {
			m.tun.Write(b[:n]) // refused while the device is down: lost, as on a wire
		}
	}
}

func (m *model) translate(ip []byte) bool {
	if len(ip) < 20 || ip[0]>>4 != 4 {
		return false
	}
	src, _ := netip.AddrFromSlice(ip[12:16])
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.box.Translate(time.Now(), ip, src != m.own && m.inside.Contains(src)).Passes()
}

func (m *model) close() {
	m.tun.Close()
	<-m.ended
}

// Forget has the boxes in front of the host lose all mappings.
func (h *Host) Forget() error {
	for _, u := range h.Uplinks {
		if err := u.site.Forget(); err != nil {
			return err
		}
	}
	return nil
}

// Forget has the site's boxes lose all mappings, as a reboot does.
func (s *Site) Forget() error {
	for _, m := range s.models {
		m.mu.Lock()
		m.box.Forget()
		m.mu.Unlock()
	}
	for _, h := range []*Host{s.router, s.cgnat} {
		if h == nil {
			continue
		}
		if err := h.handle.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			return fmt.Errorf("%s: forgetting connections: %w", h.Name, err)
		}
	}
	return nil
}
