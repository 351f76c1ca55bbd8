package networks

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// sites lets two data centers reach each other.
const sites = `{
	"tagOwners": {"tag:gateway": []},
	"hosts": {"dc1": "10.1.0.0/16", "dc2": "10.2.0.0/16", "dc1v6": "fd01::/48", "dc2v6": "fd02::/48"},
	"grants": [
		{"name": "one to two", "src": ["dc1", "dc1v6"], "dst": ["dc2", "dc2v6"], "ip": ["*"]},
		{"name": "two to one", "src": ["dc2", "dc2v6"], "dst": ["dc1", "dc1v6"], "ip": ["*"]},
		{"name": "office", "src": ["ann"], "dst": ["dc1", "dc2", "dc1v6", "dc2v6"], "ip": ["*"]},
		{"name": "back", "src": ["dc1"], "dst": ["ann"], "ip": ["tcp:9090"]},
	],
	"autoApprovers": {"routes": {"10.0.0.0/8": ["tag:gateway"], "fd00::/8": ["tag:gateway"]}},
}`

// TestDocumented: docs/networks.md tells people to do what these tests do.
func TestDocumented(t *testing.T) {
	b, err := os.ReadFile("../../../docs/networks.md")
	must(t, err)
	text := strings.ReplaceAll(string(b), "ann@example.com", "ann")
	for line := range strings.Lines(sites) {
		if line = strings.TrimSpace(line); (strings.HasPrefix(line, `{"name"`) || strings.HasPrefix(line, `"hosts"`)) && !strings.Contains(text, line) {
			t.Errorf("it has no %s", line)
		}
	}
	for _, words := range []string{
		"--advertise 192.168.10.0/24", "--site 10.1.0.0/16 --site fd01::/48", "--site 10.1.0.0/16 --priority 200 --probe 10.1.0.10", "10.2.0.0/16 via " + virtual.String(), "fd02::/48 via " + virtual6.String(),
	} {
		if !strings.Contains(text, words) {
			t.Errorf("it has no %q", words)
		}
	}
}

// center is a data center: a LAN, its gateways, at addresses 1 and so on, and a host, at 10, that knows nothing of Warren.
type center struct {
	lan      *lab.LAN
	v4, v6   string
	gateways []*warrennet.Device
	uplinks  []*lab.Site // of the gateways
	host     *lab.Host
}

func (w *world) center(number, gateways int, settings ...string) *center {
	w.t.Helper()
	c := &center{v4: fmt.Sprintf("10.%d.0.0/16", number), v6: fmt.Sprintf("fd0%d::/48", number)}
	var err error
	c.lan, err = w.Lab.LAN(fmt.Sprintf("lan%d", number), netip.MustParsePrefix(c.v4), netip.MustParsePrefix(c.v6))
	must(w.t, err)
	c.host = w.host(c.lan.Host(fmt.Sprintf("dc%dhost", number), 10, 1))
	for i := range gateways {
		site := w.site(fmt.Sprintf("dc%d's uplink %d", number, i+1), lab.Easy)
		c.uplinks = append(c.uplinks, site)
		h := w.host(site.Host(fmt.Sprintf("dc%dgw%d", number, i+1)))
		must(w.t, c.lan.Plug(h, "eth1", i+1))
		given := append([]string{"--site", c.v4, "--site", c.v6, "--priority", fmt.Sprint(200 - 50*i)}, settings...)
		c.gateways = append(c.gateways, w.device(h, "tag:gateway", given...))
	}
	return c
}

// TestTwoDataCenters: hosts that know nothing of Warren open TCP both ways, and see each other's real addresses, over both families.
//
//	10.1.0.10 --- 10.1.0.0/16 --- gateway --- NAT --- internet --- NAT --- gateway --- 10.2.0.0/16 --- 10.2.0.10
func TestTwoDataCenters(t *testing.T) {
	w := newWorld(t, sites)
	amount := int64(warrennet.Amount(t, "WARREN_SITE_BYTES", 30<<20)) // in each direction
	w.extend(time.Duration(amount>>20) * time.Second / 2)
	one, two := w.center(1, 1), w.center(2, 1)
	w.awaitRoute(one.gateways[0], two.v4, "dc2gw1")
	w.awaitRoute(two.gateways[0], one.v4, "dc1gw1")
	w.ping(one.host, two.host.Addr)
	for _, ends := range [][2]*center{{one, two}, {two, one}} {
		from, to := ends[0].host, ends[1].host
		for _, a := range [][2]netip.Addr{{from.Addr, to.Addr}, {from.Addr6, to.Addr6}} {
			at := netip.AddrPortFrom(a[1], 8080)
			w.server(to, at)
			c, seen := w.call(from, at)
			if seen != a[0].String() {
				t.Errorf("%s is seen as %s, not by its real address", a[0], seen)
			}
			w.through(c, amount)
		}
	}
	// A laptop reaches both centers by their gateways, which masquerade nothing here.
	laptop := w.device(w.host(w.Lab.Host("laptop", lab.Hard)), "ann")
	w.awaitRoute(laptop, two.v4, "dc2gw1")
	w.ping(laptop.Host, one.host.Addr)
	c, seen := w.call(laptop.Host, netip.AddrPortFrom(two.host.Addr, 8080))
	st, err := laptop.Status(w.ctx)
	must(t, err)
	if seen != st.Self.Addresses[0] {
		t.Errorf("the laptop is seen as %s, not as %s", seen, st.Self.Addresses[0])
	}
	w.through(c, 1<<20)
}
