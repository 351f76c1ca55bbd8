package system

import (
	"context"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/internal/sim/natmodel"
)

// netcheck is what "warren netcheck --json" prints, as far as the tests look at it.
type netcheck struct {
	IPv4, IPv6  netcheckFamily
	Hairpin     string
	PortMapping struct {
		Protocol, External string
	} `json:"port_mapping"`
	CaptivePortal string `json:"captive_portal"`
	PortalURL     string `json:"portal_url"`
	Relays        []struct {
		Name, Error string
		UDP         float64 `json:"udp_rtt_ms"`
		TCP         float64 `json:"tcp_rtt_ms"`
		TLS         float64 `json:"tls_ms"`
		Connected   bool
	}
	Findings []string
}

type netcheckFamily struct {
	Local, UDP, Mapped, Filtering string
	Mapping                       struct {
		Behaviour string
		Sure      bool
	}
	PortKept bool `json:"port_kept"`
	MTU      int
}

// brief is a family in one line.
func (f netcheckFamily) brief() string {
	if f.UDP != "yes" {
		return f.UDP
	}
	return f.Mapping.Behaviour + ", " + f.Filtering
}

const (
	noUDP   = "no"
	noneOf  = "unknown" // no address of that version
	dropped = "address-and-port-dependent"
	easyNAT = "endpoint-independent, " + dropped
	hardNAT = dropped + ", " + dropped
	open    = "no NAT, endpoint-independent or address-dependent"
	closed  = "no NAT, " + dropped
)

// said is what netcheck says in one kind of network.
type said struct{ IPv4, IPv6, Hairpin, PortMapping string }

// TestNetcheck has a device in each kind of network, all of one coordinator, and each says what its network is like:
//
//	coordinator (IPv4, IPv6; STUN on two ports, relay) --- internet --- box of the kind --- device
func TestNetcheck(t *testing.T) {
	want := map[lab.NAT]said{
		lab.None:           {open, noneOf, "unknown", ""},
		lab.Easy:           {easyNAT, noneOf, "no", ""},
		lab.Hard:           {hardNAT, noneOf, "no", ""},
		lab.UDPBlocked:     {noUDP, noneOf, "unknown", ""},
		lab.EasyCGNAT:      {easyNAT, noneOf, "no", ""},
		lab.HardCGNAT:      {hardNAT, noneOf, "no", ""},
		lab.SameNAT:        {easyNAT, noneOf, "no", ""},
		lab.SameNATHairpin: {easyNAT, noneOf, "yes", ""},
		lab.PortMapped:     {hardNAT, noneOf, "no", "PCP"},
		lab.IPv6Firewalled: {hardNAT, closed, "no", ""},
		lab.BrokenV4:       {noUDP, open, "unknown", ""},
		lab.TCP443Only:     {noUDP, noneOf, "unknown", ""},
		lab.ProxyOnly:      {noUDP, noneOf, "unknown", ""},
		lab.ShortTimeout:   {easyNAT, noneOf, "no", ""},
	}
	ctx, n := start(t)
	reports := map[lab.NAT]*netcheck{}
	var group sync.WaitGroup
	for _, kind := range lab.Kinds() {
		d, report := device(t, ctx, n, kind.String(), kind), new(netcheck)
		reports[kind] = report
		if kind == lab.PortMapped { // the gateway takes its time
			within, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			if err := d.Daemon().AwaitLog(within, "port mapped"); err != nil {
				t.Fatal(err)
			}
		}
		group.Go(func() {
			if err := d.Warren(ctx, report, "netcheck"); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		})
	}
	group.Wait()
	for _, kind := range lab.Kinds() {
		r := reports[kind]
		got := said{r.IPv4.brief(), r.IPv6.brief(), r.Hairpin, r.PortMapping.Protocol}
		if diff := cmp.Diff(want[kind], got); diff != "" {
			t.Errorf("%s: %s", kind, diff)
		}
		checkReport(t, kind, r)
	}
}

