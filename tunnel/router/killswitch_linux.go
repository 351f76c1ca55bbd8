package router

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"warren/internal/atomicfile"
)

// killSwitchTable is a table of its own, because it outlives the process.
const killSwitchTable = "warren-killswitch"

// The chains come after all usual ones, so that they see where a packet really goes.
const (
	priorityKill     = 200
	priorityBackstop = 300 // after source translation
)

// Where DHCP clients send to: RFC 2131, section 4.1, and RFC 8415, section 7.
const (
	dhcpClient, dhcpServer     = 68, 67
	dhcpv6Client, dhcpv6Server = 546, 547
)

var (
	linkLocal    = netip.MustParsePrefix("fe80::/10")
	dhcpv6Relays = netip.MustParsePrefix("ff02::1:2/128")
	multicast6   = netip.MustParsePrefix("ff02::/16")
)

// plainName is what nft reads as it stands: it knows no way to quote a quotation mark, and takes an asterisk at the end for any text.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// killSwitchFor lets packets leave the host by the interface name only, whether they are its own or forwarded. There is no exception for
// connections that were open before. Exceptions are marked packets, loopback, DHCP, what IPv6 needs to find its neighbours, and the prefixes in lan.
// What comes out of the tunnel may be forwarded: to a client behind this host, or into a LAN that it carries. ARP is no concern of this table's.
//
// The host's own packets are refused with ICMP or a TCP reset, so that programs fail at once instead of waiting. Forwarded ones are dropped,
// because the answer to them would itself leave outside of the tunnel. A last chain drops what has been rerouted after the others looked.
func killSwitchFor(name string, lan []netip.Prefix) table {
	own := &chain{name: "own", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookOutput, hookName: "output", priority: priorityKill}
	forwarded := &chain{name: "forwarded", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookForward, hookName: "forward", priority: priorityKill}
	last := &chain{name: "last", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPostrouting, hookName: "postrouting", priority: priorityBackstop}
	for _, c := range []*chain{own, last} {
		c.add(oif("lo"), accept())
		c.add(marked(), accept())
		c.add(familyOf(everyIPv4.Addr()), udp(), sourcePort(dhcpClient), destinationPort(dhcpServer), accept())
		for _, p := range []netip.Prefix{dhcpv6Relays, linkLocal} {
			c.add(familyOf(p.Addr()), to(p), udp(), sourcePort(dhcpv6Client), destinationPort(dhcpv6Server), accept())
		}
		allowNeighbours(c)
	}
	for _, c := range []*chain{forwarded, last} {
		c.add(iif(name), accept())
	}
	for _, c := range []*chain{own, forwarded, last} {
		c.add(oif(name), accept())
		for _, p := range lan {
			c.add(familyOf(p.Addr()), to(p), accept())
		}
	}
	// A packet that was given another destination by a chain before still has the interface here that it was to leave by, such as a question for
	// the LAN's resolver that goes to the exit node's. The last chain sees where it really goes.
	own.add(redirected(), accept())
	own.refuseOwn()
	forwarded.add(drop())
	last.add(drop())
	return table{killSwitchTable, nil, []*chain{own, forwarded, last}}
}

// allowNeighbours lets out what a host needs to be found on its link: neighbour and router discovery (RFC 4861; 255 hops: from this link), and
// the reports without which switches would not deliver the former (RFC 3810; one hop).
func allowNeighbours(c *chain) {
	const routerSolicitation, neighbourSolicitation, neighbourAdvertisement, report, done, report2 = 133, 135, 136, 131, 132, 143
	family := familyOf(everyIPv6.Addr())
	for _, t := range []term{
		icmpv6Type("nd-router-solicit", routerSolicitation), icmpv6Type("nd-neighbor-solicit", neighbourSolicitation),
		icmpv6Type("nd-neighbor-advert", neighbourAdvertisement),
	} {
		c.add(family, icmpv6(), t, hopLimit(255), accept())
	}
	for _, t := range []term{
		icmpv6Type("mld-listener-report", report), icmpv6Type("mld-listener-done", done), icmpv6Type("mld2-listener-report", report2),
	} {
		c.add(family, to(multicast6), icmpv6(), t, hopLimit(1), accept())
	}
}

// applyKillSwitch sets the kill switch if it is asked for. Nothing here lifts it.
func (r *Router) applyKillSwitch(s State) error {
	r.hasKillSwitch.Store(s.KillSwitch)
	told := fmt.Sprintf("the kill switch is on: nothing leaves this host but through %s", r.name)
	if !s.KillSwitch { // whoever asks for that lifts it, and nobody is told any longer that it is on
		r.notes = slices.DeleteFunc(r.notes, func(n string) bool { return n == told })
		return nil
	}
	want := killSwitchFor(r.name, s.KillSwitchLAN)
	if on, err := KillSwitchOn(); err == nil && on && r.killSwitch == want.String() {
		return nil
	}
	if err := want.load(); err != nil {
		return fmt.Errorf("kill switch: %w", err)
	}
	r.killSwitch = want.String()
	r.noteOnce("%s", told)
	return nil
}

// HoldKillSwitch has the kill switch set before there is a Router, for the interface that one will have. One that is set already stays as it is, with
// its exceptions, until Apply brings it up to date. It reports whether it was not there.
func HoldKillSwitch(name string) (set bool, err error) {
	if err := CheckName(name); err != nil {
		return false, fmt.Errorf("kill switch: %w", err)
	}
	if on, err := KillSwitchOn(); err != nil || on {
		return false, err
	}
	if err := tryMark(); err != nil {
		return false, fmt.Errorf("kill switch: %w (%v)", ErrNoMark, err)
	}
	if err := killSwitchFor(name, nil).load(); err != nil {
		return false, fmt.Errorf("kill switch: %w", err)
	}
	return true, nil
}

// KillSwitchOn reports whether the kill switch is set on this host, whoever runs.
func KillSwitchOn() (bool, error) {
	on, err := tableExists(killSwitchTable)
	if err != nil && !tablesWork() && !errors.Is(err, unix.EPERM) { // a kernel without nftables has none
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("kill switch: %w", explainFirewall(killSwitchTable, err))
	}
	return on, nil
}

// LiftKillSwitch removes the kill switch. That there is none is no error.
func LiftKillSwitch() error {
	if err := removeTable(killSwitchTable); err != nil {
		return fmt.Errorf("kill switch: %w", err)
	}
	return nil
}

// WriteKillSwitch writes the kill switch to path as a file for "nft -f", which sets it as Apply would for the interface name and with the
// same exceptions, so that it can be loaded when the host starts, before its network is up.
func WriteKillSwitch(path, name string, lan []netip.Prefix) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if !plainName.MatchString(name) {
		return fmt.Errorf("interface name %q cannot be written to a file for nft: choose one of letters, digits, dots, dashes and underscores", name)
	}
	if err := (State{KillSwitchLAN: lan}).check(); err != nil {
		return err
	}
	text := "#!/usr/sbin/nft -f\n# Warren's kill switch. \"warren up --kill-switch=false\" lifts it, or \"nft delete table inet " + killSwitchTable + "\".\n"
	if err := atomicfile.Write(path, []byte(text+killSwitchFor(name, lan).String())); err != nil {
		return fmt.Errorf("kill switch for the next start: %w", err)
	}
	return nil
}
