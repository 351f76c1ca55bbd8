package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"warren/internal/ipproto"
)

// Flow is a protocol and a range of ports.
type Flow struct {
	// Protocol is the IP protocol's number; 0 is every protocol and port.
	Protocol uint8
	// First and Last are 0 and 65535 for protocols without ports.
	First, Last uint16
}

const maxPort = 65535

// HasPorts reports whether an IP protocol has ports that a flow can tell apart.
func HasPorts(protocol uint8) bool {
	return ipproto.HasPorts(protocol)
}

// numbersOf gives the protocols of a name; icmp is that of IPv4 and that of IPv6.
func numbersOf(name string) []uint8 {
	switch n, ok := ipproto.Named(strings.ToLower(name)); {
	case !ok:
		return nil
	case n == ipproto.ICMP:
		return []uint8{ipproto.ICMP, ipproto.ICMPv6}
	default:
		return []uint8{n}
	}
}

// ProtocolName gives the name of an IP protocol, or its number.
func ProtocolName(number uint8) string { return strings.TrimPrefix(ipproto.Name(number), "ip/") }

// String is the flow as ip lists have it, such as tcp:443, udp:5000-5010, icmp:* and *.
func (f Flow) String() string {
	if f.Protocol == 0 {
		return "*"
	}
	ports := strconv.Itoa(int(f.First))
	switch {
	case f.First == 0 && f.Last == maxPort:
		ports = "*"
	case f.First != f.Last:
		ports += "-" + strconv.Itoa(int(f.Last))
	}
	return ProtocolName(f.Protocol) + ":" + ports
}

// Contains reports whether f allows protocol and port; the port of a protocol without ports does not count.
func (f Flow) Contains(protocol uint8, port uint16) bool {
	return f.Protocol == 0 || f.Protocol == protocol && (!HasPorts(protocol) || port >= f.First && port <= f.Last)
}

// ParseFlow reads what people ask about, such as tcp/443, tcp:443, icmp, or 443, which is TCP. The first port of a range counts.
func ParseFlow(s string) (Flow, error) {
	s = strings.Replace(s, "/", ":", 1)
	proto, ports, ok := strings.Cut(s, ":")
	if !ok {
		if _, err := strconv.Atoi(s); err == nil || s == "*" {
			proto, ports = "tcp", s
		} else {
			ports = "*"
		}
	}
	if proto == "" {
		return Flow{}, fmt.Errorf("%s has no protocol; write tcp/443, for example", quote(s))
	}
	fs, fix, err := parseFlows(proto, ports)
	switch {
	case err == nil:
		return fs[0], nil
	case fix != "":
		err = fmt.Errorf("%w; %s", err, fix)
	}
	return Flow{}, err
}

// parseIP reads an element of a grant's ip list.
func parseIP(s string) ([]Flow, string, error) {
	if s == "*" {
		return []Flow{{0, 0, maxPort}}, "", nil
	}
	proto, ports, ok := strings.Cut(s, ":")
	if !ok {
		if numbersOf(s) != nil {
			return nil, "write " + quote(s+":*"), fmt.Errorf("%s has no ports", quote(s))
		}
		proto, ports = "", s
	}
	if proto == "*" && ports == "*" {
		return []Flow{{0, 0, maxPort}}, "", nil
	}
	if ok && proto == "" {
		return nil, "write " + quote("tcp"+s), fmt.Errorf("%s has no protocol", quote(s))
	}
	return parseFlows(proto, ports)
}

// parseFlows gives the flows of a protocol, "" for none, and ports such as 22, 80,443, 8000-8080 or *. Without a protocol those are TCP's and
// UDP's, and ICMP, so that a host can be pinged; Tailscale does the same.
func parseFlows(proto, ports string) ([]Flow, string, error) {
	numbers, fix, err := parseProtocol(proto)
	if err != nil {
		return nil, fix, err
	}
	ranges, fix, err := parsePorts(ports)
	if err != nil {
		return nil, fix, err
	}
	var out []Flow
	for _, p := range numbers {
		if HasPorts(p) {
			for _, r := range ranges {
				out = append(out, Flow{p, r.First, r.Last})
			}
			continue
		}
		if proto != "" && ports != "*" {
			return nil, "write " + quote(proto+":*"), fmt.Errorf("protocol %s has no ports", quote(proto))
		}
		out = append(out, Flow{p, 0, maxPort})
	}
	return out, "", nil
}

func parseProtocol(s string) ([]uint8, string, error) {
	if s == "" {
		return []uint8{ipproto.TCP, ipproto.UDP, ipproto.ICMP, ipproto.ICMPv6}, "", nil
	}
	if ps := numbersOf(s); ps != nil {
		return ps, "", nil
	}
	n, err := strconv.Atoi(s)
	switch {
	case err == nil && n >= 1 && n <= 255:
		return []uint8{uint8(n)}, "", nil
	case err == nil:
		return nil, "", fmt.Errorf("protocol %s is not in 1-255", quote(s))
	}
	fix := didYouMean(s, "", slices.Values(ipproto.Names()))
	if fix == "" {
		fix = "write tcp, udp, icmp, sctp or a number"
	}
	return nil, fix, fmt.Errorf("unknown protocol %s", quote(s))
}

func parsePorts(s string) ([]Flow, string, error) {
	if s == "*" {
		return []Flow{{0, 0, maxPort}}, "", nil
	}
	var out []Flow
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 32)
		b, errB := strconv.ParseUint(last, 10, 32)
		switch {
		case errA != nil || errB != nil:
			return nil, "write a port such as 443, a list 80,443, a range 8000-8080, or *", fmt.Errorf("%s is no list of ports", quote(s))
		case a > maxPort || b > maxPort:
			return nil, "", fmt.Errorf("port %s is not in 0-65535", quote(part))
		case a > b:
			return nil, "write " + quote(last+"-"+first), fmt.Errorf("range %s goes backwards", quote(part))
		}
		out = append(out, Flow{0, uint16(a), uint16(b)})
	}
	return out, "", nil
}

// NormalFlows sorts flows, joins those that touch, and drops those that others contain.
func NormalFlows(in []Flow) []Flow {
	out := slices.Clone(in)
	slices.SortFunc(out, func(a, b Flow) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	n := 0
	for i, f := range out {
		if i > 0 {
			last := &out[n-1]
			if last.Protocol == 0 {
				break
			}
			if f.Protocol == last.Protocol && int(f.First) <= int(last.Last)+1 {
				last.Last = max(last.Last, f.Last)
				continue
			}
		}
		out[n] = f
		n++
	}
	return out[:n]
}

// FlowsContain reports whether normal flows allow all of f.
func FlowsContain(flows []Flow, f Flow) bool {
	return slices.ContainsFunc(flows, func(g Flow) bool {
		return g.Protocol == 0 || g.Protocol == f.Protocol && (!HasPorts(f.Protocol) || g.First <= f.First && f.Last <= g.Last)
	})
}

// FlowsOverlap reports whether flows allow some of f.
func FlowsOverlap(flows []Flow, f Flow) bool {
	return slices.ContainsFunc(flows, func(g Flow) bool {
		return g.Protocol == 0 || f.Protocol == 0 || g.Protocol == f.Protocol && (!HasPorts(f.Protocol) || g.First <= f.Last && f.First <= g.Last)
	})
}
