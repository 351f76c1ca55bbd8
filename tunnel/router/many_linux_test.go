package router

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// TestApplyMany: a large network's device has many routes, and the firewall's tables take as many prefixes as there may be.
func TestApplyMany(t *testing.T) {
	a := newAbroad(t)
	s := using("0.0.0.0/0", "::/0")
	s.DNS, s.KillSwitch = addrs("100.64.0.1", "fd00::1"), true
	for i := range 600 {
		s.Routes = append(s.Routes, netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", 100+i%100, i/100)), netip.MustParsePrefix(fmt.Sprintf("fd99:%x::/48", i)))
		s.KillSwitchLAN = append(s.KillSwitchLAN, netip.MustParsePrefix(fmt.Sprintf("172.16.%d.%d/32", i/256, i%256)))
		s.Carried = append(s.Carried, carry(fmt.Sprintf("10.%d.%d.0/24", i/100, i%100), Kind(i%2), fmt.Sprintf("192.%d.%d.0/24", i/100, i%100)))
	}
	a.laptop.apply(a.onLaptop, s)
	a.laptop.apply(a.onLaptop, s)
	a.laptop.wantAnswer("tcp", far4, "internet saw 203.0.113.2")
	a.laptop.wantAnswer("udp", "192.168.1.1:53", "exit saw 100.64.0.9")
	if n := strings.Count(a.laptop.run("ip", "route", "show", "table", "22359"), "\n"); n != 600+3 {
		t.Errorf("%d routes", n)
	}
	a.laptop.do(a.onLaptop.Close)
	a.laptop.do(LiftKillSwitch)
	if left := a.laptop.run("nft", "list", "ruleset"); left != "" {
		t.Errorf("left behind: %d bytes", len(left))
	}
}