// checkReport has what holds in each of these networks: the relay is reached, nobody asks for a login, and long packets pass where UDP does.
func checkReport(t *testing.T, kind lab.NAT, r *netcheck) {
	t.Helper()
	for name, f := range map[string]netcheckFamily{"IPv4": r.IPv4, "IPv6": r.IPv6} {
		if f.UDP == "yes" && (f.MTU != 1500 || f.Mapped == "" || f.Local == "") {
			t.Errorf("%s: %s %+v", kind, name, f)
		}
	}
	if len(r.Relays) != 1 || r.Relays[0].Error != "" || r.Relays[0].TLS <= r.Relays[0].TCP || r.Relays[0].TCP <= 0 {
		t.Errorf("%s: relays %+v", kind, r.Relays)
	} else if !r.Relays[0].Connected && kind != lab.BrokenV4 { // there the agent may still be trying the relay's first address, which is IPv4
		t.Errorf("%s: the relay is reached and not connected", kind)
	} else if (r.Relays[0].UDP > 0) != (r.IPv4.UDP == "yes" || r.IPv6.UDP == "yes") {
		t.Errorf("%s: relay's round trip by UDP is %g ms", kind, r.Relays[0].UDP)
	}
	if r.CaptivePortal != "no" || len(r.Findings) == 0 {
		t.Errorf("%s: portal %s, findings %q", kind, r.CaptivePortal, r.Findings)
	}
}

// TestNetcheckPortal: a device that knows its network comes into a café, where a portal answers for everybody until somebody agrees.
//
//	device --- router with portal --- internet --- coordinator
func TestNetcheckPortal(t *testing.T) {
	ctx, n := start(t)
	site, err := n.Lab.Site("café", lab.Access{NAT: natmodel.Easy(), Block: lab.CaptivePortal})
	if err != nil {
		t.Fatal(err)
	}
	h, err := site.Host("guest")
	if err != nil {
		t.Fatal(err)
	}
	d := enrolled(t, ctx, n, site, h)
	var r netcheck
	if err := d.Warren(ctx, &r, "netcheck"); err != nil {
		t.Fatal(err)
	}
	if r.CaptivePortal != "yes" || r.PortalURL != site.PortalURL() || r.IPv4.UDP != "no" || !strings.Contains(r.Findings[0], site.PortalURL()) {
		t.Errorf("behind the portal: %+v", r)
	}
	if err := site.OpenPortal(); err != nil {
		t.Fatal(err)
	}
	r = netcheck{}
	if err := d.Warren(ctx, &r, "netcheck"); err != nil {
		t.Fatal(err)
	}
	if r.CaptivePortal != "no" || r.PortalURL != "" || r.IPv4.UDP != "yes" {
		t.Errorf("after the login: %+v", r)
	}
}

// enrolled makes a device that joined while the portal was open, and starts it again behind the closed one.
func enrolled(t *testing.T, ctx context.Context, n *warrennet.Network, site *lab.Site, h *lab.Host) *warrennet.Device {
	t.Helper()
	d := n.DeviceOn(h)
	token, err := n.Token(ctx)
	for _, step := range []func() error{
		func() error { return err },
		site.OpenPortal,
		func() error { return d.StartDaemon(ctx) },
		func() error { return d.Up(ctx, token) },
		func() error { return d.Daemon().Signal(syscall.SIGTERM) },
		site.ClosePortal,
		func() error { return d.StartDaemon(ctx) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// TestNetcheckMTU: a link that carries less, and says nothing of it, shows.
func TestNetcheckMTU(t *testing.T) {
	ctx, n := start(t)
	site, err := n.Lab.Site("dsl", lab.Access{NAT: natmodel.Easy(), MTU: 1400, BlackHole: true})
	if err != nil {
		t.Fatal(err)
	}
	h, err := site.Host("desk")
	if err != nil {
		t.Fatal(err)
	}
	d := n.DeviceOn(h)
	token, err := n.Token(ctx)
	if err == nil {
		err = d.StartDaemon(ctx)
	}
	if err == nil {
		err = d.Up(ctx, token)
	}
	var r netcheck
	if err == nil {
		err = d.Warren(ctx, &r, "netcheck")
	}
	if err != nil {
		t.Fatal(err)
	}
	if r.IPv4.MTU != 1400 {
		t.Errorf("MTU %d, want 1400; findings %q", r.IPv4.MTU, r.Findings)
	}
}
