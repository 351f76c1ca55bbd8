// Package netcheck finds out what the network here lets through: UDP over IPv4 and IPv6, how what is in front of this device maps and filters
// (RFC 5780), whether it hairpins, the largest packet, the relays by round trip, and whether a captive portal is in the way.
//
// Run does all of it, in a few seconds, with sockets of its own, so that the tunnel's are left alone. Findings says in words what a Report
// means. Whatever goes out goes to the network's own servers, and to this device's own address outside.
//
//	netcheck.go what is asked for and found, and Run
//	family.go   one version of IP: UDP, mapping, filtering, hairpin, MTU
//	socket.go   requests and answers on one socket
//	portal.go   captive portals
//	findings.go the words
//	system*.go  the system's sockets
package netcheck

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"warren/nat/gather"
)

// Answer is yes, no, or not known.
type Answer uint8

// The answers.
const (
	Unknown Answer = iota
	Yes
	No
)

// String is the word for it.
func (a Answer) String() string { return [...]string{"unknown", "yes", "no"}[a] }

func answer(yes bool) Answer {
	if yes {
		return Yes
	}
	return No
}

// Filtering is from where packets come in to a port that sent to somebody (RFC 4787 section 5).
type Filtering uint8

// The kinds. A server with one address cannot tell the first two of RFC 4787's three apart.
const (
	UnknownFiltering Filtering = iota
	// NotPortDependent: endpoint-independent or address-dependent.
	NotPortDependent
	AddressAndPortDependent
)

// String is the term.
func (f Filtering) String() string {
	return [...]string{"unknown", "endpoint-independent or address-dependent", "address-and-port-dependent"}[f]
}

// Relay is a relay of the network, with its STUN server.
type Relay struct {
	Name, Region string
	// STUN are the addresses of its STUN server, host:port. Those of one host with several ports answer from another where that is asked.
	STUN []string
	// Host is where HTTP is asked of a portal, without port.
	Host string
	// Connect connects by TCP and TLS, as the agent does, and tells how long each took; nil if that is not to be tried.
	Connect func(context.Context) (tcp, tls time.Duration, err error)
	// Connected says that the agent's own connection stands. It is only passed on.
	Connected bool
}

// Config is what Run needs. System fills in the functions.
type Config struct {
	Relays []Relay
	// Listen opens a UDP socket of network "udp4" or "udp6". Whole says that its datagrams are sent whole or not at all: else nothing can be
	// told about their size.
	Listen func(network string) (Conn, error)
	Whole  bool
	// Route gives the local address from which packets to an address go out; an error if there is no way.
	Route func(to netip.AddrPort) (netip.Addr, error)
	// Resolve looks a host name up.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Get asks for a URL without any proxy, follows no redirection and reads no body.
	Get func(ctx context.Context, url string) (Page, error)
}

// Conn is a UDP socket; *net.UDPConn is one.
type Conn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	LocalAddr() net.Addr
	Close() error
}

// Page is an HTTP answer: its status, and where it sends the browser.
type Page struct {
	Status   int
	Location string
}

// Report is what was found.
type Report struct {
	At time.Time
	// Servers is how many addresses STUN servers have.
	Servers    int
	IPv4, IPv6 Family
	// Hairpin says whether two hosts behind the NAT can reach each other at their addresses outside. Unknown without a NAT.
	Hairpin Answer
	// Portal says whether a captive portal is in the way, and PortalURL where it sends browsers, if it does.
	Portal    Answer
	PortalURL string
	// Relays are in order of round trip; those that do not answer come last.
	Relays []RelayReport
}

// Family is about one version of IP.
type Family struct {
	// Local is the address from which packets go out; zero if the host has none of this version.
	Local netip.Addr
	// UDP says whether a STUN server answers. Unknown if there is none to ask.
	UDP Answer
	// Mapped is where one saw us.
	Mapped    netip.AddrPort
	Mapping   gather.Mapping
	Filtering Filtering
	// PortKept says that the port outside is the one inside.
	PortKept bool
	// MTU is the largest IP packet that reached a STUN server, in bytes, at most 1500; 0 if unknown.
	MTU int
}

// RelayReport is about one relay.
type RelayReport struct {
	Name, Region string
	// UDP is the round trip of a STUN request, TCP the time until a connection stood, TLS until its handshake was over as well; 0 if unknown.
	UDP, TCP, TLS time.Duration
	// Err says why TCP or TLS failed.
	Err       error
	Connected bool
}

// limit bounds all of Run.
const limit = 12 * time.Second

// maxTargets bounds the STUN servers that are asked, of each version of IP.
const maxTargets = 16

// target is one address of a STUN server.
type target struct {
	relay int
	addr  netip.AddrPort
}

// Run finds all of it out, or as much as it can before ctx ends.
func Run(ctx context.Context, cfg Config) *Report {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r := &Report{At: time.Now(), Relays: make([]RelayReport, len(cfg.Relays))}
	for i, relay := range cfg.Relays {
		r.Relays[i] = RelayReport{Name: relay.Name, Region: relay.Region, Connected: relay.Connected}
	}
	var group sync.WaitGroup
	for i, relay := range cfg.Relays {
		if relay.Connect != nil {
			one := &r.Relays[i]
			group.Go(func() { one.TCP, one.TLS, one.Err = relay.Connect(ctx) })
		}
	}
	var portal portal
	group.Go(func() { portal = cfg.portal(ctx) })
	targets := cfg.targets(ctx)
	r.Servers = len(targets)
	families := [...]*family{newFamily(&cfg, "udp4", targets), newFamily(&cfg, "udp6", targets)}
	for _, f := range families {
		group.Go(func() { f.run(ctx) })
	}
	group.Wait()
	r.IPv4, r.IPv6, r.Hairpin = families[0].Family, families[1].Family, families[0].hairpin
	for _, f := range families {
		for t, rtt := range f.trips {
			if u := &r.Relays[t.relay].UDP; *u == 0 || rtt < *u {
				*u = rtt
			}
		}
	}
	r.judge(portal)
	slices.SortStableFunc(r.Relays, func(a, b RelayReport) int { return cmp.Compare(a.order(), b.order()) })
	return r
}

// order is the round trip that counts; what does not answer is far away.
func (r RelayReport) order() time.Duration {
	switch {
	case r.UDP > 0:
		return r.UDP
	case r.Err == nil && r.TCP > 0:
		return r.TCP
	}
	return time.Hour
}

// targets resolves the STUN servers.
func (c *Config) targets(ctx context.Context) (out []target) {
	for i, r := range c.Relays {
		for _, s := range r.STUN {
			for _, a := range c.resolve(ctx, s) {
				out = append(out, target{i, a})
			}
		}
	}
	return out
}

// resolve gives at most one address of each version of IP.
func (c *Config) resolve(ctx context.Context, server string) (out []netip.AddrPort) {
	if a, err := netip.ParseAddrPort(server); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a.Addr().Unmap(), a.Port())}
	}
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return nil
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil
	}
	addrs, err := c.Resolve(ctx, host)
	if err != nil {
		return nil
	}
	for _, is4 := range []bool{true, false} {
		if i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Unmap().Is4() == is4 }); i >= 0 {
			out = append(out, netip.AddrPortFrom(addrs[i].Unmap(), uint16(n)))
		}
	}
	return out
}
