package sitecheck

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// remote checks what is between a site of this device and another one.
func (c *check) remote(ctx context.Context, s Site, r Remote) {
	if r.Gateway == "" {
		c.failed(Gateway, fmt.Sprintf("no gateway of %s is in use", r.Prefix), `See "warren status": all are silent or have lost their LAN, or --accept-routes=false was set.`)
		return
	}
	if r.Path == "" {
		c.failed(Gateway, fmt.Sprintf("there is no path to %s, the gateway of %s", r.Gateway, r.Prefix), fmt.Sprintf(`"warren why %s" tells what was tried.`, r.Gateway))
		return
	}
	c.ok(Gateway, fmt.Sprintf("%s is behind %s, reached %s", r.Prefix, r.Gateway, r.Path))
	echo := c.policy(s, r)
	if !r.Host.IsValid() {
		c.result(Reach, Unknown, fmt.Sprintf("no host in %s is known", r.Prefix), `Name one that answers pings: "warren site check ADDRESS".`)
		return
	}
	src := c.source(s)
	if !echo || !src.IsValid() {
		c.result(Reach, Unknown, fmt.Sprintf("%s cannot be tried: no grant lets %s ping it", r.Host, c.named(s, src)),
			`Let the two CIDRs ping each other, {"src": [...], "dst": [...], "ip": ["icmp"]}, for the check.`)
		return
	}
	if c.reach(ctx, src, r) {
		c.mtu(ctx, src, r)
	}
}

// source is from where this device sends for a site: its address on the LAN, which is one of the site's, or else its own.
func (c *check) source(s Site) netip.Addr {
	if s.Own.IsValid() && !s.Masqueraded {
		return s.Own
	}
	for _, a := range c.Addresses {
		if a.Is4() == s.Prefix.Addr().Is4() {
			return a
		}
	}
	return netip.Addr{}
}

func (c *check) named(s Site, src netip.Addr) string {
	if !src.IsValid() {
		return s.Prefix.String()
	}
	return src.String()
}

// policy tells which grants let the two talk, and reports whether this device can ping a host there.
func (c *check) policy(s Site, r Remote) (echo bool) {
	near, far := cmp.Or(s.Host, s.Own, some(s.Prefix)), cmp.Or(r.Host, some(r.Prefix))
	for _, way := range []struct {
		name     string
		src, dst netip.Addr
		from, to netip.Prefix
	}{{PolicyOut, near, far, s.Prefix, r.Prefix}, {PolicyIn, far, near, r.Prefix, s.Prefix}} {
		p := c.probes.Explain(way.src, way.dst)
		switch {
		case len(p.Grants) > 0:
			c.ok(way.name, fmt.Sprintf("%s may open connections to %s by the grant %s", way.from, way.to, strings.Join(p.Grants, ", ")))
		default:
			text := fmt.Sprintf("no grant lets %s open connections to %s", way.from, way.to)
			if p.Nearest != "" {
				text += "; " + p.Nearest
			}
			outcome := Warning // one way may be all that is wanted
			if way.name == PolicyIn && len(c.probes.Explain(near, far).Grants) == 0 {
				outcome = Failed
			}
			c.result(way.name, outcome, text, fmt.Sprintf(`If it should: {"src": [%q], "dst": [%q], "ip": ["*"]} in the policy.`, way.from, way.to))
		}
	}
	return c.probes.Explain(c.source(s), far).Echo
}

// some is an address of a prefix, to ask the policy about.
func some(p netip.Prefix) netip.Addr {
	if a := p.Masked().Addr().Next(); p.Contains(a) {
		return a
	}
	return p.Addr()
}

// small is a packet that every path carries, in bytes; tries is how often one is sent until it counts as lost.
const (
	small = 84
	tries = 3
)

func (c *check) reach(ctx context.Context, src netip.Addr, r Remote) bool {
	got := c.echo(ctx, src, r.Host, small)
	switch {
	case got.Answered:
		c.ok(Reach, fmt.Sprintf("%s answers %s, there and back through both gateways", r.Host, src))
	case got.Err != nil:
		c.failed(Reach, fmt.Sprintf("nothing can be sent from %s to %s: %v", src, r.Host, got.Err), "")
	default:
		c.failed(Reach, fmt.Sprintf("%s does not answer %s", r.Host, src),
			fmt.Sprintf(`"warren site check" on %s tells whether it reaches its LAN, and whether that knows the way back to %s.`, r.Gateway, src))
	}
	return got.Answered
}

func (c *check) echo(ctx context.Context, src, dst netip.Addr, size int) (got Sent) {
	for range tries {
		if got = c.probes.Echo(ctx, src, dst, size); got.Answered || got.Largest > 0 || got.Err != nil {
			break
		}
	}
	return got
}

// sizes are tried where a long packet is lost without a word.
var sizes = []int{1400, 1380, 1360, 1320, 1280, 1240, 1200, 1000, 576}

// mtu finds the longest packet that gets there and back. One that is too long must be answered by who could not send it on (RFC 1191, RFC 8201): hosts
// then send shorter ones.
func (c *check) mtu(ctx context.Context, src netip.Addr, r Remote) {
	size := c.MTU
	for range 4 {
		got := c.echo(ctx, src, r.Host, size)
		switch {
		case got.Answered:
			c.ok(MTU, fmt.Sprintf("packets of up to %d bytes get to %s and back, and hosts are told of longer ones", size, r.Host))
			return
		case got.Largest > small && got.Largest < size:
			size = got.Largest
			continue
		}
		break
	}
	for _, s := range sizes {
		if s < size && c.echo(ctx, src, r.Host, s).Answered {
			c.failed(MTU, fmt.Sprintf("packets of %d bytes to %s are lost, those of %d bytes are not, and nobody tells: a black hole", size, r.Host, s),
				"A link between the other gateway and the host carries less than its interfaces say, or a firewall drops ICMP \"fragmentation needed\" or \"packet too big\". "+
					"TCP is clamped to the tunnel's size only: let those messages pass, or set the MTU of the link's interfaces right.")
			return
		}
	}
	c.failed(MTU, fmt.Sprintf("packets of %d bytes to %s are lost, and all shorter ones that were tried but the smallest", size, r.Host),
		"The path loses packets: see the gateway's path in \"warren why "+r.Gateway+"\".")
}
