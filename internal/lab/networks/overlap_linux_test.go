package networks

import (
	"net/netip"
	"testing"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

const twins = `{
	"hosts": {"a": "10.77.1.0/24", "b": "10.77.2.0/24"},
	"grants": [
		{"name": "both ways", "src": ["a", "b"], "dst": ["a", "b"], "ip": ["*"]},
		{"name": "office", "src": ["ann"], "dst": ["a", "b"], "ip": ["*"]},
	],
	"autoApprovers": {"routes": {"10.77.0.0/16": ["tag:gateway"]}},
}`

// TestOverlappingSites: two sites use the same addresses and reach each other under others, both ways, and a laptop reaches both.
//
//	192.168.77.9 --- 192.168.77.0/24 (10.77.1.0/24) --- gateway --- internet --- gateway --- 192.168.77.0/24 (10.77.2.0/24) --- 192.168.77.9
func TestOverlappingSites(t *testing.T) {
	w := newWorld(t, twins)
	prefix := netip.MustParsePrefix("192.168.77.0/24")
	var gateways []*warrennet.Device
	var hosts []*lab.Host
	shown := []string{"10.77.1.0/24", "10.77.2.0/24"}
	for i, name := range []string{"a", "b"} {
		lan, err := w.Lab.LAN("lan of "+name, prefix, netip.Prefix{})
		must(t, err)
		h := w.host(w.Lab.Host("gateway-"+name, lab.Easy))
		must(t, lan.Plug(h, "eth1", 1))
		hosts = append(hosts, w.host(lan.Host("host-"+name, 9, 1)))
		gateways = append(gateways, w.device(h, "tag:gateway", "--advertise", prefix.String()+"="+shown[i]))
	}
	laptop := w.device(w.host(w.Lab.Host("laptop", lab.Easy)), "ann")
	w.awaitRoute(gateways[0], shown[1], "gateway-b")
	w.awaitRoute(gateways[1], shown[0], "gateway-a")
	for i, from := range hosts {
		at := netip.AddrPortFrom(netip.MustParsePrefix(shown[1-i]).Addr().Next(), 8080)
		for range 8 { // .9
			at = netip.AddrPortFrom(at.Addr().Next(), at.Port())
		}
		w.ping(from, at.Addr())
		w.server(hosts[1-i], netip.AddrPortFrom(hosts[1-i].Addr, 8080+uint16(i)))
		c, _ := w.call(from, netip.AddrPortFrom(at.Addr(), 8080+uint16(i)))
		w.through(c, 1<<20)
		w.awaitRoute(laptop, shown[1-i], gateways[1-i].Name)
		c, _ = w.call(laptop.Host, netip.AddrPortFrom(at.Addr(), 8080+uint16(i)))
		w.through(c, 1<<20)
	}
}
