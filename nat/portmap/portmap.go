// Package portmap has the gateway map a UDP port of this host to one outside, by PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP IGD.
//
// Core is the pure core: Handle takes the time and an event and returns what to do and when it wants to be called again. It asks by all
// protocols at once, waits patience for the better ones, uses the best that gives a public address, renews at half of the mapping's life,
// asks again when the gateway has restarted, and deletes on Stop. The task that runs it is in warren/nat/portmapper.
//
//	portmap.go  words: protocols, events, actions
//	core.go     Handle, and the choice between protocols
//	client.go   one protocol's requests: asking, mapping, renewing
//	server.go   what the gateway says in PCP and NAT-PMP
//	upnp.go     what became of the shell's work in UPnP
//	epoch.go    whether the gateway has lost its table
//	report.go   what people see
package portmap

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Protocol is a way to ask a gateway, better ones first.
type Protocol uint8

// The protocols.
const (
	None Protocol = iota
	PCP
	NATPMP
	UPnP
)

// Protocols are all of them, in order of preference.
func Protocols() []Protocol { return []Protocol{PCP, NATPMP, UPnP} }

// String is the name that people know.
func (p Protocol) String() string { return [...]string{"none", "PCP", "NAT-PMP", "UPnP"}[p] }

// ParseProtocols reads a list such as "pcp,nat-pmp,upnp", or "off" for none: then the list is empty but not nil.
func ParseProtocols(text string) ([]Protocol, error) {
	out := []Protocol{}
	if text == "off" {
		return out, nil
	}
	for _, name := range strings.Split(text, ",") {
		i := slices.IndexFunc(Protocols(), func(p Protocol) bool { return strings.EqualFold(p.String(), strings.TrimSpace(name)) })
		if i < 0 {
			return nil, fmt.Errorf("port mapping by %q is not known; want a list of pcp, nat-pmp and upnp, or off", name)
		}
		if p := Protocols()[i]; !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out, nil
}

// Reason is why a protocol gave no mapping.
type Reason uint8

// The reasons.
const (
	NoReason       Reason = iota
	Unanswered            // nothing came back
	NotSupported          // the gateway does not speak the protocol
	Refused               // the gateway does not want to
	NoResources           // the gateway has no room
	Conflict              // the port belongs to another host, and so did those tried instead
	PrivateAddress        // the address outside is itself behind a NAT
	NoAddress             // the gateway has no address outside, or none that anybody could reach
	BadLife               // the mapping would not last for long enough to be worth anything
	Malformed             // the answer made no sense
)

// String is for people and metrics.
func (r Reason) String() string {
	return [...]string{"", "no answer", "not supported", "refused", "no resources", "port conflict", "private address outside",
		"no address outside", "lifetime too short", "malformed answer"}[r]
}

// Mapping is a port outside that leads to ours.
type Mapping struct {
	Protocol Protocol
	// Internal is our address and port, External where the gateway takes packets for it.
	Internal, External netip.AddrPort
}

// Network is where the host is: its default gateway, its own address towards it, and the port to be mapped.
type Network struct {
	Gateway, Local netip.Addr
	Port           uint16
}

func (n Network) complete() bool { return n.Gateway.Is4() && n.Local.Is4() && n.Port != 0 }

// Event is what Handle takes; nil says only that time has passed.
type Event interface{ isEvent() }

// The events.
type (
	// SetNetwork tells the network at the start and whenever it changed or the host woke. With the same network the mapping is confirmed, with
	// another it is made anew. An incomplete one (no IPv4 gateway) has none.
	SetNetwork struct{ Network Network }
	// Datagram came from a UDP socket. Announced says that it came to the multicast address.
	Datagram struct {
		From      netip.AddrPort
		Announced bool
		B         []byte
	}
	// Unreachable says that the gateway has no program on its port (ICMP).
	Unreachable struct{}
	// Found answers Discover: the gateway's external address by UPnP, or why there is none.
	Found struct {
		Op       uint64
		External netip.Addr
		Reason   Reason
	}
	// Added answers AddMapping.
	Added struct {
		Op       uint64
		External netip.AddrPort
		Life     time.Duration
		Reason   Reason
	}
	// Deleted answers DeleteMapping, whatever became of it.
	Deleted struct{ Op uint64 }
	// Stop has the mapping deleted. Stopped follows within stopLimit.
	Stop struct{}
)

func (SetNetwork) isEvent()  {}
func (Datagram) isEvent()    {}
func (Unreachable) isEvent() {}
func (Found) isEvent()       {}
func (Added) isEvent()       {}
func (Deleted) isEvent()     {}
func (Stop) isEvent()        {}

// Action is what Handle wants done.
type Action interface{ isAction() }

// The actions.
type (
	// Send sends B to the gateway's port 5351 from Network.Local.
	Send struct{ B []byte }
	// Discover looks for an Internet Gateway Device on the gateway and asks it for its external address. An Op that is not the last of its kind
	// may be given up.
	Discover struct{ Op uint64 }
	// AddMapping has the device that was found map External to Internal.
	AddMapping struct {
		Op       uint64
		External uint16
		Internal netip.AddrPort
		Life     time.Duration
	}
	// DeleteMapping takes it back.
	DeleteMapping struct {
		Op       uint64
		External uint16
	}
	// Publish tells the mapping that holds from now on; the zero Mapping if there is none.
	Publish struct{ Mapping Mapping }
	// Attempt and Failure are for counting: a protocol was asked for a mapping, and did not give one.
	Attempt struct{ Protocol Protocol }
	Failure struct {
		Protocol Protocol
		Reason   Reason
	}
	// Stopped says that nothing more will come.
	Stopped struct{}
)

func (Send) isAction()          {}
func (Discover) isAction()      {}
func (AddMapping) isAction()    {}
func (DeleteMapping) isAction() {}
func (Publish) isAction()       {}
func (Attempt) isAction()       {}
func (Failure) isAction()       {}
func (Stopped) isAction()       {}

const (
	// patience is how long a better protocol is waited for.
	patience = 250 * time.Millisecond
	// RFC 6886 section 3.1: the first repetition after 250 ms, then twice as long each time. We give up sooner and come back later.
	firstResend = 250 * time.Millisecond
	tries       = 5
	// upnpLimit bounds any one operation of UPnP; the shell's own limits are shorter.
	upnpLimit = 20 * time.Second
	// askLife is short, so that a renewal at half of it finds out soon that the gateway has restarted, and a mapping that nobody deleted is
	// gone soon. A longer life that is granted is not relied on.
	askLife = 20 * time.Minute
	minLife = time.Minute
	// minRenew is RFC 6887 section 11.2.1's least time between renewals.
	minRenew = 4 * time.Second
	// remapGap bounds how often anybody can make us ask again by saying that the gateway has restarted, announceGap by saying anything to all
	// hosts in its name: ten times in four minutes is usual (RFC 6886 section 3.2.1).
	remapGap    = 5 * time.Second
	announceGap = time.Minute
	// Back-off after all protocols failed.
	firstRetry = 30 * time.Second
	maxRetry   = 30 * time.Minute
	// stopLimit bounds the deletion on Stop.
	stopLimit = time.Second
	// conflictTries is how many other ports are tried in UPnP, which has the client choose.
	conflictTries = 4
)

// Useful tells whether a device outside could reach an external address, and else why not.
func Useful(a netip.Addr) Reason {
	a = a.Unmap()
	switch {
	case !a.Is4() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.As4()[0] == 0 || a.As4()[0] >= 240:
		return NoAddress
	case a.IsPrivate() || cgnat.Contains(a) || dslite.Contains(a):
		return PrivateAddress
	}
	return NoReason
}

var (
	cgnat  = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	dslite = netip.MustParsePrefix("192.0.0.0/24")  // RFC 6333 section 5.7, RFC 6890
)
