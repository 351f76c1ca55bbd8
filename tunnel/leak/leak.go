// Package leak finds out, by trying, whether anything leaves the host outside of the tunnel: Run asks the kernel how packets would go, sends some
// by all the ways that programs have, and looks at the host's links for them.
//
// What it sends goes to addresses for documentation (RFC 5737, RFC 3849), which nobody has, so that a packet that does get out does no harm.
package leak

import (
	"net/netip"
	"time"

	"warren/tunnel/router"
)

// Outcome says what was found.
type Outcome string

// The outcomes. A warning is about what is so because nothing else was asked for.
const (
	OK      Outcome = "ok"
	Failed  Outcome = "failed"
	Warning Outcome = "warning"
	Unknown Outcome = "unknown"
)

// Result is one thing that was checked.
type Result struct {
	// Name is for programs: of a few words.
	Name    string
	Outcome Outcome
	// Text says what was seen, Help what to do.
	Text, Help string
}

// Config says how things should be.
type Config struct {
	// Interface is the tunnel's, Mark that of the agent's sockets.
	Interface string
	Mark      uint32
	// Exit says that an exit node is wanted; Routed are the families that it has, the other is refused.
	Exit   bool
	Routed router.Families
	// KillSwitch says that it is on.
	KillSwitch bool
	// Uplinks are the links to other networks, Connected a network of theirs each.
	Uplinks   []string
	Connected []netip.Prefix
	// Local are what stays out of the tunnel, as the user has asked.
	Local []netip.Prefix
	// Overlay are the network's own prefixes.
	Overlay []netip.Prefix
	// ResolvConf is the resolver's file.
	ResolvConf string
}

// patience is how long an answer of the exit node's forwarder may take.
const patience = 5 * time.Second

// linger is how long a link is looked at for what was sent.
const linger = 300 * time.Millisecond

// Where probes go, and samples of where programs go.
var (
	nobody4, nobody6 = netip.MustParseAddr("192.0.2.113"), netip.MustParseAddr("2001:db8:7ea4::113")
	samples4         = []netip.Addr{netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("128.66.0.1"), netip.MustParseAddr("203.0.113.113")}
	samples6         = []netip.Addr{netip.MustParseAddr("2606:4700:4700::1111"), netip.MustParseAddr("2620:fe::fe"), netip.MustParseAddr("2a00::113")}
)

// family is one of the two, with what belongs to it.
type family struct {
	name    string
	is4     bool
	nobody  netip.Addr
	samples []netip.Addr
}

var families = []family{{"ipv4", true, nobody4, samples4}, {"ipv6", false, nobody6, samples6}}

// title is the family's name for people.
func (f family) title() string {
	if f.is4 {
		return "IPv4"
	}
	return "IPv6"
}

// routed reports whether the exit node carries the family.
func (c Config) routed(f family) bool { return c.Exit && c.Routed.Has(f.nobody) }

// closed reports whether nothing of a family may leave outside of the tunnel, but to what the user has excepted.
func (c Config) closed() bool { return c.Exit || c.KillSwitch }

// stays reports whether an address is left to the host's own networks.
func (c Config) stays(a netip.Addr) bool {
	for _, p := range c.Local {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
