package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"warren/coord/client"
	"warren/proto/tlsbind"
)

// Bounds of the clock. A minute off does no harm; from maxAhead on the map on disk may count as too old, and certificates as not yet good.
const (
	someAhead = 30 * time.Second
	maxAhead  = 2 * time.Minute
)

// Packets in bytes: least is what IP asks of every link that carries IPv6 (RFC 8200 section 5), with WireGuard's and UDP's headers around it; whole
// what a link of Ethernet carries.
const (
	leastMTU4 = 1280 + 60
	leastMTU6 = 1280 + 80
)

func names(f Facts) []Finding {
	const name = "dns"
	r := f.Resolver
	switch {
	case r == nil:
		return unknown(name, "", "how this host looks names up is not known")
	case r.Name != "" && r.Err != nil:
		return one(name, Failed, fmt.Sprintf("see that the resolvers in %s answer: \"getent hosts %s\"", r.File, r.Name),
			"%s, the coordinator's name, is not found: %v", r.Name, r.Err)
	case r.FileErr != nil:
		return one(name, Warning, "name a resolver there", "%s cannot be read: %v", r.File, r.FileErr)
	case len(r.Servers) == 0 && r.Name == "":
		return one(name, Warning, "name a resolver there", "%s names no resolver", r.File)
	case r.Name == "" && f.Coordinator == nil:
		return fine(name, "resolvers of this host: %s", join(r.Servers))
	case r.Name == "":
		return fine(name, "the coordinator has no name to look up; resolvers of this host: %s", join(r.Servers))
	}
	return fine(name, "%s, the coordinator's name, is found", r.Name)
}

func join[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = v.String()
	}
	return strings.Join(texts, ", ")
}

func coordinator(f Facts) []Finding {
	const name = "coordinator"
	c := f.Coordinator
	if c == nil {
		return unknown(name, f.before(), "which coordinator there is to ask is not known")
	}
	by := ""
	if c.Proxy != "" {
		by = fmt.Sprintf(" through the proxy %s", c.Proxy)
	}
	switch {
	case c.Connected:
		return fine(name, "%s answers%s and has proved who it is", c.URL, by)
	case errors.Is(c.Err, tlsbind.ErrWrongCoordinator), c.Err != nil && strings.Contains(c.Err.Error(), tlsbind.ErrWrongCoordinator.Error()):
		return one(name, Failed, "see where the address leads: another coordinator, a captive portal, or a proxy that opens TLS answers there",
			"what answers%s is not the coordinator of this network: %v", by, c.Err)
	case c.Err == nil:
		return unknown(name, "try again in a moment", "not connected yet%s", by)
	}
	text := fmt.Sprintf("it is not reached%s: %s", by, strings.TrimPrefix(c.Err.Error(), client.ErrUnreachable.Error()+": "))
	if c.MapAge > 0 {
		text += fmt.Sprintf("; the map is %s old", c.MapAge.Round(time.Second))
	}
	return one(name, Failed, "is the coordinator's TCP port open from here? Tunnels go on from the map on disk; enrolment and changes wait", "%s", text)
}

func clock(f Facts) []Finding {
	const name = "clock"
	c := f.Coordinator
	if c == nil || c.ClockAhead == nil {
		return unknown(name, "", "the coordinator's clock could not be asked for")
	}
	ahead := *c.ClockAhead
	text := fmt.Sprintf("this machine's clock is %s ahead of the coordinator's", ahead.Abs().Round(time.Second))
	if ahead < 0 {
		text = strings.Replace(text, "ahead of", "behind", 1)
	}
	const set = "set it, and have it kept right (systemd-timesyncd, chrony)"
	switch {
	case ahead.Abs() > maxAhead:
		return one(name, Failed, set+"; the map on disk may count as too old", "%s", text)
	case ahead.Abs() > someAhead:
		return one(name, Warning, set, "%s", text)
	}
	return fine(name, "the clock agrees with the coordinator's to %s", max(ahead.Abs().Round(time.Second), time.Second))
}

func (n *Net) asked() bool { return n != nil && n.Err == nil }

func noNet(name string, f Facts) []Finding {
	n := f.Net
	if n == nil {
		return unknown(name, f.before(), "which servers there are to ask is not known")
	}
	return unknown(name, "", "not found out: %v", n.Err)
}

