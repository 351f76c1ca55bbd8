package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"warren/tunnel/router"
)

const mainTable = 254

// shared is the address space between providers and their customers (RFC 6598), which VPNs use as well, this one too.
func shared() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10) }

// product names the other VPN that an interface is known to belong to.
func product(l Link) string {
	for _, p := range []struct{ prefix, name string }{
		{"tailscale", "Tailscale"}, {"wt0", "NetBird"}, {"zt", "ZeroTier"}, {"nebula", "Nebula"}, {"utun", ""}, {"tun-firezone", "Firezone"},
		{"CloudflareWARP", "Cloudflare WARP"}, {"nordlynx", "NordVPN"}, {"proton", "Proton VPN"}, {"wg", "WireGuard"},
	} {
		if p.name != "" && strings.HasPrefix(l.Name, p.prefix) {
			return p.name
		}
	}
	if l.Kind == "wireguard" {
		return "WireGuard"
	}
	return ""
}

func noHost(name string, f Facts) []Finding {
	return unknown(name, "", "the host's network could not be looked at: %v", f.HostErr)
}

// conflicts finds other networks with addresses of this one, and other VPNs that are known to be in the way.
func conflicts(f Facts) (out []Finding) {
	const name = "other-vpn"
	if f.userspace() {
		return notNeeded(name)
	}
	if f.Host == nil {
		return noHost(name, f)
	}
	overlay := f.overlay()
	var besides []string
	for _, l := range f.Host.Links {
		who := product(l)
		if p, ok := overlapping(l.Prefixes, overlay); ok {
			out = append(out, Finding{name, Failed, fmt.Sprintf("interface %s%s has %s, which overlaps with this network's %s", l.Name, of(who), p[0], p[1]),
				"give the other network another prefix, or make this one anew with \"warren-coordinator serve --ipv4 PREFIX\""})
			continue
		}
		in, _ := overlapping(l.Prefixes, []netip.Prefix{shared()})
		switch {
		case who != "":
			besides = append(besides, l.Name+of(who))
		case in[0].IsValid():
			besides = append(besides, fmt.Sprintf("%s (%s, a provider's shared addresses)", l.Name, in[0]))
		}
	}
	for _, r := range f.Host.Routes {
		if r.Prefix.Bits() == 0 || r.Table == router.Table {
			continue
		}
		p, ok := overlapping([]netip.Prefix{r.Prefix}, overlay)
		if ok && !slices.ContainsFunc(f.Host.Links, func(l Link) bool { return l.Name == r.Interface && slices.Contains(l.Prefixes, r.Prefix) }) {
			out = append(out, Finding{name, Warning, fmt.Sprintf("a route to %s by %s (table %d) overlaps with this network's %s; the tunnel goes first", p[0], r.Interface, r.Table, p[1]),
				"give the other network another prefix if its hosts are to be reached from here"})
		}
	}
	_, inShared := overlapping(overlay, []netip.Prefix{shared()})
	for _, c := range f.Host.Chains {
		if c.DropsShared && inShared {
			out = append(out, Finding{name, Failed, fmt.Sprintf("chain %s of nftables table %s %s drops what comes from %s, and this network's addresses are in it", c.Name, c.Family, c.Table, shared()),
				fmt.Sprintf("let it accept what comes from %s first; Tailscale adds such rules unless it is told \"tailscale set --netfilter-mode=off\"", f.Interface)})
		}
	}
	switch {
	case len(out) > 0:
		return out
	case len(overlay) == 0:
		return unknown(name, f.before(), "this network's addresses are not known yet; other networks here: %s", orNone(besides))
	}
	return fine(name, "no other network has addresses of %s; other networks here: %s", join(overlay), orNone(besides))
}

