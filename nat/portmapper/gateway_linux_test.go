package portmapper

import (
	"errors"
	"net"
	"testing"

	"github.com/vishvananda/netlink"

	"warren/internal/netnstest"
)

// TestDefaultGateway changes a network namespace of its own.
func TestDefaultGateway(t *testing.T) {
	netnstest.Run(t, gateways)
}

func gateways(t *testing.T) {
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	want := func(what, wantGateway, wantLocal string) {
		t.Helper()
		gateway, local, err := defaultGateway("warren0")
		if err != nil || gateway.String() != wantGateway || local.String() != wantLocal {
			t.Errorf("%s: %s from %s, %v; want %s from %s", what, gateway, local, err, wantGateway, wantLocal)
		}
	}
	if _, _, err := defaultGateway("warren0"); !errors.Is(err, ErrNoGateway) {
		t.Errorf("without a route: %v", err)
	}
	add := func(name string, addrs ...string) netlink.Link {
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}
		check(name, netlink.LinkAdd(link))
		for _, a := range addrs {
			p, err := netlink.ParseAddr(a)
			check(a, err)
			check(a, netlink.AddrAdd(link, p))
		}
		check(name, netlink.LinkSetUp(link))
		return link
	}
	route := func(link netlink.Link, gw string, metric int, src net.IP) {
		t.Helper()
		check(gw, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gw), Priority: metric, Src: src}))
	}
	tunnel := add("warren0", "10.99.0.1/24")
	route(tunnel, "10.99.0.2", 1, nil)
	if _, _, err := defaultGateway("warren0"); !errors.Is(err, ErrNoGateway) {
		t.Errorf("through the tunnel: %v", err)
	}
	slow := add("slow", "172.16.0.9/24", "192.168.7.5/24")
	route(slow, "192.168.7.1", 600, nil)
	want("one", "192.168.7.1", "192.168.7.5")
	fast := add("fast", "192.168.8.5/24", "192.168.8.6/24")
	route(fast, "192.168.8.1", 100, net.IPv4(192, 168, 8, 6))
	want("lower metric, with a source", "192.168.8.1", "192.168.8.6")
	check("down", netlink.LinkSetDown(fast))
	want("the other again", "192.168.7.1", "192.168.7.5")
}
