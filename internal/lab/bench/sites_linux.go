package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// sitesPolicy lets two data centers and a laptop reach each other, and approves what their gateways advertise.
const sitesPolicy = `{
	"tagOwners": {"tag:gateway": []},
	"grants": [
		{"src": ["10.1.0.0/16", "10.2.0.0/16", "ann"], "dst": ["10.1.0.0/16", "10.2.0.0/16"], "ip": ["*"]},
	],
	"autoApprovers": {"routes": {"10.0.0.0/8": ["tag:gateway"]}},
}`

// center is a data center: its gateways have the first addresses of its LAN, and its host, which knows nothing of Warren, the tenth.
type center struct {
	cidr     string
	lan      *lab.LAN
	host     *lab.Host
	gateways []*warrennet.Device
}

// sites is a lab with the policy for sites.
func (b *bench) sites() (*warrennet.Network, func(), error) {
	n, done, err := b.network()
	if err != nil {
		return nil, nil, err
	}
	file := filepath.Join(n.CoordinatorDir(), "sites.hujson")
	err = os.WriteFile(file, []byte(sitesPolicy), 0o600)
	if err == nil {
		err = n.Admin(b.ctx, nil, "policy", "set", file)
	}
	if err != nil {
		done()
	}
	return n, done, err
}

// center makes a data center with gateways, whose hosts send what is for elsewhere to the gateway of the number via.
func (b *bench) center(n *warrennet.Network, number, gateways, via int, nat lab.NAT) (*center, error) {
	c := &center{cidr: fmt.Sprintf("10.%d.0.0/16", number)}
	var err error
	if c.lan, err = n.Lab.LAN(fmt.Sprintf("lan%d", number), netip.MustParsePrefix(c.cidr), netip.Prefix{}); err != nil {
		return nil, err
	}
	if c.host, err = c.lan.Host(fmt.Sprintf("dc%dhost", number), 10, via); err != nil {
		return nil, err
	}
	for i := range gateways {
		h, err := n.Lab.Host(fmt.Sprintf("dc%dgw%d", number, i+1), nat)
		if err != nil {
			return nil, err
		}
		if err := c.lan.Plug(h, "eth1", i+1); err != nil {
			return nil, err
		}
		d, err := b.joined(n, h, []string{"--tags", "gateway"}, "--site", c.cidr, "--probe", c.host.Addr.String(), "--priority", fmt.Sprint(200-50*i))
		if err != nil {
			return nil, err
		}
		c.gateways = append(c.gateways, d)
	}
	return c, nil
}

// joined has a host join, with flags for its token and settings of up.
func (b *bench) joined(n *warrennet.Network, h *lab.Host, owner []string, settings ...string) (*warrennet.Device, error) {
	token, err := n.Token(b.ctx, owner...)
	if err != nil {
		return nil, err
	}
	d := n.DeviceOn(h)
	if err := d.StartDaemon(b.ctx); err != nil {
		return nil, err
	}
	return d, d.Warren(b.ctx, nil, append([]string{"up", "--name", h.Name, token}, settings...)...)
}

// site measures TCP between hosts of two data centers, through two gateways that are joined by a cable: routed by Warren, and, while its tunnels are
// down, by the gateways' kernels alone.
func (b *bench) site() error {
	n, done, err := b.sites()
	if err != nil {
		return err
	}
	defer done()
	var centers [2]*center
	for i := range centers {
		if centers[i], err = b.center(n, i+1, 1, 1, lab.None); err != nil {
			return err
		}
	}
	if err := cable(n, centers); err != nil {
		return err
	}
	counts := []int{1, 4}
	bare, tunnel := make([]figures, len(counts)), make([]figures, len(counts))
	for range b.runs {
		if err := b.tunnels("down", centers); err != nil {
			return err
		}
		if err := b.siteStreams(bare, counts, centers); err != nil {
			return fmt.Errorf("bare routing: %w", err)
		}
		if err := b.tunnels("up", centers); err != nil {
			return err
		}
		if err := b.siteStreams(tunnel, counts, centers); err != nil {
			return fmt.Errorf("warren: %w", err)
		}
	}
	fmt.Println("\nsite to site: hosts that know nothing of Warren, two gateways with a cable between them")
	for i, count := range counts {
		bare[i].print(fmt.Sprintf("  TCP, %d at once, bare routing", count), "Gbit/s")
		tunnel[i].print(fmt.Sprintf("  TCP, %d at once, warren", count), "Gbit/s")
	}
	return nil
}

// cable joins the gateways and has them route to each other's networks over it, which counts only without Warren: its own table comes first.
func cable(n *warrennet.Network, centers [2]*center) error {
	wire, err := n.Lab.LAN("cable", netip.MustParsePrefix("172.16.0.0/24"), netip.Prefix{})
	if err != nil {
		return err
	}
	for i, c := range centers {
		g := c.gateways[0]
		if err := wire.Plug(g.Host, "eth2", i+1); err != nil {
			return err
		}
	}
	for i, c := range centers {
		other := centers[1-i]
		if err := c.gateways[0].Route(netip.MustParsePrefix(other.cidr), wire.Address4(2-i)); err != nil {
			return err
		}
	}
	return nil
}

