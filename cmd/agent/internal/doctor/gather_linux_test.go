package doctor

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"warren/internal/netnstest"
)

func TestLookAtTUN(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "tun")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		"/dev/net/tun": nil, "/dev/null": errNoDevice, plain: errNoDevice, filepath.Join(dir, "none"): fs.ErrNotExist,
	} {
		if got := lookAtTUN(path); got.Path != path || !errors.Is(got.Err, want) {
			t.Errorf("%s: %v, want %v", path, got.Err, want)
		}
	}
}

func TestRightsOf(t *testing.T) {
	r := rightsOf(0)
	if r == nil || r.Daemon || len(r.Missing) > 0 {
		t.Errorf("of a test that runs as root: %+v", r)
	}
	if r := rightsOf(os.Getpid()); r == nil || !r.Daemon || len(r.Missing) > 0 {
		t.Errorf("as of a daemon: %+v", r)
	}
	if r := rightsOf(1 << 30); r != nil {
		t.Errorf("of no process: %+v", r)
	}
}

// TestLookAtHost: what is really there is seen, and what is this program's own, or of no account, is not.
func TestLookAtHost(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		addLink(t, "eth0", "192.168.7.4/24", "fd77::4/64", "fe80::4/64")
		addLink(t, "tailscale0", "100.100.1.1/32")
		addLink(t, "warren0", "100.80.0.2/32")
		for _, r := range []*netlink.Route{
			route(t, "eth0", "", "192.168.7.1", 254), route(t, "tailscale0", "100.64.0.0/10", "", 52), route(t, "warren0", "100.80.0.0/16", "", 22359),
		} {
			if err := netlink.RouteAdd(r); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range []func(*netlink.Rule){
			func(r *netlink.Rule) { r.Priority, r.Mark, r.Table = 5270, 0x77617272, 254 },
			func(r *netlink.Rule) { r.Priority, r.Mark, r.Table, r.Invert = 5280, 0x77617272, 22359, true },
			func(r *netlink.Rule) {
				mask := uint32(0xff0000)
				r.Priority, r.Mark, r.Mask, r.Table = 5210, 0x80000, &mask, 52
			},
			func(r *netlink.Rule) { r.Priority, r.Table, r.IifName = 5300, 53, "eth0" },
		} {
			one := netlink.NewRule()
			one.Family = netlink.FAMILY_V4
			r(one)
			if err := netlink.RuleAdd(one); err != nil {
				t.Fatal(err)
			}
		}
		h, err := lookAtHost("warren0")
		if err != nil {
			t.Fatal(err)
		}
		wantLinks := []Link{{"eth0", "bridge", 1500, prefixes("192.168.7.0/24", "fd77::/64")}, {"tailscale0", "bridge", 1500, prefixes("100.100.1.1/32")}}
		if diff := cmp.Diff(wantLinks, h.Links, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Error(diff)
		}
		for _, want := range []HostRoute{{prefixes("0.0.0.0/0")[0], "eth0", 254}, {prefixes("100.64.0.0/10")[0], "tailscale0", 52}} {
			if !slices.Contains(h.Routes, want) {
				t.Errorf("no %+v in %+v", want, h.Routes)
			}
		}
		if slices.ContainsFunc(h.Routes, func(r HostRoute) bool { return r.Interface == "warren0" || r.Table == localTable }) {
			t.Errorf("routes: %+v", h.Routes)
		}
		var rules []Rule
		for _, r := range h.Rules {
			if !r.IPv6 {
				rules = append(rules, r)
			}
		}
		want := []Rule{
			{Priority: 0, Always: true, Table: 255}, {Priority: 5210, Mark: 0x80000, Mask: 0xff0000, Always: true, Table: 52}, {Priority: 5300, Table: 53},
			{Priority: 32766, Always: true, Table: 254}, {Priority: 32767, Always: true, Table: 253},
		}
		if diff := cmp.Diff(want, rules); diff != "" {
			t.Error(diff)
		}
		if h.Forwards4 || h.ChainsErr != nil || len(h.Chains) > 0 {
			t.Errorf("forwards %t, chains %+v, %v", h.Forwards4, h.Chains, h.ChainsErr)
		}
	})
}

