package sitecheck

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// site checks this device's own side of a CIDR, and reports whether it carries it.
func (c *check) site(ctx context.Context, s Site) bool {
	switch s.State {
	case "approved":
		c.ok(Advertised, fmt.Sprintf("%s carries %s", c.Device, s.Prefix))
	case "waiting":
		c.failed(Advertised, fmt.Sprintf("%s is advertised, and waits for an administrator's approval", s.Prefix),
			fmt.Sprintf("On the coordinator: warren-coordinator route approve %s %s", c.Device, s.Prefix))
		return false
	default:
		c.failed(Advertised, fmt.Sprintf("the coordinator has not been told yet that this device advertises %s", s.Prefix),
			`See "warren status" for whether it is connected.`)
		return false
	}
	forwards := c.forwarding(s)
	if !s.Host.IsValid() {
		c.result(LAN, Unknown, fmt.Sprintf("no host in %s is known", s.Prefix), `Name one that answers pings: "warren set --probe ADDRESS", or --host here.`)
		return true
	}
	if c.lan(ctx, s, forwards) {
		c.returns(ctx, s)
	}
	return true
}

func (c *check) forwarding(s Site) bool {
	family, key := "IPv4", "net.ipv4.ip_forward"
	if s.Prefix.Addr().Is6() {
		family, key = "IPv6", "net.ipv6.conf.all.forwarding"
	}
	on, err := c.probes.Forwards(s.Prefix.Addr())
	switch {
	case err != nil:
		c.result(Forwarding, Unknown, fmt.Sprintf("whether this host forwards %s cannot be seen: %v", family, err), "")
		return true
	case !on:
		c.failed(Forwarding, fmt.Sprintf("this host does not forward %s", family),
			fmt.Sprintf("Something has turned it off since Warren turned it on: sysctl -w %s=1, and look for what sets it in /etc/sysctl.d.", key))
	default:
		c.ok(Forwarding, fmt.Sprintf("this host forwards %s", family))
	}
	return on
}

// lan reports whether a host of the LAN is reached through forwarding.
func (c *check) lan(ctx context.Context, s Site, forwards bool) bool {
	if c.probes.Through(ctx, s.Host) {
		c.ok(LAN, fmt.Sprintf("%s answers through this host's forwarding", s.Host))
		return true
	}
	switch {
	case !c.probes.Straight(ctx, s.Host):
		c.failed(LAN, fmt.Sprintf("%s does not answer this host's pings", s.Host),
			"Check the cable and the address of this host's interface to the LAN, and that the host named is on and answers pings.")
	case !forwards:
		c.failed(LAN, fmt.Sprintf("%s answers this host itself, but nothing is forwarded to it", s.Host), "Turn forwarding on; see above.")
	default:
		c.failed(LAN, fmt.Sprintf("%s answers this host itself, but not through its forwarding, which is on: a firewall here drops forwarded packets", s.Host),
			`Look at "nft list ruleset" and "iptables -S FORWARD", and let pass what comes from or goes to the tunnel's interface.`)
	}
	return false
}

// returns checks that the LAN knows the way back to each other site, and to devices.
func (c *check) returns(ctx context.Context, s Site) {
	if s.Masqueraded {
		c.ok(ReturnRoute, fmt.Sprintf("hosts in %s see this gateway's own address, and need no route", s.Prefix))
		return
	}
	for _, r := range c.Remotes {
		if r.Gateway != "" {
			c.way(ctx, s, r.Prefix, Failed, "")
		}
	}
	bad, so := Warning, "So devices cannot reach the hosts, though other sites may. "
	if len(s.Siblings) > 0 { // who do not hand over what is for no device
		bad, so = Unknown, "It may come out at a sibling, which hands what is for a device to the gateway that the device uses. Otherwise: "
	}
	for _, p := range c.Overlay {
		c.way(ctx, s, p, bad, so)
	}
}

// way checks one way back, by an address that no host has: the first one of the prefix.
func (c *check) way(ctx context.Context, s Site, to netip.Prefix, bad, so string) {
	if to.Addr().Is4() != s.Host.Is4() {
		return
	}
	if to.Bits() >= to.Addr().BitLen()-1 {
		c.result(ReturnRoute, Unknown, fmt.Sprintf("the way from %s to %s is not checked: there is no address that no host has", s.Host, to), "")
		return
	}
	if c.probes.From(ctx, to.Masked().Addr(), s.Host) {
		c.ok(ReturnRoute, fmt.Sprintf("%s answers %s by way of this gateway", s.Host, to))
		return
	}
	via, help := "THIS-GATEWAY", ""
	if s.Own.IsValid() {
		via = s.Own.String()
	}
	ip := "ip"
	if to.Addr().Is6() {
		ip = "ip -6"
	}
	switch {
	case len(s.Siblings) == 0:
		help = fmt.Sprintf("On the LAN's router: %s route add %s via %s. ", ip, to, via)
	default:
		siblings := strings.Join(s.Siblings, ", ")
		help = fmt.Sprintf("On the LAN's router: %s route add %s via ADDRESS, where ADDRESS is the VRRP one that this gateway shares with %s (see "+
			"\"Two gateways\" in docs/networks.md; without VRRP: %s). ", ip, to, siblings, via)
		if s.Elsewhere { // only of those who use this gateway siblings hand over what comes out at them
			if bad == Failed {
				bad = Warning
			}
			help += fmt.Sprintf("But some use %s, where the answer may have come out: check there, too. ", siblings)
		}
	}
	c.result(ReturnRoute, bad, fmt.Sprintf("%s answers this gateway, but what it sends to %s does not come here", s.Host, to),
		so+help+"If the route is there: the host's own firewall may refuse what comes from other networks.")
}
