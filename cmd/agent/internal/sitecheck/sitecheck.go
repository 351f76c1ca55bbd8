// Package sitecheck finds out, end to end, whether a gateway does its work for the hosts behind it, and says what to do where it does not. Run is all
// there is to call; what it needs of the host and of the tunnel is in Probes.
//
// For each CIDR that the device advertises it looks whether it may be carried, whether the host forwards, and whether a host of the LAN is reached
// through that forwarding and knows the way back. Then, for each CIDR behind other gateways, whether there is a path, which grants let the two talk,
// whether a host there answers, and how long packets may be.
//
//	sitecheck.go  what is known, Run
//	lan.go        this device's own side
//	remote.go     the other side
package sitecheck

import (
	"context"
	"net/netip"
)

// Outcomes of a check.
const (
	OK      = "ok"
	Failed  = "failed"
	Warning = "warning"
	Unknown = "unknown"
)

// Names of the checks, for programs.
const (
	Advertised  = "advertised"
	Forwarding  = "forwarding"
	LAN         = "lan"
	ReturnRoute = "return-route"
	Gateway     = "gateway"
	PolicyOut   = "policy-out"
	PolicyIn    = "policy-in"
	Reach       = "reach"
	MTU         = "mtu"
)

// Result is one thing that was checked.
type Result struct {
	Name, Outcome string
	// Text is what was seen and Help what to do about it, for a person; Help may be empty.
	Text, Help string
}

// Site is a CIDR that this device advertises.
type Site struct {
	Prefix netip.Prefix
	// State is "approved", "waiting" or "untold"; Masqueraded says that the hosts see this gateway's own address.
	State       string
	Masqueraded bool
	// Host is one on the LAN, by the address that others see, and Own this gateway's address there; invalid: none is known.
	Host, Own netip.Addr
	// Siblings are the names of other gateways of the same CIDR. Elsewhere says that another site uses one of those.
	Siblings  []string
	Elsewhere bool
}

// Remote is a CIDR behind other gateways.
type Remote struct {
	Prefix netip.Prefix
	// Gateway is the one in use and Path how it is reached; empty: none.
	Gateway, Path string
	// Host is one there; invalid: none is known.
	Host netip.Addr
}

// Facts are what the agent knows.
type Facts struct {
	Device  string
	Sites   []Site
	Remotes []Remote
	// Overlay are the network's own prefixes, Addresses this device's.
	Overlay   []netip.Prefix
	Addresses []netip.Addr
	// MTU is the interface's, in bytes.
	MTU int
}

// Policy is what the grants say of packets from one address to another.
type Policy struct {
	// Grants allow some flow, ICMP echoes if Echo.
	Grants []string
	Echo   bool
	// Nearest says of a grant that comes close why it does not allow anything.
	Nearest string
}

// Sent is what became of an echo request.
type Sent struct {
	Answered bool
	// Largest is how long packets may be on the way, in bytes, where the host was told that this one was too long; else 0.
	Largest int
	// Err is why it was not sent.
	Err error
}

// Probes are the questions to host and tunnel. Each takes a bounded time.
type Probes interface {
	// Forwards reports whether the kernel forwards packets of a's family.
	Forwards(a netip.Addr) (bool, error)
	// Straight pings a host from this device, Through by way of its forwarding and masqueraded, From likewise but from src, as it is.
	Straight(ctx context.Context, host netip.Addr) bool
	Through(ctx context.Context, host netip.Addr) bool
	From(ctx context.Context, src, host netip.Addr) bool
	// Echo sends an echo request of a size in bytes, header and all, that nobody may cut into pieces.
	Echo(ctx context.Context, src, dst netip.Addr, size int) Sent
	Explain(src, dst netip.Addr) Policy
}

// check is one run.
type check struct {
	Facts
	probes Probes
	tell   func(Result)
}

// Run checks everything, and tells each result as soon as it is known.
func Run(ctx context.Context, f Facts, p Probes, tell func(Result)) {
	c := &check{f, p, tell}
	if len(f.Sites) == 0 {
		c.failed(Advertised, f.Device+" advertises no CIDR", `This is for gateways: "warren set --site CIDR" makes this device one.`)
		return
	}
	whole := make(map[netip.Prefix]bool)
	for _, s := range f.Sites {
		whole[s.Prefix] = c.site(ctx, s)
	}
	for _, s := range f.Sites {
		for _, r := range f.Remotes {
			if whole[s.Prefix] && s.Prefix.Addr().Is4() == r.Prefix.Addr().Is4() && ctx.Err() == nil {
				c.remote(ctx, s, r)
			}
		}
	}
	if len(f.Remotes) == 0 {
		c.result(Gateway, Unknown, "no CIDR behind another gateway concerns this device",
			`If another site should be there: see "warren-coordinator route list" for its approval, and whether a grant names both CIDRs.`)
	}
}

func (c *check) result(name, outcome, text, help string) { c.tell(Result{name, outcome, text, help}) }
func (c *check) ok(name, text string)                    { c.result(name, OK, text, "") }
func (c *check) failed(name, text, help string)          { c.result(name, Failed, text, help) }
