package netcheck

import (
	"fmt"

	"warren/nat/gather"
)

// Findings says in words what the report means, the weightiest first. Nothing is said of what is as it should be, but that direct paths are
// to be expected.
func (r *Report) Findings() (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if r.Portal == Yes {
		if r.PortalURL != "" {
			say("a captive portal is in the way: open %q in a browser and log in there", r.PortalURL)
		} else {
			say("a captive portal is in the way: open any page in a browser and log in there")
		}
	}
	r.udp(say)
	r.relays(say)
	r.mtu(say)
	return out
}

type sayFunc func(format string, args ...any)

func (r *Report) udp(say sayFunc) {
	v4, v6 := r.IPv4, r.IPv6
	if v4.UDP != Yes && v6.UDP != Yes {
		switch {
		case r.Servers == 0:
			say("no STUN server is known, so nothing can be told about UDP")
		case v4.UDP == No || v6.UDP == No:
			say("UDP is blocked: no STUN server answers, so peers are reached only through relays")
		default:
			say("this device has no network over which the STUN servers could be asked")
		}
		return
	}
	if v4.UDP == No {
		say("UDP over IPv4 is blocked; IPv6 works")
	}
	if v6.UDP == No {
		say("UDP over IPv6 is blocked; IPv4 works")
	}
	switch {
	case v6.UDP == Yes && v6.Mapping.Behaviour == gather.NoNAT && v4.Mapping.Behaviour.Dependent():
		say("over IPv6 peers can be reached directly; over IPv4 the NAT maps each destination to another port")
	case v4.Mapping.Behaviour.Dependent():
		say("the NAT maps each destination to another port: direct paths are to be expected at once only with peers that have a public address, " +
			"a mapped port or IPv6")
	case v4.UDP == Yes && v4.Mapping.Behaviour == gather.NoNAT && v4.Filtering == NotPortDependent:
		say("there is no NAT, and any peer can reach this device")
	case v4.UDP == Yes && v4.Mapping.Behaviour == gather.NoNAT:
		say("there is no NAT: direct paths are to be expected")
	case v4.UDP == Yes && v4.Mapping.Behaviour == gather.EndpointIndependent:
		say("the NAT keeps one port for all destinations: direct paths are to be expected")
	case v4.UDP == Yes:
		say("how the NAT maps is not known: that takes two STUN servers, or one on two ports")
	}
}

func (r *Report) relays(say sayFunc) {
	reached := 0
	for _, relay := range r.Relays {
		if relay.Err == nil && relay.TCP > 0 || relay.Connected {
			reached++
		} else if relay.Err != nil {
			say("relay %s cannot be reached: %v", relay.Name, relay.Err)
		}
	}
	if len(r.Relays) == 0 {
		say("the network has no relay: peers behind NATs may not find each other")
	} else if reached == 0 {
		say("no relay can be reached: without one new paths to peers cannot be found")
	}
}

// tunnelMTU is the least that an IP packet must hold for the tunnel's own least packet (RFC 8200 section 5) and WireGuard's header around it.
const tunnelMTU = 1280 + 32

func (r *Report) mtu(say sayFunc) {
	for _, f := range []struct {
		name   string
		family Family
		header int
	}{{"IPv4", r.IPv4, 28}, {"IPv6", r.IPv6, 48}} {
		switch m := f.family.MTU; {
		case f.family.UDP != Yes || m == 0:
		case m < tunnelMTU+f.header:
			say("%s packets of more than %d bytes get lost, which is less than the tunnel needs: larger ones take the relay", f.name, m)
		case m < packets[0]:
			say("%s packets of more than %d bytes get lost; the tunnel adapts", f.name, m)
		}
	}
}
