// Package forward carries ports through a tunnel that ends in this process: those of this host to peers (Rule), and those of this device's address in the
// network to services of this host (Exposed). ParseRule and ParseExposed read them from flags and files; Listen and Run serve Rules, Exposer serves what
// peers ask for.
package forward

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// MaxRules bounds each kind of rule.
const MaxRules = 64

// Protocol is "tcp" or "udp".
type Protocol string

// The protocols that have ports.
const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

// Rule has what comes to a port of this host go to a peer.
type Rule struct {
	Protocol Protocol
	Listen   netip.AddrPort
	// Host is a name of the network, or an address.
	Host string
	Port uint16
}

// String is what ParseRule reads.
func (r Rule) String() string {
	return fmt.Sprintf("%s/%s=%s", r.Protocol, r.Listen, net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port))))
}

// Exposed has what peers send to a port of this device go to a service.
type Exposed struct {
	Protocol Protocol
	Port     uint16
	To       netip.AddrPort
}

// String is what ParseExposed reads.
func (e Exposed) String() string { return fmt.Sprintf("%s/%d=%s", e.Protocol, e.Port, e.To) }

const ruleForm = "want PROTOCOL/[ADDRESS:]PORT=PEER:PORT, such as tcp/127.0.0.1:5432=db:5432"

// ParseRule reads PROTOCOL/[ADDRESS:]PORT=HOST:PORT. Without an address it is for this host only: 127.0.0.1.
func ParseRule(text string) (r Rule, err error) {
	fail := func(why string) (Rule, error) { return Rule{}, fmt.Errorf("%.100q: %s; %s", text, why, ruleForm) }
	proto, ends, ok := cutProtocol(text)
	if !ok {
		return fail("no protocol, tcp or udp, in front")
	}
	listen, to, ok := strings.Cut(ends, "=")
	if !ok {
		return fail("no = between this host's port and the peer's")
	}
	if r.Listen, ok = parseListen(listen); !ok {
		return fail(fmt.Sprintf("%.60q is no address and port, or port, of this host", listen))
	}
	host, port, err := net.SplitHostPort(to)
	number, ok := parsePort(port)
	if err != nil || !ok || host == "" || len(host) > 253 {
		return fail(fmt.Sprintf("%.60q is no peer and port", to))
	}
	r.Protocol, r.Host, r.Port = proto, host, number
	return r, nil
}

const exposedForm = "want PROTOCOL/PORT or PROTOCOL/PORT=ADDRESS:PORT, such as tcp/80=127.0.0.1:8080"

// ParseExposed reads PROTOCOL/PORT[=ADDRESS:PORT]. Without an address it is 127.0.0.1 and the same port.
func ParseExposed(text string) (e Exposed, err error) {
	fail := func(why string) (Exposed, error) {
		return Exposed{}, fmt.Errorf("%.100q: %s; %s", text, why, exposedForm)
	}
	proto, ends, ok := cutProtocol(text)
	if !ok {
		return fail("no protocol, tcp or udp, in front")
	}
	own, to, named := strings.Cut(ends, "=")
	if e.Port, ok = parsePort(own); !ok {
		return fail(fmt.Sprintf("%.60q is no port", own))
	}
	e.Protocol, e.To = proto, netip.AddrPortFrom(loopback, e.Port)
	if named {
		if e.To, ok = parseListen(to); !ok || e.To.Addr().IsUnspecified() {
			return fail(fmt.Sprintf("%.60q is no address and port of a service", to))
		}
	}
	return e, nil
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func cutProtocol(text string) (Protocol, string, bool) {
	proto, rest, ok := strings.Cut(text, "/")
	p := Protocol(strings.ToLower(proto))
	return p, rest, ok && (p == TCP || p == UDP)
}

// parseListen reads ADDRESS:PORT, or PORT of the loopback address.
func parseListen(text string) (netip.AddrPort, bool) {
	if port, ok := parsePort(text); ok {
		return netip.AddrPortFrom(loopback, port), true
	}
	a, err := netip.ParseAddrPort(text)
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), err == nil && a.Port() != 0 && a.Addr().Zone() == ""
}

func parsePort(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n != 0 && text[0] != '+'
}

// CheckRules refuses lists that are too long or have two rules for one port.
func CheckRules(rules []Rule) error {
	if len(rules) > MaxRules {
		return fmt.Errorf("%d forwards, more than %d", len(rules), MaxRules)
	}
	type place struct {
		Protocol
		netip.AddrPort
	}
	seen := map[place]Rule{}
	for _, r := range rules {
		at := place{r.Protocol, r.Listen}
		if other, twice := seen[at]; twice {
			return fmt.Errorf("%s and %s listen on the same port", other, r)
		}
		seen[at] = r
	}
	return nil
}

// CheckExposed is CheckRules for ports of this device.
func CheckExposed(list []Exposed) error {
	if len(list) > MaxRules {
		return fmt.Errorf("%d exposed ports, more than %d", len(list), MaxRules)
	}
	type place struct {
		Protocol
		port uint16
	}
	seen := map[place]Exposed{}
	for _, e := range list {
		at := place{e.Protocol, e.Port}
		if other, twice := seen[at]; twice {
			return fmt.Errorf("%s and %s are for the same port", other, e)
		}
		seen[at] = e
	}
	return nil
}
