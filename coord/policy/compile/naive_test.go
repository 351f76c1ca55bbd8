package compile

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// naive judges packets by a policy as a test writes it down. It knows no sets, no sides and no positions: for each packet it reads every grant
// from the beginning and asks each selector what it means.
type naive struct {
	policyModel
	dir Directory
}

// policyModel is a policy before it is rendered as text.
type policyModel struct {
	groups   map[string][]string
	hosts    map[string]string
	ipsets   map[string][]string
	postures map[string][]string
	byField  []string // defaultSrcPosture
	grants   []grantModel
}

type grantModel struct {
	acl      bool
	name     string
	src, dst []string // dst of an acl without ports
	ip       []string // of an acl: one list of ports
	proto    string   // of an acl
	via      []string
	postures []string
	hours    string // in UTC
	days     []string
	until    time.Time
}

// packet is a packet from one device to another; its addresses may lie behind them.
type packet struct {
	from, to Device
	src, dst netip.Addr
	protocol uint8
	port     uint16
}

func (n *naive) allows(p packet, now time.Time) bool {
	return n.granted(p, now) || p.from.ID != p.to.ID && slices.ContainsFunc(n.grants, func(g grantModel) bool { return n.asksExit(g, p, now) })
}

// granted is allows by what stands in the policy alone.
func (n *naive) granted(p packet, now time.Time) bool {
	return p.from.ID != p.to.ID && slices.ContainsFunc(n.grants, func(g grantModel) bool { return n.grantAllows(g, p, now) })
}

// asksExit reports whether p asks the resolver of an exit node through which its sender may reach something of the internet.
func (n *naive) asksExit(g grantModel, p packet, now time.Time) bool {
	return p.port == 53 && (p.protocol == 6 || p.protocol == 17) && slices.Contains(p.to.Addresses, p.dst) &&
		slices.ContainsFunc(probes(p.to), func(a netip.Addr) bool {
			out := p
			out.dst = a
			return exits(p.to, a) && n.connects(g, out, now)
		})
}

func (n *naive) grantAllows(g grantModel, p packet, now time.Time) bool {
	return n.connects(g, p, now) && slices.ContainsFunc(g.ip, func(ip string) bool { return flowAllows(g, ip, p.protocol, p.port) })
}

// connects is grantAllows for some protocol and port.
func (n *naive) connects(g grantModel, p packet, now time.Time) bool {
	if !g.open(now) || !n.meets(g, p.from) {
		return false
	}
	return slices.ContainsFunc(g.src, func(src string) bool {
		return n.isSource(src, p.from, p.src) && slices.ContainsFunc(g.dst, func(dst string) bool {
			if dst == "autogroup:self" {
				return userOf(p.from) != "" && userOf(p.from) == userOf(p.to) && slices.Contains(p.to.Addresses, p.dst)
			}
			return n.isDestination(dst, g.via, p.to, p.dst)
		})
	})
}

func userOf(d Device) string {
	if len(d.Tags) > 0 {
		return ""
	}
	return d.Owner
}

// isSource reports whether traffic from address a, which d has or carries, is from sel.
func (n *naive) isSource(sel string, d Device, a netip.Addr) bool {
	own, carried := slices.Contains(d.Addresses, a), carries(d, a)
	switch {
	case sel == "*":
		return own || carried
	case n.isAddresses(sel):
		return (own || carried) && n.inSet(sel, a)
	}
	return own && n.isDevice(sel, d)
}

func (n *naive) isDestination(sel string, via []string, d Device, a netip.Addr) bool {
	through := len(via) == 0
	for _, v := range via {
		through = through || hasTag(d, strings.TrimPrefix(v, "tag:"))
	}
	own := slices.Contains(d.Addresses, a)
	carried := through && carries(d, a)
	out := through && exits(d, a)
	switch {
	case sel == "autogroup:internet":
		return out
	case sel == "*":
		return own || carried || out
	case n.isAddresses(sel):
		return (own || carried || out) && n.inSet(sel, a)
	}
	return own && n.isDevice(sel, d)
}

// carries reports whether a is behind a gateway, exits whether it is reached through an exit node.
func carries(d Device, a netip.Addr) bool {
	return slices.ContainsFunc(d.Routes, func(r netip.Prefix) bool { return r.Bits() > 0 && r.Contains(a) })
}

func exits(d Device, a netip.Addr) bool {
	return isInternet(a) && (d.Exit || slices.ContainsFunc(d.Routes, func(r netip.Prefix) bool { return r.Bits() == 0 && r.Contains(a) }))
}

// areSiblings reports whether two devices carry the very same CIDR.
func areSiblings(x, y Device) bool {
	return x.ID != y.ID && slices.ContainsFunc(x.Routes, func(r netip.Prefix) bool { return r.Bits() > 0 && slices.Contains(y.Routes, r) })
}

func hasTag(d Device, tag string) bool {
	return slices.Contains(d.Tags, tag) || slices.Contains(d.Tags, "tag:"+tag)
}

func (n *naive) isDevice(sel string, d Device) bool {
	kind, name, _ := strings.Cut(sel, ":")
	user := userOf(d)
	switch {
	case sel == "autogroup:member":
		return user != ""
	case sel == "autogroup:tagged":
		return len(d.Tags) > 0
	case sel == "autogroup:admin":
		return user != "" && n.dir.Users[user].Admin
	case kind == "tag":
		return hasTag(d, name)
	case kind == "group":
		return user != "" && n.inGroup(name, user)
	}
	return user != "" && strings.TrimSuffix(sel, "@") == user
}