func addLink(t *testing.T, name string, addrs ...string) {
	t.Helper()
	l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := errors.Join(netlink.LinkAdd(l), netlink.LinkSetUp(l)); err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err == nil {
			err = netlink.AddrAdd(l, addr)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func route(t *testing.T, link, to, by string, table int) *netlink.Route {
	t.Helper()
	l, err := netlink.LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Table: table, Gw: net.ParseIP(by)}
	if to != "" {
		if _, r.Dst, err = net.ParseCIDR(to); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// TestHostChains: chains as Docker, Tailscale, ufw and firewalld have them.
func TestHostChains(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		c, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		drop := nftables.ChainPolicyDrop
		table := func(family nftables.TableFamily, name string) *nftables.Table {
			return c.AddTable(&nftables.Table{Family: family, Name: name})
		}
		base := func(at *nftables.Table, name string, hook *nftables.ChainHook, policy *nftables.ChainPolicy) *nftables.Chain {
			return c.AddChain(&nftables.Chain{Table: at, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: policy})
		}
		rule := func(at *nftables.Chain, exprs ...expr.Any) {
			c.AddRule(&nftables.Rule{Table: at.Table, Chain: at, Exprs: exprs})
		}
		fromInterface := &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}
		filter := table(nftables.TableFamilyIPv4, "filter")
		base(filter, "INPUT", nftables.ChainHookInput, &drop)
		forward := base(filter, "FORWARD", nftables.ChainHookForward, &drop)
		user := c.AddChain(&nftables.Chain{Table: filter, Name: "DOCKER-USER"})
		rule(forward, &expr.Verdict{Kind: expr.VerdictJump, Chain: "DOCKER-USER"})
		rule(user, fromInterface, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("warren0\x00")}, &expr.Verdict{Kind: expr.VerdictAccept})
		ts := c.AddChain(&nftables.Chain{Table: filter, Name: "ts-input"})
		rule(ts, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{255, 192, 0, 0}, Xor: []byte{0, 0, 0, 0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{100, 64, 0, 0}}, &expr.Verdict{Kind: expr.VerdictDrop})
		bans := c.AddChain(&nftables.Chain{Table: filter, Name: "f2b-sshd"}) // which has nothing to do with us
		rule(bans, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{192, 0, 2, 1}}, &expr.Verdict{Kind: expr.VerdictDrop})
		allowed := c.AddChain(&nftables.Chain{Table: filter, Name: "ts-forward"})
		rule(allowed, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{100, 64, 0, 0}}, &expr.Verdict{Kind: expr.VerdictReturn})
		own := table(nftables.TableFamilyINet, "warren")
		base(own, "forward", nftables.ChainHookForward, &drop)
		zones := table(nftables.TableFamilyINet, "zones")
		in := base(zones, "in", nftables.ChainHookInput, &drop)
		set := &nftables.Set{Table: zones, Name: "trusted", KeyType: nftables.TypeIFName}
		if err := c.AddSet(set, []nftables.SetElement{{Key: append([]byte("warren0"), make([]byte, 9)...)}}); err != nil {
			t.Fatal(err)
		}
		rule(in, fromInterface, &expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID}, &expr.Verdict{Kind: expr.VerdictAccept})
		other := table(nftables.TableFamilyINet, "other")
		wild := base(other, "in", nftables.ChainHookInput, &drop)
		rule(wild, fromInterface, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("warren01\x00")}, &expr.Verdict{Kind: expr.VerdictAccept})
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		got, err := hostChains("warren0")
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(got, func(a, b Chain) int { return cmpText(a.Table+a.Name, b.Table+b.Name) })
		want := []Chain{
			{Family: "ip", Table: "filter", Name: "FORWARD", Hook: "forward", Drops: true, NamesUs: true},
			{Family: "ip", Table: "filter", Name: "INPUT", Hook: "input", Drops: true},
			{Family: "ip", Table: "filter", Name: "ts-input", DropsShared: true},
			{Family: "inet", Table: "other", Name: "in", Hook: "input", Drops: true},
			{Family: "inet", Table: "zones", Name: "in", Hook: "input", Drops: true, NamesUs: true},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestDropsInvalid: rules as nft and iptables write them, alone, in a chain that others lead to, and after what lets the tunnel pass.
func TestDropsInvalid(t *testing.T) {
	for script, want := range map[string]bool{
		"add rule inet fw f ct state invalid drop":                                                             true,
		"add rule inet fw f ct state { invalid } drop":                                                         true,
		"add rule inet fw f ct state vmap { established : accept, related : accept, invalid : drop }":          true,
		"add rule inet fw f jump g; add rule inet fw g iifname eth1 ct state invalid drop":                     true,
		"add rule inet fw f ct state established,related accept":                                               false,
		"add rule inet fw f ct state invalid accept":                                                           false,
		"add rule inet fw f ct state vmap { established : accept, invalid : accept, new : drop }":              false,
		"add rule inet fw f ct state != invalid drop":                                                          false,
		"add rule inet fw g ct state invalid drop":                                                             false, // nothing leads there
		"add rule inet fw f iifname warren0 accept; add rule inet fw f ct state invalid drop":                  false,
		"add rule inet fw f oifname { eth9, warren0 } jump g; add rule inet fw f ct state invalid drop":        false,
		"add rule inet fw f iifname warren01 accept; add rule inet fw f ct state invalid drop":                 true,
		"add rule inet fw f jump g; add rule inet fw f ct state invalid drop; add rule inet fw g drop":         true,
		"add rule inet fw f ct state { invalid, untracked } drop":                                              true,
		"add rule inet fw f ct state != { invalid, untracked } drop":                                           false,
		"iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP":                                           true,
		"iptables -A FORWARD -m conntrack --ctstate INVALID,UNTRACKED -j DROP":                                 true,
		"iptables -A FORWARD -m conntrack ! --ctstate INVALID -j DROP":                                         false,
		"iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT":                             false,
		"iptables -A FORWARD -i warren0 -j ACCEPT; iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP": false,
	} {
		netnstest.Run(t, func(t *testing.T) {
			begin := "add table inet fw; add chain inet fw f { type filter hook forward priority 0; }; add chain inet fw g; "
			cmd := exec.Command("nft", begin+script)
			if strings.HasPrefix(script, "iptables") {
				cmd = exec.Command("sh", "-ec", strings.ReplaceAll(script, "iptables", "iptables-nft"))
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", script, err, out)
			}
			chains, err := hostChains("warren0")
			if err != nil {
				t.Fatal(err)
			}
			if got := slices.ContainsFunc(chains, func(c Chain) bool { return c.DropsInvalid }); got != want {
				t.Errorf("%s: %t, want %t", script, got, want)
			}
		})
	}
}

func cmpText(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

func TestNameservers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("# nameserver 192.0.2.1\nsearch example\nnameserver 192.0.2.53\nnameserver\nnameserver x\n nameserver 2001:db8::53 # x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := nameservers(file)
	if want := []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := nameservers(file + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
