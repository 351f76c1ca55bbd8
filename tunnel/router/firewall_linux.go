package router

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// firewallTable is the table's name beside the usual interface; another agent on the same host has one of its own.
const (
	firewallTable  = "warren"
	usualInterface = "warren0"
)

func tableNameFor(name string) string {
	if name == usualInterface {
		return firewallTable
	}
	return firewallTable + "-" + name
}

// The places of chains between those of others: see netfilter's priorities in nf_tables.h.
const (
	priorityMark   = -150 // mangle
	priorityTarget = -100 // dstnat
	priorityClamp  = -150
	priorityFilter = 0
	prioritySource = 100 // srcnat
)

var (
	everyIPv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	everyIPv6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// scratch are addresses by which a host speaks to its own links only, or to none: they are never let out by anybody's router.
var scratch = []netip.Prefix{
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("ff00::/8"), netip.MustParsePrefix("fe80::/10"),
}

// firewall builds the table for s around the interface name.
type firewall struct {
	name string
	s    State

	mark, target, output, clamp, forward, leave, source chain
	sets                                                []*addressSet
}

// firewallFor is what s asks of the firewall; it may be empty. Without socket matching the kernel's reverse-path filter has to be loose.
func firewallFor(name string, s State, socketMatch bool) table {
	f := &firewall{
		name: name, s: s,
		mark:    chain{name: "own-mark", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, hookName: "prerouting", priority: priorityMark},
		target:  chain{name: "target", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPrerouting, hookName: "prerouting", priority: priorityTarget},
		output:  chain{name: "own-target", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookOutput, hookName: "output", priority: priorityTarget},
		clamp:   chain{name: "clamp", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookForward, hookName: "forward", priority: priorityClamp},
		forward: chain{name: "forward", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookForward, hookName: "forward", priority: priorityFilter},
		leave:   chain{name: "own-leave", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookOutput, hookName: "output", priority: priorityFilter},
		source:  chain{name: "source", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPostrouting, hookName: "postrouting", priority: prioritySource},
	}
	if s.beyondNetwork() && socketMatch {
		f.markIncoming()
	}
	f.translateTargets()
	f.redirectDNS()
	f.clampForwarded()
	f.refuse()
	f.translateSources()
	return table{tableNameFor(name), f.sets, []*chain{&f.mark, &f.target, &f.output, &f.clamp, &f.forward, &f.leave, &f.source}}
}

// narrow is the set of what narrower routes than the default lead to in a family, or nil if there is nothing.
func (f *firewall) narrow(family netip.Addr) *addressSet {
	prefixes, name := f.s.narrow(family), "routed6"
	if family.Is4() {
		name = "routed4"
	}
	if i := slices.IndexFunc(f.sets, func(s *addressSet) bool { return s.name == name }); i >= 0 {
		return f.sets[i]
	}
	if len(prefixes) == 0 {
		return nil
	}
	s := newAddressSet(name, family, prefixes)
	f.sets = append(f.sets, s)
	return s
}

// beyondNetwork reports whether anything but the network's own prefixes leads into the tunnel.
func (s State) beyondNetwork() bool {
	return slices.ContainsFunc(s.Routes, func(p netip.Prefix) bool { return !slices.Contains(s.Network, p) })
}

// markIncoming has packets for the agent's sockets marked as those that they send are, so that a reverse-path filter that looks at marks
// (src_valid_mark, "fib saddr . mark") looks for the way back where the answer will go. What is forwarded to the port of such a socket elsewhere would
// be taken for its own, too, if it is bound to all addresses, and with the mark it would pass the tunnel by.
func (f *firewall) markIncoming() {
	f.mark.add(notIif(f.name), toThisHost(), udp(), socketMarked(), setMark())
	f.mark.add(notIif(f.name), toThisHost(), tcp(), socketMarked(), setMark())
}

// carried are what this device carries, the longest LAN prefixes first, so that the first match is the narrowest.
func (f *firewall) carried() []Carried {
	return slices.SortedStableFunc(slices.Values(f.s.Carried), func(a, b Carried) int {
		return cmp.Or(cmp.Compare(b.lan().Bits(), a.lan().Bits()), a.lan().Addr().Compare(b.lan().Addr()))
	})
}

func (f *firewall) translateTargets() {
	for _, c := range f.carried() {
		if c.translated() {
			f.target.add(iif(f.name), familyOf(c.Prefix.Addr()), to(c.Prefix), destinationInto(c.lan()))
		}
	}
}

// translateSources has two halves: what comes out of the tunnel, and what goes into it. Only a connection's first packet gets here, so that
// answers are never taken for connections of their own.
func (f *firewall) translateSources() {
	out := func(family netip.Addr, more ...term) {
		f.source.add(append([]term{iif(f.name), notOif(f.name), familyOf(family)}, more...)...)
	}
	for _, a := range f.s.Probes {
		out(a, from(netip.PrefixFrom(a, a.BitLen())), masquerade())
	}
	for _, c := range f.carried() {
		if c.Kind == Masquerade {
			out(c.lan().Addr(), to(c.lan()), masquerade())
		} else {
			out(c.lan().Addr(), to(c.lan()), accept())
		}
	}
	for _, all := range []netip.Prefix{everyIPv4, everyIPv6} {
		if f.s.Exit.Has(all.Addr()) {
			for _, p := range f.s.Network {
				if p.Addr().Is4() == all.Addr().Is4() {
					out(p.Addr(), to(p), accept())
				}
			}
			out(all.Addr(), masquerade())
		}
	}
	for _, c := range f.carried() {
		if c.translated() {
			f.source.add(notIif(f.name), oif(f.name), familyOf(c.Prefix.Addr()), from(c.lan()), sourceInto(c.Prefix))
		}
	}
	for _, all := range []netip.Prefix{everyIPv4, everyIPv6} {
		f.translateForExit(all.Addr())
	}
}

// translateForExit has what goes to the exit node come from this device, which alone may send there: forwarded clients' packets, those of sockets
// that had bound to a LAN's address before, and redirected questions for names, also of a family that has nothing but an address there.
func (f *firewall) translateForExit(family netip.Addr) {
	into := []term{notIif(f.name), oif(f.name), familyOf(family)}
	foreign := slices.Clone(into)
	for _, p := range f.s.Addresses {
		if p.Addr().Is4() == family.Is4() {
			foreign = append(foreign, notFrom(p))
		}
	}
	for _, server := range f.s.DNS {
		if server.Is4() == family.Is4() {
			for _, l4 := range []term{udp(), tcp()} {
				f.source.add(slices.Concat(foreign, []term{to(netip.PrefixFrom(server, server.BitLen())), l4, destinationPort(53), masquerade()})...)
			}
		}
	}
	if !f.s.exits().Has(family) {
		return
	}
	if s := f.narrow(family); s != nil {
		f.source.add(slices.Concat(into, []term{toAny(s), accept()})...)
	}
	f.source.add(append(foreign, masquerade())...)
}

// redirectDNS sends questions for names to the exit node's forwarder.
func (f *firewall) redirectDNS() {
	for _, server := range f.s.DNS {
		family := familyOf(server)
		if s := f.narrow(server); s != nil {
			f.output.add(family, toAny(s), accept())
			f.target.add(notIif(f.name), family, toAny(s), accept())
		}
		for _, l4 := range []term{udp(), tcp()} {
			f.output.add(notOif("lo"), family, l4, destinationPort(53), unmarked(), notToThisHost(), destinationTo(server))
			f.target.add(notIif(f.name), notIif("lo"), family, l4, destinationPort(53), notToThisHost(), destinationTo(server))
		}
	}
}

func (f *firewall) clampForwarded() {
	if f.s.gateway().Any() || f.s.beyondNetwork() {
		f.clamp.add(slices.Concat([]term{iif(f.name)}, clampSegments())...)
		f.clamp.add(slices.Concat([]term{oif(f.name)}, clampSegments())...)
	}
}

// refuse answers what would leave outside of the tunnel of a family that the exit node does not have, or of questions for names of a family that
// has no forwarder there.
func (f *firewall) refuse() {
	for _, all := range []netip.Prefix{everyIPv4, everyIPv6} {
		family := familyOf(all.Addr())
		noForwarder := len(f.s.DNS) > 0 && !slices.ContainsFunc(f.s.DNS, func(a netip.Addr) bool { return a.Is4() == all.Addr().Is4() })
		if noForwarder {
			f.leave.add(notOif(f.name), notOif("lo"), family, udp(), destinationPort(53), unmarked(), refusal())
			f.leave.add(notOif(f.name), notOif("lo"), family, tcp(), destinationPort(53), unmarked(), reset())
			for _, l4 := range []term{udp(), tcp()} {
				f.forward.add(notIif(f.name), notOif(f.name), family, l4, destinationPort(53), refusal())
			}
		}
		if !f.s.Blocked.Has(all.Addr()) {
			continue
		}
		for _, p := range slices.Concat(scratch, f.s.Local) {
			if p.Addr().Is4() == all.Addr().Is4() {
				f.leave.add(family, to(p), accept())
				f.forward.add(family, to(p), accept())
			}
		}
		for _, server := range f.s.DNS { // which a redirected question goes to, though it still has the interface here that it was to leave by
			if server.Is4() == all.Addr().Is4() {
				f.leave.add(family, to(netip.PrefixFrom(server, server.BitLen())), accept())
			}
		}
		f.leave.refuseOwn(notOif(f.name), notOif("lo"), family, unmarked())
		f.forward.add(notIif(f.name), notOif(f.name), family, refusal())
	}
}

// applyFirewall loads the table where it differs from what was loaded, or where somebody has removed that.
func (r *Router) applyFirewall(s State) error {
	want := firewallFor(r.name, s, !r.noSocketMatch)
	if !slices.Equal(r.forwarders, s.DNS) {
		defer forgetQuestions()
		r.forwarders = slices.Clone(s.DNS)
	}
	r.hasFirewall.Store(false) // it may be away for as long as this takes
	defer func() { r.hasFirewall.Store(r.firewall != "") }()
	if want.empty() {
		r.firewall = ""
		return removeTable(want.name)
	}
	if there, err := tableExists(want.name); err == nil && there && r.firewall == want.String() {
		return nil
	}
	err := want.load()
	if errors.Is(err, unix.ENOENT) && !r.noSocketMatch && s.beyondNetwork() {
		// The kernel lacks nft_socket. The reverse-path filter is made loose instead.
		r.noSocketMatch = true
		want = firewallFor(r.name, s, false)
		err = want.load()
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", r.name, err)
	}
	r.firewall = want.String()
	return nil
}

// forgetQuestions has the kernel forget where questions for names went: a socket that asks again would be answered from there for as long as it
// asks. What is lost is asked again. A kernel that cannot be told to forgets them by itself, 30 s after the last.
func forgetQuestions() {
	for _, family := range families {
		filter := new(netlink.ConntrackFilter)
		err := errors.Join(filter.AddProtocol(unix.IPPROTO_UDP), filter.AddPort(netlink.ConntrackOrigDstPort, 53))
		if err == nil {
			_, _ = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(family), filter)
		}
	}
}
