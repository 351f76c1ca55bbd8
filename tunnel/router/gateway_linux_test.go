package router

import (
	"net/netip"
	"testing"

	"warren/internal/capture"
)

// office is a network behind a gateway, and a device elsewhere:
//
//	laptop ==tunnel== gateway --- printer
//
// The printer knows nothing of the tunnel but, if routed, a route to the network by the gateway.
type office struct {
	laptop, gateway, printer *station
	onLaptop, onGateway      *Router
}

func newOffice(t *testing.T, routed bool) *office {
	t.Helper()
	o := &office{laptop: newStation(t, "laptop"), gateway: newStation(t, "gateway"), printer: newStation(t, "printer")}
	connect(o.gateway, []string{"192.168.10.1/24", "fd10::1/64"}, o.printer, []string{"192.168.10.7/24", "fd10::7/64"})
	if routed {
		o.printer.route("100.64.0.0/16", "192.168.10.1")
		o.printer.route("fd00::/48", "fd10::1")
		o.printer.route("10.88.0.0/16", "192.168.10.1")
	}
	o.onLaptop, o.onGateway = o.laptop.open(Config{}), o.gateway.open(Config{})
	tunnel(o.onLaptop, o.onGateway)
	o.printer.echo("192.168.10.7:631")
	o.printer.echo("[fd10::7]:631")
	o.laptop.apply(o.onLaptop, laptopState("192.168.10.0/24", "fd10::/64", "10.77.1.0/24", "fd77::/64"))
	return o
}

func laptopState(routes ...string) State {
	network := list("100.64.0.0/16", "fd00::/48")
	return State{Addresses: list("100.64.0.9/32", "fd00::9/128"), Network: network, Routes: append(list(routes...), network...)}
}

func gatewayState(carried ...Carried) State {
	network := list("100.64.0.0/16", "fd00::/48")
	return State{Addresses: list("100.64.0.1/32", "fd00::1/128"), Network: network, Routes: network, Carried: carried}
}

func carry(prefix string, kind Kind, lan ...string) Carried {
	c := Carried{Prefix: netip.MustParsePrefix(prefix), Kind: kind}
	if len(lan) > 0 {
		c.LAN = netip.MustParsePrefix(lan[0])
	}
	return c
}

// TestGateway goes through the kinds of CIDR that a gateway carries, in both families and both transports.
func TestGateway(t *testing.T) {
	for _, c := range []struct {
		name    string
		routed  bool
		carried []Carried
		to4     string // the printer's address, from the laptop
		to6     string
		saw4    string // whom the printer sees
		saw6    string
	}{
		{"masqueraded", false, []Carried{carry("192.168.10.0/24", Masquerade), carry("fd10::/64", Masquerade)},
			"192.168.10.7", "fd10::7", "192.168.10.1", "fd10::1"},
		{"site", true, []Carried{carry("192.168.10.0/24", Site), carry("fd10::/64", Site)},
			"192.168.10.7", "fd10::7", "100.64.0.9", "fd00::9"},
		{"narrower site in a masqueraded", true, []Carried{carry("192.168.0.0/16", Masquerade), carry("192.168.10.0/24", Site), carry("fd10::/64", Site)},
			"192.168.10.7", "fd10::7", "100.64.0.9", "fd00::9"},
		{"translated", false, []Carried{carry("10.77.1.0/24", Masquerade, "192.168.10.0/24"), carry("fd77::/64", Masquerade, "fd10::/64")},
			"10.77.1.7", "fd77::7", "192.168.10.1", "fd10::1"},
		{"translated site", true, []Carried{carry("10.77.1.0/24", Site, "192.168.10.0/24"), carry("fd77::/64", Site, "fd10::/64")},
			"10.77.1.7", "fd77::7", "100.64.0.9", "fd00::9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newOffice(t, c.routed)
			o.gateway.apply(o.onGateway, gatewayState(c.carried...))
			for _, network := range []string{"udp", "tcp"} {
				o.laptop.wantAnswer(network, c.to4+":631", "printer saw "+c.saw4)
				o.laptop.wantAnswer(network, "["+c.to6+"]:631", "printer saw "+c.saw6)
			}
			// Connections that the office begins arrive by the prefix that the network knows it by.
			if c.routed {
				o.laptop.echo("100.64.0.9:80")
				o.laptop.echo("[fd00::9]:80")
				for _, network := range []string{"udp", "tcp"} {
					o.printer.wantAnswer(network, "100.64.0.9:80", "laptop saw "+c.to4)
					o.printer.wantAnswer(network, "[fd00::9]:80", "laptop saw "+c.to6)
				}
			}
			// What it carries no longer, it does not translate either: without routes back there is no answer.
			o.gateway.apply(o.onGateway, gatewayState())
			if !c.routed {
				o.laptop.wantNone("udp", c.to4+":631", "")
				o.laptop.wantNone("udp", "["+c.to6+"]:631", "")
			}
		})
	}
}