func (n *naive) inGroup(group, user string) bool {
	members, defined := n.groups[group]
	if !defined {
		return slices.Contains(n.dir.Groups[group], user)
	}
	return slices.ContainsFunc(members, func(m string) bool {
		if inner, ok := strings.CutPrefix(m, "group:"); ok {
			return n.inGroup(inner, user)
		}
		return strings.TrimSuffix(m, "@") == user
	})
}

func (n *naive) isAddresses(sel string) bool {
	_, isHost := n.hosts[sel]
	return isHost || strings.HasPrefix(sel, "ipset:") || sel[0] >= '0' && sel[0] <= '9' || strings.Contains(sel, "::")
}

// inSet reports whether a is in an address, CIDR, host or IP set, where the last entry that has a counts.
func (n *naive) inSet(sel string, a netip.Addr) bool {
	if h, ok := n.hosts[sel]; ok {
		sel = h
	}
	name, ok := strings.CutPrefix(sel, "ipset:")
	if !ok {
		if sel == "autogroup:internet" {
			return isInternet(a)
		}
		if !strings.Contains(sel, "/") {
			return netip.MustParseAddr(sel) == a
		}
		return netip.MustParsePrefix(sel).Contains(a)
	}
	in := false
	for _, e := range n.ipsets[name] {
		verb, what, found := strings.Cut(e, " ")
		if !found {
			verb, what = "add", e
		}
		if n.inSet(what, a) {
			in = verb == "add"
		}
	}
	return in
}

// isInternet goes by the ranges that are not public.
func isInternet(a netip.Addr) bool {
	if a.Is6() {
		return a.As16()[0]>>5 == 1 && !netip.MustParsePrefix("2001:db8::/32").Contains(a)
	}
	b := a.As4()
	switch {
	case b[0] == 0, b[0] == 10, b[0] == 127, b[0] >= 224, b[0] == 169 && b[1] == 254, b[0] == 192 && b[1] == 168,
		b[0] == 172 && b[1]&0xf0 == 16, b[0] == 100 && b[1]&0xc0 == 64, b[0] == 198 && b[1]&0xfe == 18,
		b[0] == 192 && b[1] == 0 && (b[2] == 0 || b[2] == 2), b[0] == 198 && b[1] == 51 && b[2] == 100, b[0] == 203 && b[1] == 0 && b[2] == 113:
		return false
	}
	return true
}

func flowAllows(g grantModel, ip string, protocol uint8, port uint16) bool {
	proto, ports, hasProto := strings.Cut(ip, ":")
	if g.acl {
		proto, ports = g.proto, ip
	} else if ip == "*" {
		return true
	} else if !hasProto {
		proto, ports = "", ip
	}
	numbers := map[string][]uint8{"tcp": {6}, "udp": {17}, "sctp": {132}, "icmp": {1, 58}, "gre": {47}, "": {6, 17, 1, 58}, "89": {89}}[proto]
	if !slices.Contains(numbers, protocol) {
		return false
	}
	if protocol != 6 && protocol != 17 && protocol != 132 || ports == "*" {
		return true
	}
	return slices.ContainsFunc(strings.Split(ports, ","), func(s string) bool {
		first, last, isRange := strings.Cut(s, "-")
		if !isRange {
			last = first
		}
		lo, _ := strconv.Atoi(first)
		hi, _ := strconv.Atoi(last)
		return int(port) >= lo && int(port) <= hi
	})
}

// meets goes by the few conditions that tests use: fact == 'x', fact != 'x', fact >= 'n', NOT SET.
func (n *naive) meets(g grantModel, d Device) bool {
	names := g.postures
	if len(names) == 0 {
		names = n.byField
	}
	return len(names) == 0 || slices.ContainsFunc(names, func(p string) bool {
		return !slices.ContainsFunc(n.postures[strings.TrimPrefix(p, "posture:")], func(c string) bool { return !holds(c, d.Facts) })
	})
}

func holds(condition string, facts map[string]string) bool {
	w := strings.SplitN(condition, " ", 3)
	fact, known := facts[w[0]]
	if condition == w[0]+" NOT SET" {
		return facts != nil && !known
	}
	want := strings.Trim(w[2], "'")
	switch w[1] {
	case "==":
		return known && fact == want
	case "!=":
		return known && fact != want
	case ">=":
		x, err := strconv.Atoi(fact)
		y, _ := strconv.Atoi(want)
		return known && err == nil && x >= y
	}
	panic("the generator makes no such condition: " + condition)
}

func (g *grantModel) open(now time.Time) bool {
	if !g.until.IsZero() && !now.Before(g.until) {
		return false
	}
	if g.hours == "" && g.days == nil {
		return true
	}
	isDay := func(t time.Time) bool {
		return g.days == nil || slices.Contains(g.days, strings.ToLower(t.UTC().Weekday().String()))
	}
	if g.hours == "" {
		return isDay(now)
	}
	clock := now.UTC().Format("15:04")
	from, to, _ := strings.Cut(g.hours, "-")
	if from < to {
		return isDay(now) && clock >= from && clock < to
	}
	return isDay(now) && clock >= from || isDay(now.Add(-24*time.Hour)) && clock < to
}
