package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
)

// ipsetReader resolves IP sets that use one another.
type ipsetReader struct {
	*reader
	raw   map[string]member
	state map[string]int // 1: being read, 2: done
	path  []string
}

func (r *reader) readIPSets(v value) {
	g := &ipsetReader{reader: r, raw: map[string]member{}, state: map[string]int{}}
	r.IPSets = map[string]Selector{}
	var order []string
	for _, m := range r.members(v, false) {
		if name, ok := r.named(m, "ipset:"); ok {
			g.raw[name] = m
			order = append(order, name)
		}
	}
	for _, name := range order {
		g.read(name)
	}
}

// read applies the entries of a set in their order.
func (g *ipsetReader) read(name string) {
	g.state[name] = 1
	g.path = append(g.path, name)
	var b netipx.IPSetBuilder
	texts, at := g.strings(g.raw[name].value)
	for i, s := range texts {
		verb, what, ok := strings.Cut(strings.TrimSpace(s), " ")
		if !ok {
			verb, what = "add", verb
		}
		prefixes := g.operand(at[i], strings.TrimSpace(what))
		if g.countPrefixes(at[i], len(prefixes)) {
			break
		}
		for _, p := range prefixes {
			switch verb {
			case "add":
				b.AddPrefix(p)
			case "remove":
				b.RemovePrefix(p)
			}
		}
		if verb != "add" && verb != "remove" {
			g.fail(at[i], "write \"add 10.0.0.0/8\" or \"remove 10.1.0.0/16\"", "%s is neither add nor remove", quote(verb))
		}
	}
	set, err := b.IPSet()
	if err != nil {
		g.fail(g.raw[name].value, "", "%v", err)
		set = &netipx.IPSet{}
	}
	prefixes := set.Prefixes()
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	g.IPSets[name] = Selector{Kind: ByAddress, Prefixes: prefixes, At: g.raw[name].key.at()}
	g.path = g.path[:len(g.path)-1]
	g.state[name] = 2
}

// operand gives the prefixes that an entry adds or removes.
func (g *ipsetReader) operand(v value, s string) []netip.Prefix {
	if name, ok := strings.CutPrefix(s, "ipset:"); ok {
		if _, defined := g.raw[name]; defined {
			if g.state[name] == 1 {
				cycle := append(slices.Clone(g.path[slices.Index(g.path, name):]), name)
				g.fail(v, "take one of them out", "IP sets contain themselves: ipset:%s", clip(strings.Join(cycle, " > ipset:"), 400))
				return nil
			}
			if len(g.path) >= maxGroupPath {
				g.fail(v, "", "IP sets nest more than %d deep", maxGroupPath)
				return nil
			}
			if g.state[name] == 0 {
				g.read(name)
			}
			return g.IPSets[name].Prefixes
		}
		g.fail(v, didYouMean(name, "ipset:", maps.Keys(g.raw)), "IP set %s is not defined", quote(s))
		return nil
	}
	if s == "autogroup:internet" {
		return InternetPrefixes()
	}
	sel, fix, err := g.resolve(s)
	if err == nil && sel.Kind != ByAddress {
		err = fmt.Errorf("%s cannot be in an IP set", quote(s))
		fix = "an IP set holds addresses, CIDRs, hosts, other IP sets and autogroup:internet"
	}
	if err != nil {
		g.fail(v, fix, "%v", err)
		return nil
	}
	return sel.Prefixes
}

// InternetPrefixes are the public addresses: all but those of private, shared, local, documentation and special use (RFC 6890), and multicast.
func InternetPrefixes() []netip.Prefix {
	var b netipx.IPSetBuilder
	b.AddPrefix(netip.MustParsePrefix("0.0.0.0/0"))
	b.AddPrefix(netip.MustParsePrefix("2000::/3")) // global unicast
	for _, s := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
		"192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3", "2001:db8::/32",
	} {
		b.RemovePrefix(netip.MustParsePrefix(s))
	}
	set, err := b.IPSet()
	if err != nil {
		return nil // constant prefixes are well formed
	}
	out := set.Prefixes()
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}
