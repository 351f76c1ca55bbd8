package router

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// all is a state with everything at once.
func all() State {
	return State{
		Addresses: list("100.64.0.1/32", "fd00::1/128"),
		Network:   list("100.64.0.0/16", "fd00::/48"),
		Routes:    list("100.64.0.0/16", "fd00::/48", "10.2.0.0/16", "0.0.0.0/0"),
		Local:     list("192.168.1.0/24", "fd01::/64"),
		Blocked:   Families{IPv6: true},
		DNS:       addrs("100.64.0.9"),
		Carried: []Carried{
			{Prefix: netip.MustParsePrefix("192.168.0.0/16"), Kind: Site},
			{Prefix: netip.MustParsePrefix("192.168.10.0/24")},
			{Prefix: netip.MustParsePrefix("10.77.1.0/24"), LAN: netip.MustParsePrefix("192.168.7.0/24")},
			{Prefix: netip.MustParsePrefix("fd77::/64"), Kind: Site, LAN: netip.MustParsePrefix("fd78::/64")},
		},
		Exit:   Families{IPv4: true, IPv6: true},
		Probes: addrs("100.64.255.254", "fd00::ffff"),
	}
}

// TestTextAndKernel: nft reads the text of a table, and what the kernel got of us, alike.
func TestTextAndKernel(t *testing.T) {
	withDNS6 := all()
	withDNS6.Routes = append(withDNS6.Routes, list("240.0.0.0/4", "8000::/1", "10.3.0.0/24", "10.5.0.0/24", "10.5.1.0/24")...)
	withDNS6.DNS, withDNS6.Blocked = addrs("100.64.0.9", "fd00::9"), Families{IPv4: true}
	for what, table := range map[string]table{
		"all": firewallFor(name, all(), true), "no socket match": firewallFor(name, all(), false), "other families": firewallFor(name, withDNS6, true),
		"gateway": firewallFor(name, State{Carried: all().Carried}, true), "usual interface": firewallFor(usualInterface, all(), true),
		"kill switch": killSwitchFor(name, list("192.168.1.0/24", "fd01::/64")),
	} {
		s := newStation(t, "host")
		s.do(table.load)
		ours := s.run("nft", "list", "table", "inet", table.name)
		s.do(table.load) // in place of the first
		if again := s.run("nft", "list", "table", "inet", table.name); again != ours {
			t.Errorf("%s: loaded twice:\n%s", what, cmp.Diff(ours, again))
		}
		file := filepath.Join(t.TempDir(), "table")
		if err := os.WriteFile(file, []byte(table.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		s.run("nft", "-f", file)
		text := s.run("nft", "list", "table", "inet", table.name)
		if diff := cmp.Diff(ours, text); diff != "" {
			t.Errorf("%s: -kernel +text:\n%s", what, diff)
		}
		if strings.Count(ours, "\n") < 10 {
			t.Errorf("%s: hardly anything was loaded:\n%s", what, ours)
		}
		s.do(func() error { return removeTable(table.name) })
		s.do(func() error { return removeTable(table.name) })
		if left := s.run("nft", "list", "ruleset"); left != "" {
			t.Errorf("%s: left behind:\n%s", what, left)
		}
	}
}