// TestGatewayClamps: connections through a gateway whose tunnel is narrower than both ends know are opened with segments that fit, either way.
func TestGatewayClamps(t *testing.T) {
	o := newOffice(t, true)
	s := gatewayState(carry("192.168.10.0/24", Site), carry("fd10::/64", Site))
	s.MTU = 1280
	o.gateway.apply(o.onGateway, s)
	o.laptop.echo("100.64.0.9:80")
	o.laptop.echo("[fd00::9]:80")
	atPrinter, atLaptop := o.printer.capture("gateway"), o.laptop.capture(name)
	o.laptop.wantAnswer("tcp", "192.168.10.7:631", "printer saw 100.64.0.9")
	o.laptop.wantAnswer("tcp", "[fd10::7]:631", "printer saw fd00::9")
	o.printer.wantAnswer("tcp", "100.64.0.9:80", "laptop saw 192.168.10.7")
	o.printer.wantAnswer("tcp", "[fd00::9]:80", "laptop saw fd10::7")
	for what, w := range map[string]*wire{"printer": atPrinter, "laptop": atLaptop} {
		for family, want := range map[bool]uint16{true: 1280 - 20 - 20, false: 1280 - 40 - 20} {
			for _, f := range w.await(2, func(f capture.Frame) bool { return f.Segment != 0 && f.To.Is4() == family }) {
				if f.Segment != want {
					t.Errorf("the %s is told segments of %d, want %d: %s", what, f.Segment, want, f)
				}
			}
		}
	}
}

// TestGatewayProbes: a probe address is masqueraded also towards a site, where addresses stay as they are otherwise.
func TestGatewayProbes(t *testing.T) {
	o := newOffice(t, false)
	s := gatewayState(carry("192.168.10.0/24", Site), carry("fd10::/64", Site))
	s.Probes = addrs("100.64.255.254", "fd00::ffff")
	o.gateway.apply(o.onGateway, s)
	// The probe comes out of the gateway's own interface: here it is the laptop that has the address.
	probing := laptopState("192.168.10.0/24", "fd10::/64")
	probing.Addresses = list("100.64.255.254/32", "fd00::ffff/128")
	o.laptop.apply(o.onLaptop, probing)
	o.laptop.wantAnswer("udp", "192.168.10.7:631", "printer saw 192.168.10.1")
	o.laptop.wantAnswer("udp", "[fd10::7]:631", "printer saw fd10::1")
}

// TestExitNodeThatCarries: an exit node masquerades towards everywhere but the network's own prefixes and what it carries as a site.
func TestExitNodeThatCarries(t *testing.T) {
	o := newOffice(t, true)
	s := gatewayState(carry("192.168.10.0/24", Site))
	s.Exit = Families{IPv4: true, IPv6: true}
	o.gateway.apply(o.onGateway, s)
	o.laptop.apply(o.onLaptop, laptopState("0.0.0.0/0", "::/0"))
	o.laptop.wantAnswer("tcp", "192.168.10.7:631", "printer saw 100.64.0.9")
	o.laptop.wantAnswer("tcp", "[fd10::7]:631", "printer saw fd10::1")
	// A part of the network behind the gateway, as another of its devices would be.
	o.printer.run("ip", "address", "add", "100.64.7.7/32", "dev", "lo")
	o.printer.echo("100.64.7.7:631")
	o.gateway.route("100.64.7.7/32", "192.168.10.7")
	s.Local = list("100.64.7.7/32")
	o.gateway.apply(o.onGateway, s)
	o.laptop.wantAnswer("udp", "100.64.7.7:631", "printer saw 100.64.0.9")
}
