package networks

import (
	"net/netip"
	"strings"
	"testing"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// awaitUse waits until a device does this with packets for a CIDR.
func (w *world) awaitUse(d *warrennet.Device, cidr, use string) *warrennet.Route {
	w.t.Helper()
	s, err := d.Await(w.ctx, "using the "+use+" for "+cidr, func(s *warrennet.Status) bool { r := s.Route(cidr); return r != nil && r.Use == use })
	must(w.t, err)
	return s.Route(cidr)
}

// TestLaptopComesIntoOffice: a laptop that reaches the office's printer through the tunnel is carried into the office, where it reaches it over the LAN, and
// out again. In a café with the office's addresses the tunnel keeps them, but for the café's router, until the user says otherwise.
func TestLaptopComesIntoOffice(t *testing.T) {
	w := newWorld(t, office)
	site := w.site("office", lab.Easy)
	gatewayHost, printer := w.host(site.Host("gateway")), w.host(site.Host("printer"))
	lan := netip.PrefixFrom(printer.Addr, 24).Masked().String()
	gateway := w.device(gatewayHost, "tag:gateway", "--advertise", lan)
	w.approve(gateway)
	home := w.site("home", lab.Easy)
	laptop := w.device(w.host(home.Host("laptop")), "ann")
	at := netip.AddrPortFrom(printer.Addr, 631)
	w.server(printer, at)

	w.awaitUse(laptop, lan, "tunnel")
	w.ping(laptop.Host, printer.Addr)
	c, seen := w.call(laptop.Host, at)
	if seen != gatewayHost.Addr.String() {
		t.Errorf("from home the printer is called by %s, want %s", seen, gatewayHost.Addr)
	}
	c.Close()

	must(t, laptop.Move(site))
	r := w.awaitUse(laptop, lan, "lan")
	if !strings.Contains(r.Reason, "this is that site") {
		t.Errorf("in the office the LAN is used because %q", r.Reason)
	}
	w.ping(laptop.Host, printer.Addr)
	c, seen = w.call(laptop.Host, at)
	if seen != laptop.Addr.String() {
		t.Errorf("in the office the printer is called by %s, want the laptop's own %s", seen, laptop.Addr)
	}
	c.Close()

	must(t, laptop.Move(home))
	w.awaitUse(laptop, lan, "tunnel")
	w.ping(laptop.Host, printer.Addr)

	// Another one has sent nothing through the tunnel when it comes.
	idle := w.device(w.host(home.Host("idle")), "ann")
	w.awaitUse(idle, lan, "tunnel")
	must(t, idle.Move(site))
	w.awaitUse(idle, lan, "lan")
}

// TestCafe: a café uses the office's addresses, and has a host at that of the printer. What is for the printer goes to the office.
func TestCafe(t *testing.T) {
	w := newWorld(t, strings.ReplaceAll(office, "192.168.0.0/16", "10.88.0.0/16"))
	prefix := netip.MustParsePrefix("10.88.1.0/24")
	lan, err := w.Lab.LAN("office LAN", prefix, netip.Prefix{})
	must(t, err)
	gatewayHost := w.host(w.Lab.Host("gateway", lab.Easy))
	must(t, lan.Plug(gatewayHost, "eth1", 1))
	printer := w.host(lan.Host("printer", 9, 1))
	gateway := w.device(gatewayHost, "tag:gateway", "--advertise", prefix.String())
	w.approve(gateway)

	// The café's router stands between its LAN and the internet.
	cafe, err := w.Lab.LAN("café", prefix, netip.Prefix{})
	must(t, err)
	router := w.host(w.Lab.Host("café's router", lab.None))
	must(t, cafe.Plug(router, "eth1", 1))
	must(t, router.Sysctl("ipv4/ip_forward", "1"))
	must(t, w.nftOn(router, "add table ip n; add chain ip n p { type nat hook postrouting priority 100; }; add rule ip n p oifname eth0 masquerade"))
	impostor := w.host(cafe.Host("impostor", 9, 1))
	laptop := w.device(w.host(cafe.Host("laptop", 20, 1)), "ann")
	at := netip.AddrPortFrom(printer.Addr, 631)
	w.server(printer, at)
	w.server(impostor, at)

	r := w.awaitUse(laptop, prefix.String(), "tunnel")
	if !strings.Contains(r.Reason, "same addresses") || !strings.Contains(r.Reason, "10.88.1.1") {
		t.Errorf("the conflict is told as %q", r.Reason)
	}
	w.ping(laptop.Host, printer.Addr)
	_, seen := w.call(laptop.Host, at)
	if want := lan.Address4(1).String(); seen != want {
		t.Errorf("the printer is called by %s, want the gateway, %s: is this the café's host?", seen, want)
	}

	must(t, laptop.Warren(w.ctx, nil, "set", "--prefer-lan", prefix.String()))
	r = w.awaitUse(laptop, prefix.String(), "lan")
	if !strings.Contains(r.Reason, "--prefer-lan") {
		t.Errorf("the choice is told as %q", r.Reason)
	}
	_, seen = w.call(laptop.Host, at)
	if seen != laptop.Addr.String() {
		t.Errorf("the café's host is called by %s, want the laptop's own %s", seen, laptop.Addr)
	}
}
