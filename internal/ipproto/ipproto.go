// Package ipproto names IP protocols and single flows as people write them, such as tcp/443: ParseFlow reads, String writes.
package ipproto

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// IANA protocol numbers with a meaning of their own here.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
	SCTP   = 132
)

// HasPorts reports whether the first four bytes of a protocol's header are ports that grants name.
func HasPorts(protocol uint8) bool { return protocol == TCP || protocol == UDP || protocol == SCTP }

// protocol is one that has a name.
type protocol struct {
	number uint8
	names  []string // the first is the one that is shown
}

// protocols are those of IANA's list that people use.
func protocols() []protocol {
	return []protocol{
		{ICMP, []string{"icmp"}}, {2, []string{"igmp"}}, {4, []string{"ip-in-ip", "ipip", "ipv4"}}, {TCP, []string{"tcp"}}, {8, []string{"egp"}},
		{9, []string{"igp"}}, {UDP, []string{"udp"}}, {33, []string{"dccp"}}, {41, []string{"ipv6"}}, {47, []string{"gre"}}, {50, []string{"esp"}},
		{51, []string{"ah"}}, {ICMPv6, []string{"icmpv6", "ipv6-icmp"}}, {89, []string{"ospf"}}, {SCTP, []string{"sctp"}},
	}
}

// Names gives all names.
func Names() (out []string) {
	for _, p := range protocols() {
		out = append(out, p.names...)
	}
	return out
}

// Name gives the name of a protocol, or ip/N for one that has none here.
func Name(number uint8) string {
	for _, p := range protocols() {
		if p.number == number {
			return p.names[0]
		}
	}
	return "ip/" + strconv.Itoa(int(number))
}

// Named gives the protocol of one of Names, in lower case.
func Named(name string) (number uint8, ok bool) {
	for _, p := range protocols() {
		if slices.Contains(p.names, name) {
			return p.number, true
		}
	}
	return 0, false
}

// Number gives the protocol of one of Names, or of what Name gives.
func Number(name string) (number uint8, ok bool) {
	if n, ok := Named(name); ok {
		return n, true
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(name, "ip/"), 10, 8)
	return uint8(n), err == nil && Name(uint8(n)) == name
}

// Flow is a protocol and, if it has ports, the one that it goes to.
type Flow struct {
	Protocol uint8
	Port     uint16
}

// String is what ParseFlow reads.
func (f Flow) String() string {
	if !HasPorts(f.Protocol) {
		return Name(f.Protocol)
	}
	return fmt.Sprintf("%s/%d", Name(f.Protocol), f.Port)
}

// ParseFlow reads tcp/443, icmp, ip/47 and the like. It takes one port only.
func ParseFlow(s string) (Flow, error) {
	name, port, hasPort := strings.Cut(strings.ToLower(s), "/")
	if name == "ip" && hasPort {
		n, err := strconv.ParseUint(port, 10, 8)
		if err != nil || n == 0 {
			return Flow{}, fmt.Errorf("flow %q: a protocol has a number from 1 to 255, such as ip/47", s)
		}
		if f := (Flow{Protocol: uint8(n)}); !HasPorts(f.Protocol) {
			return f, nil
		}
		return Flow{}, fmt.Errorf("flow %q: %s needs a port, such as %[2]s/443", s, Name(uint8(n)))
	}
	protocol, known := Named(name)
	if !known {
		if _, err := strconv.Atoi(name); err == nil {
			return Flow{}, fmt.Errorf("flow %q: which protocol? Write tcp/%[2]s or udp/%[2]s, or ip/%[2]s for a protocol's number", s, name)
		}
		return Flow{}, fmt.Errorf("flow %q: write tcp/PORT, udp/PORT, sctp/PORT, icmp, or ip/NUMBER for another protocol", s)
	}
	f := Flow{Protocol: protocol}
	switch {
	case !HasPorts(protocol) && hasPort:
		return Flow{}, fmt.Errorf("flow %q: %s has no ports; write %[2]s", s, name)
	case !HasPorts(protocol):
		return f, nil
	case !hasPort || port == "":
		return Flow{}, fmt.Errorf("flow %q: %s needs a port, such as %[2]s/443", s, name)
	case strings.ContainsAny(port, "-,*"):
		return Flow{}, fmt.Errorf("flow %q: one port at a time, such as %s/%s", s, name, firstPort(port))
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Flow{}, fmt.Errorf("flow %q: %q is no port; ports are 0 to 65535", s, port)
	}
	f.Port = uint16(n)
	return f, nil
}

// firstPort is that of a range or list, for an example.
func firstPort(ports string) string {
	first := ports[:strings.IndexAny(ports, "-,*")]
	if _, err := strconv.ParseUint(first, 10, 16); err != nil {
		return "443"
	}
	return first
}
