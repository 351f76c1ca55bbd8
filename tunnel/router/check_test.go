package router

import (
	"net/netip"
	"strings"
	"testing"
)

// TestCheck goes through States that make no sense: each is refused with what is wrong, and the same without that is fine.
func TestCheck(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	carried := func(list ...Carried) State { return State{Carried: list} }
	for _, c := range []struct {
		want string // empty: fine
		s    State
	}{
		{"", State{}},
		{"", State{Routes: []netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0"), prefix("10.0.0.0/8")}, Local: []netip.Prefix{prefix("10.0.0.0/8")}}},
		{"route 10.0.0.1/8 has host bits: it is 10.0.0.0/8", State{Routes: []netip.Prefix{prefix("10.0.0.1/8")}}},
		{"local 10.0.0.1/8 has host bits", State{Local: []netip.Prefix{prefix("10.0.0.1/8")}}},
		{"network fd00::1/64 has host bits", State{Network: []netip.Prefix{prefix("fd00::1/64")}}},
		{"kill switch fd00::1/64 has host bits", State{KillSwitchLAN: []netip.Prefix{prefix("fd00::1/64")}}},
		{"route invalid Prefix: not a prefix", State{Routes: []netip.Prefix{{}}}},
		{"not a prefix", State{Routes: []netip.Prefix{netip.PrefixFrom(addr("::ffff:10.0.0.0"), 104)}}},
		{"65537 prefixes of kind \"route\": at most 65536", State{Routes: make([]netip.Prefix, 65537)}},
		{"", State{Addresses: []netip.Prefix{prefix("100.64.0.1/32"), prefix("fd00::1/128")}}},
		{"address 100.64.0.1/16: a device's own is of full length", State{Addresses: []netip.Prefix{prefix("100.64.0.1/16")}}},
		{"of full length", State{Addresses: []netip.Prefix{{}}}},
		{"", State{DNS: []netip.Addr{addr("100.64.0.1"), addr("fd00::1")}}},
		{"DNS servers 100.64.0.1 and 100.64.0.2: at most one of each family", State{DNS: []netip.Addr{addr("100.64.0.1"), addr("100.64.0.2")}}},
		{"DNS server 0.0.0.0: not an address of one device", State{DNS: []netip.Addr{addr("0.0.0.0")}}},
		{"DNS server fe80::1%eth0", State{DNS: []netip.Addr{addr("fe80::1%eth0")}}},
		{"probe ff02::1", State{Probes: []netip.Addr{addr("ff02::1")}}},
		{"probe invalid IP", State{Probes: []netip.Addr{{}}}},
		{"", carried(Carried{Prefix: prefix("10.1.0.0/16")}, Carried{Prefix: prefix("10.1.1.0/24"), Kind: Site})},
		{"", carried(Carried{Prefix: prefix("10.77.1.0/24"), LAN: prefix("192.168.1.0/24")}, Carried{Prefix: prefix("fd00::/64"), LAN: prefix("fd00::/64")})},
		{"carried 10.1.0.1/16 has host bits", carried(Carried{Prefix: prefix("10.1.0.1/16")})},
		{"LAN of 10.77.1.0/24 192.168.1.1/24 has host bits", carried(Carried{Prefix: prefix("10.77.1.0/24"), LAN: prefix("192.168.1.1/24")})},
		{"carried 10.77.1.0/24 cannot be translated to 192.168.0.0/16 one to one", carried(Carried{Prefix: prefix("10.77.1.0/24"), LAN: prefix("192.168.0.0/16")})},
		{"cannot be translated to fd00::/24", carried(Carried{Prefix: prefix("10.77.1.0/24"), LAN: prefix("fd00::/24")})},
		{"carried 0.0.0.0/0: all addresses are for an exit node", carried(Carried{Prefix: prefix("0.0.0.0/0")})},
		{"carried 10.1.0.0/16: twice", carried(Carried{Prefix: prefix("10.1.0.0/16")}, Carried{Prefix: prefix("10.1.0.0/16"), Kind: Site})},
		{"LAN 192.168.1.0/24 is carried twice, as 10.77.1.0/24 and as 192.168.1.0/24",
			carried(Carried{Prefix: prefix("10.77.1.0/24"), LAN: prefix("192.168.1.0/24")}, Carried{Prefix: prefix("192.168.1.0/24"), Kind: Site})},
	} {
		err := c.s.check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("got %v; want %q", err, c.want)
		}
	}
}