// tunnels takes the gateways' tunnels up or down, and waits until the hosts reach each other that way.
func (b *bench) tunnels(way string, centers [2]*center) error {
	for _, c := range centers {
		g := c.gateways[0]
		if err := g.Warren(b.ctx, nil, way); err != nil {
			return err
		}
		if way == "down" { // which gives back what Warren has changed
			if err := g.Sysctl("ipv4/ip_forward", "1"); err != nil {
				return err
			}
		}
	}
	if err := b.awaitPing(centers[0].host, centers[1].host.Addr.String()); err != nil || way == "down" {
		return err
	}
	for i, c := range centers {
		other := centers[1-i]
		if err := b.awaitGateway(c.gateways[0], other.cidr, other.gateways[0].Name); err != nil {
			return err
		}
		if _, err := c.gateways[0].AwaitPath(b.ctx, other.gateways[0].Name, "direct"); err != nil {
			return err
		}
	}
	return nil
}

// awaitGateway waits until a device uses a gateway for a CIDR.
func (b *bench) awaitGateway(d *warrennet.Device, cidr, gateway string) error {
	_, err := d.Await(b.ctx, "using "+gateway+" for "+cidr, func(s *warrennet.Status) bool {
		r := s.Route(cidr)
		return r != nil && r.Gateway == gateway
	})
	return err
}

// siteStreams adds what so many TCP streams carry together, in Gbit/s.
func (b *bench) siteStreams(into []figures, counts []int, centers [2]*center) error {
	from, to := centers[0].host, centers[1].host
	for i, count := range counts {
		rates, errs := make(chan float64, count), make(chan error, count)
		for range count {
			go func() {
				bps, err := warrennet.Throughput(b.ctx, from, to, to.Addr.String(), b.stream)
				rates <- bps
				errs <- err
			}()
		}
		sum := 0.0
		var err error
		for range count {
			sum, err = sum+<-rates, errors.Join(err, <-errs)
		}
		if err != nil {
			return err
		}
		into[i] = append(into[i], sum/1e9)
	}
	return nil
}

// fault is a way in which a gateway fails.
type fault struct {
	name string
	do   func(b *bench, c *center) error
}

// faults are those of the first gateway of two.
var faults = []fault{
	{"daemon killed", func(_ *bench, c *center) error {
		_ = c.gateways[0].Daemon().Signal(syscall.SIGKILL) // which tells how it ended
		return nil
	}},
	{"uplink cut", func(_ *bench, c *center) error { return c.gateways[0].Unplug() }},
	{"LAN cut", func(_ *bench, c *center) error { return c.lan.Cut(c.gateways[0].Host, "eth1") }},
	{"forwarding off", func(_ *bench, c *center) error { return c.gateways[0].Sysctl("ipv4/ip_forward", "0") }},
	{"firewall drops what is forwarded", func(b *bench, c *center) error {
		rules := "add table ip block; add chain ip block f { type filter hook forward priority 10; policy drop; }"
		return c.gateways[0].Command(b.ctx, "nft", rules).Run()
	}},
}

// failovers measures how long a laptop's ping to a data center with two gateways is not answered when the one in use fails, in a lab of its own each time.
func (b *bench) failovers() error {
	fmt.Printf("\nthe gateway in use fails, until the other one carries: worst of %d below, 1 kHz ping\n", b.faults)
	for _, f := range faults {
		var lost figures
		for range b.faults {
			d, err := b.failover(f)
			if err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			lost = append(lost, d.Seconds())
		}
		lost.print("  without answers, "+f.name, "s")
	}
	return nil
}

// failoverPatience bounds one.
const failoverPatience = 90 * time.Second

func (b *bench) failover(f fault) (time.Duration, error) {
	one := *b
	var cancel context.CancelFunc
	one.ctx, cancel = context.WithTimeout(b.ctx, failoverPatience)
	defer cancel()
	n, done, err := one.sites()
	if err != nil {
		return 0, err
	}
	defer done()
	c, err := one.center(n, 1, 2, 2, lab.Easy)
	if err != nil {
		return 0, err
	}
	h, err := n.Lab.Host("laptop", lab.Easy)
	if err != nil {
		return 0, err
	}
	laptop, err := one.joined(n, h, []string{"--user", "ann"})
	if err != nil {
		return 0, err
	}
	if err := one.ready(laptop, c); err != nil {
		return 0, err
	}
	meter, err := warrennet.NewMeter(one.ctx, h, c.host.Addr.String())
	if err != nil {
		return 0, err
	}
	defer meter.Close()
	began := time.Now()
	if err := f.do(&one, c); err != nil {
		return 0, err
	}
	if err := one.awaitGateway(laptop, c.cidr, c.gateways[1].Name); err != nil {
		return 0, err
	}
	return meter.Longest(began), one.awaitPing(h, c.host.Addr.String())
}

// ready waits until the first gateway is in use, both are known to work, and both are reached directly.
func (b *bench) ready(laptop *warrennet.Device, c *center) error {
	if err := b.awaitPing(laptop.Host, c.host.Addr.String()); err != nil {
		return err
	}
	var errs error
	for _, g := range c.gateways {
		_, err := laptop.AwaitPath(b.ctx, g.Name, "direct")
		errs = errors.Join(errs, err)
	}
	_, err := laptop.Await(b.ctx, "certain of both gateways", func(s *warrennet.Status) bool {
		r := s.Route(c.cidr)
		return r != nil && r.Gateway == c.gateways[0].Name && len(r.Gateways) == len(c.gateways) &&
			!slices.ContainsFunc(r.Gateways, func(g struct{ Name, Health string }) bool { return g.Health != "working" })
	})
	return cmp.Or(errs, err)
}