func of(product string) string {
	if product == "" {
		return ""
	}
	return " of " + product
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// overlay are the network's prefixes, or what is known of them: the device's own addresses.
func (f Facts) overlay() (out []netip.Prefix) {
	if f.Member == nil {
		return nil
	}
	out = slices.Clone(f.Member.Overlay)
	for _, a := range f.Member.Addresses {
		if !slices.ContainsFunc(out, func(p netip.Prefix) bool { return p.Contains(a) }) {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}

// overlapping gives the first pair that do.
func overlapping(a, b []netip.Prefix) (pair [2]netip.Prefix, ok bool) {
	for _, p := range a {
		for _, q := range b {
			if p.Overlaps(q) {
				return [2]netip.Prefix{p, q}, true
			}
		}
	}
	return pair, false
}

// rules finds entries of the routing policy that go before ours and take packets away.
func rules(f Facts) (out []Finding) {
	const name = "rules"
	if f.userspace() {
		return notNeeded(name)
	}
	if f.Host == nil {
		return noHost(name, f)
	}
	for _, r := range f.Host.Rules {
		family := "IPv4"
		if r.IPv6 {
			family = "IPv6"
		}
		ours := router.Mark&r.Mask == r.Mark
		switch {
		case r.Table == mainTable || r.Table == localTable || r.Table == defaultTable:
		case r.Priority == router.MarkPriority || r.Priority == router.TablePriority:
			out = append(out, Finding{name, Failed, fmt.Sprintf("another program's %s rule has priority %d, which is this program's; it leads to table %d", family, r.Priority, r.Table),
				fmt.Sprintf("give it another priority: \"ip rule\" lists all, priorities %d and %d are Warren's", router.MarkPriority, router.TablePriority)})
		case r.Priority < router.MarkPriority && r.Always && r.Mask != 0 && ours:
			out = append(out, Finding{name, Failed, fmt.Sprintf("an %s rule of priority %d takes packets with mark %#x/%#x to table %d, the tunnel's own among them (mark %#x)", family, r.Priority, r.Mark, r.Mask, r.Table, uint32(router.Mark)),
				"have the other program use another mark"})
		case r.Priority < router.MarkPriority && r.Always && r.Mask == 0:
			out = append(out, Finding{name, Warning, fmt.Sprintf("an %s rule of priority %d has all packets look into table %d before the tunnel's", family, r.Priority, r.Table),
				fmt.Sprintf("see that it leaves this network's addresses alone: \"ip route show table %d\"", r.Table)})
		}
	}
	if len(out) == 0 {
		return fine(name, "no other rule goes before those of the tunnel, %d and %d", router.MarkPriority, router.TablePriority)
	}
	return out
}

// The other tables that every host has.
const localTable, defaultTable = 255, 253

// overlaps finds CIDRs of gateways that the host also has at hand.
func overlaps(f Facts) (out []Finding) {
	const name = "overlaps"
	if f.userspace() {
		return notNeeded(name)
	}
	switch {
	case f.Host == nil:
		return noHost(name, f)
	case f.Member == nil || f.Member.State == "":
		return unknown(name, f.before(), "which CIDRs of gateways there are is not known")
	}
	for _, r := range f.Member.Routes {
		if r.Prefix.Bits() == 0 || r.Use == "own" || r.Use == "refused" {
			continue
		}
		for _, l := range f.Host.Links {
			p, ok := overlapping(l.Prefixes, []netip.Prefix{r.Prefix})
			if !ok {
				continue
			}
			text := fmt.Sprintf("the connected network %s of %s overlaps with %s behind a gateway; ", p[0], l.Name, r.Prefix)
			if r.Use == "lan" {
				text += "the connected one is used"
			} else {
				text += "the tunnel is used"
			}
			if r.Reason != "" {
				text += ": " + r.Reason
			}
			out = append(out, Finding{name, Warning, text, fmt.Sprintf("\"warren set --prefer-lan %s\" has the connected network win; or have the gateway carry its network under another CIDR (--advertise CIDR=CIDR)", r.Prefix)})
		}
	}
	if len(out) == 0 {
		return fine(name, "no connected network overlaps with a CIDR of a gateway (%d of them)", len(f.Member.Routes))
	}
	return out
}

// forwarding is checked where the device carries something for others.
func forwarding(f Facts) (out []Finding) {
	const name = "forwarding"
	if f.userspace() {
		return notNeeded(name)
	}
	switch {
	case f.Member == nil && f.hidden():
		return unknown(name, askRoot, "whether this device carries something for others is not known")
	case f.Member == nil || len(f.Member.Advertised) == 0:
		return fine(name, "not needed: this device carries no CIDR for others")
	case f.Host == nil:
		return noHost(name, f)
	}
	is6 := func(p netip.Prefix) bool { return p.Addr().Is6() }
	is4 := func(p netip.Prefix) bool { return p.Addr().Is4() }
	for _, one := range []struct {
		of     func(netip.Prefix) bool
		on     bool
		sysctl string
	}{{is4, f.Host.Forwards4, "net.ipv4.ip_forward"}, {is6, f.Host.Forwards6, "net.ipv6.conf.all.forwarding"}} {
		i := slices.IndexFunc(f.Member.Advertised, one.of)
		if i < 0 || one.on {
			continue
		}
		out = append(out, Finding{name, Failed, fmt.Sprintf("%s is 0, so nothing gets through to %s", one.sysctl, f.Member.Advertised[i]),
			fmt.Sprintf("sysctl -w %s=1, and find out who turned it off (/etc/sysctl.d); in a container: --sysctl %s=1", one.sysctl, one.sysctl)})
	}
	if len(out) == 0 {
		return fine(name, "the kernel forwards packets to %s", join(f.Member.Advertised))
	}
	return out
}

// firewall finds chains that drop what comes out of the tunnel.
func firewall(f Facts) (out []Finding) {
	const name = "firewall"
	if f.userspace() {
		return notNeeded(name)
	}
	switch {
	case f.Host == nil:
		return noHost(name, f)
	case f.Host.ChainsErr != nil:
		help := ""
		if f.UID != 0 {
			help = askRoot
		}
		return unknown(name, help, "the rules of nftables could not be read: %v", f.Host.ChainsErr)
	}
	carries := f.Member != nil && len(f.Member.Advertised) > 0
	for _, c := range f.Host.Chains {
		if c.DropsInvalid && carries && f.Member.paired() {
			out = append(out, dropsInvalid(c, f.Interface))
		}
		if !c.Drops || c.NamesUs {
			continue
		}
		where := fmt.Sprintf("chain %s of nftables table %s %s", c.Name, c.Family, c.Table)
		switch {
		case c.Hook == "input":
			out = append(out, Finding{name, Warning, fmt.Sprintf("%s drops what no rule accepts, and no rule names %s: peers may not reach services of this host", where, f.Interface),
				fmt.Sprintf("let it accept what comes from %s; Warren's own filter allows what the network's policy does, and no more", f.Interface)})
		case c.Hook == "forward" && carries:
			out = append(out, Finding{name, Failed, fmt.Sprintf("%s drops what no rule accepts, and no rule names %s: peers do not reach what this device carries", where, f.Interface),
				fmt.Sprintf("let it accept what comes from %s and goes there", f.Interface)})
		}
	}
	if len(out) == 0 {
		return fine(name, "no chain of nftables drops by its policy what comes out of the tunnel")
	}
	return out
}

// paired reports whether other gateways carry a CIDR of this device's, too.
func (m *Member) paired() bool {
	return slices.ContainsFunc(m.Routes, func(r Route) bool { return r.Use == "own" })
}

// dropsInvalid is about one of two gateways: what is under way through one of them has often begun at the other.
func dropsInvalid(c Chain, tunnel string) Finding {
	return Finding{"firewall", Warning,
		fmt.Sprintf("chain %s of nftables table %s %s drops packets of connections that it has not seen the beginning of (ct state invalid): connections through the "+
			"other gateway of the same CIDR break where their answers come here, or when one takes over from the other", c.Name, c.Family, c.Table),
		fmt.Sprintf("accept what comes from %[1]s and what goes there before that rule: nft insert rule %[2]s %[3]s %[4]s iifname %[1]s accept; "+
			"nft insert rule %[2]s %[3]s %[4]s oifname %[1]s accept", tunnel, c.Family, c.Table, c.Name)}
}