func udp(f Facts) (out []Finding) {
	const name = "udp"
	n := f.Net
	if !n.asked() {
		return noNet(name, f)
	}
	if n.Portal {
		return one(name, Failed, "log in there with a browser", "a captive portal is in the way: %q", n.PortalURL)
	}
	switch v4, v6 := n.IPv4.UDP, n.IPv6.UDP; {
	case v4 == "yes" && v6 == "no":
		return one(name, Warning, "allow UDP over IPv6 out", "STUN servers answer over IPv4, and not over IPv6")
	case v6 == "yes" && v4 == "no":
		return one(name, Warning, "allow UDP over IPv4 out", "STUN servers answer over IPv6, and not over IPv4")
	case v4 == "yes" || v6 == "yes":
		return fine(name, "STUN servers answer: %s", strings.Join(n.Findings, "; "))
	case (v4 == "no" || v6 == "no") && !f.anythingAnswers():
		return unknown(name, "", "no STUN server answers, and nothing else of the network does")
	case v4 == "no" || v6 == "no":
		return one(name, Warning, "allow UDP out to ports 3478 and 3479, and to peers; without it everything takes the relay", "no STUN server answers: UDP is blocked")
	}
	return unknown(name, "", "no STUN server could be asked")
}

// anythingAnswers reports whether the coordinator or a relay does, so that UDP alone is to blame if it does not pass.
func (f Facts) anythingAnswers() bool {
	return f.Coordinator != nil && f.Coordinator.Connected || slices.ContainsFunc(f.Net.Relays, func(r Relay) bool { return r.Connected || r.Reached })
}

func relays(f Facts) (out []Finding) {
	const name = "relay"
	n := f.Net
	if !n.asked() {
		return noNet(name, f)
	}
	if len(n.Relays) == 0 {
		return one(name, Warning, "have the coordinator run one (\"serve\" without --relay=false), or a separate one", "the network has no relay: peers behind NATs may not find each other")
	}
	var reached, not []string
	for _, r := range n.Relays {
		if r.Connected || r.Reached {
			reached = append(reached, r.Name)
		} else {
			not = append(not, fmt.Sprintf("%s (%s)", r.Name, r.Err))
		}
	}
	switch {
	case len(reached) == 0:
		return one(name, Failed, "open the relays' TCP port from here; new paths to peers cannot be found without one", "no relay is reached: %s", strings.Join(not, ", "))
	case len(not) > 0:
		return one(name, Warning, "open its TCP port from here, or see whether it runs: \"warren-coordinator relays list\"", "not reached: %s; reached: %s", strings.Join(not, ", "), strings.Join(reached, ", "))
	}
	return fine(name, "reached: %s", strings.Join(reached, ", "))
}

func mtu(f Facts) (out []Finding) {
	const name = "mtu"
	if f.Net.asked() {
		for _, one := range []struct {
			family string
			mtu    int
			least  int
		}{{"IPv4", f.Net.IPv4.MTU, leastMTU4}, {"IPv6", f.Net.IPv6.MTU, leastMTU6}} {
			if one.mtu > 0 && one.mtu < one.least {
				out = append(out, Finding{name, Warning, fmt.Sprintf("the largest packet that passes over %s has %d bytes; the tunnel needs %d", one.family, one.mtu, one.least),
					"raise the MTU on the way; until then longer packets take the relay"})
			}
		}
	}
	if f.Host != nil {
		for _, l := range f.Host.Links {
			if l.MTU > 0 && l.MTU < leastMTU4 && usedFor(f, l) {
				out = append(out, Finding{name, Warning, fmt.Sprintf("interface %s carries packets of %d bytes; the tunnel needs %d", l.Name, l.MTU, leastMTU4),
					fmt.Sprintf("ip link set %s mtu 1500, if what is behind it carries that", l.Name)})
			}
		}
	}
	switch {
	case len(out) > 0:
		return out
	case f.Net.asked() && f.Net.IPv4.MTU > 0:
		return fine(name, "packets of %d bytes pass over IPv4", f.Net.IPv4.MTU)
	case f.Net.asked() && f.Net.IPv6.MTU > 0:
		return fine(name, "packets of %d bytes pass over IPv6", f.Net.IPv6.MTU)
	case f.Host != nil:
		return fine(name, "no link that the tunnel uses is too narrow for it")
	}
	return unknown(name, "", "the size of packets that pass is not known")
}

// usedFor reports whether the tunnel's packets go out by a link: it has the address that was seen to be used, or the default route.
func usedFor(f Facts, l Link) bool {
	for _, r := range f.Host.Routes {
		if r.Interface == l.Name && r.Prefix.Bits() == 0 && r.Table == mainTable {
			return true
		}
	}
	return f.Net != nil && (within(l, f.Net.IPv4.Local) || within(l, f.Net.IPv6.Local))
}

func within(l Link, a netip.Addr) bool {
	for _, p := range l.Prefixes {
		if a.IsValid() && p.Contains(a) {
			return true
		}
	}
	return false
}
