package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

// Kind is what a selector selects.
type Kind uint8

// The kinds of selectors.
const (
	Any       Kind = iota // "*": every device and every routed CIDR; as a destination the internet through exit nodes too
	ByUser                // untagged devices of a user
	ByGroup               // untagged devices of the users of a group
	ByTag                 // devices with a tag
	ByAddress             // an address, a CIDR, a host or an IP set: devices that have or carry some of it
	Members               // autogroup:member, untagged devices of any user
	Tagged                // autogroup:tagged, devices with any tag
	Admins                // autogroup:admin, untagged devices of administrators
	Self                  // autogroup:self, as a destination: untagged devices of the source's user
	Internet              // autogroup:internet, as a destination: public addresses through exit nodes
)

// Selector names devices, or the addresses behind them.
type Selector struct {
	Kind Kind
	Name string // of a user, group or tag, bare
	// Prefixes are sorted and do not overlap; only ByAddress has them.
	Prefixes []netip.Prefix
	Text     string // as a person wrote it
	At       Offset
}

// String is the selector as it was written.
func (s Selector) String() string { return s.Text }

// kindSet is which kinds a list may hold.
type kindSet uint16

func anyOf(ks ...Kind) (s kindSet) {
	for _, k := range ks {
		s |= 1 << k
	}
	return s
}

func (s kindSet) has(k Kind) bool { return s&(1<<k) != 0 }

func sourceKinds() kindSet {
	return anyOf(Any, ByUser, ByGroup, ByTag, ByAddress, Members, Tagged, Admins)
}

func destinationKinds() kindSet { return sourceKinds() | anyOf(Self, Internet) }

// use is a name that the document does not define.
type use struct {
	kind Kind
	name string
	bare bool // a user without @, which may be a misspelt host
	part string
	at   Offset
}

// autogroup gives the kind of an autogroup that Warren has.
func autogroup(name string) (k Kind, ok bool) {
	switch name {
	case "member", "members":
		return Members, true
	case "tagged":
		return Tagged, true
	case "admin":
		return Admins, true
	case "self":
		return Self, true
	case "internet":
		return Internet, true
	}
	return 0, false
}

// selectorList reads a list of selectors that may be of kinds only; where names the list in errors.
func (r *reader) selectorList(v value, may kindSet, where string) []Selector {
	out := []Selector{}
	texts, at := r.strings(v)
	for i, s := range texts {
		if sel, ok := r.selector(at[i], s, may, where); ok {
			out = append(out, sel)
		}
	}
	return out
}

// selector reads one selector, written as s at v.
func (r *reader) selector(v value, s string, may kindSet, where string) (Selector, bool) {
	if !r.countSelector(v) {
		return Selector{}, false
	}
	sel, fix, err := r.resolve(s)
	if err != nil {
		r.fail(v, fix, "%v", err)
		return Selector{}, false
	}
	if !may.has(sel.Kind) {
		fix := ""
		if sel.Kind == Self || sel.Kind == Internet {
			fix = "it can be a destination only"
		}
		r.fail(v, fix, "%s cannot be used in %s", quote(s), where)
		return Selector{}, false
	}
	sel.Text, sel.At = s, v.at()
	switch sel.Kind {
	case ByUser:
		r.uses = append(r.uses, use{ByUser, sel.Name, !strings.Contains(s, "@"), v.part, sel.At})
	case ByTag:
		r.uses = append(r.uses, use{ByTag, sel.Name, false, v.part, sel.At})
	case ByGroup:
		if _, ok := r.Groups[sel.Name]; !ok {
			r.uses = append(r.uses, use{ByGroup, sel.Name, false, v.part, sel.At})
		}
	default:
	}
	return sel, true
}

// countSelector reports whether there may be one more.
func (r *reader) countSelector(v value) bool {
	if r.selectors++; r.selectors == MaxSelectors+1 {
		r.fail(v, "use groups and IP sets", "more than %d selectors in all", MaxSelectors)
	}
	return r.selectors <= MaxSelectors
}

// resolve finds out what s means.
func (r *reader) resolve(s string) (sel Selector, fix string, err error) {
	if host, ok := r.Hosts[s]; ok {
		return host, "", nil
	}
	if s == "*" {
		return Selector{Kind: Any}, "", nil
	}
	if looksLikeAddress(s) {
		p, err := parsePrefix(s)
		return Selector{Kind: ByAddress, Prefixes: []netip.Prefix{p}}, "", err
	}
	prefix, name, ok := strings.Cut(s, ":")
	if !ok {
		return r.resolveUser(s)
	}
	switch prefix {
	case "group", "tag":
		if err := checkName(name); err != nil {
			return sel, "", fmt.Errorf("%s: %w", quote(s), err)
		}
		if prefix == "tag" {
			return Selector{Kind: ByTag, Name: name}, "", nil
		}
		return Selector{Kind: ByGroup, Name: name}, "", nil
	case "ipset":
		set, ok := r.IPSets[name]
		if !ok {
			return sel, didYouMean(name, "ipset:", maps.Keys(r.IPSets)), fmt.Errorf("IP set %s is not defined in ipsets", quote(s))
		}
		return set, "", nil
	case "autogroup":
		return resolveAutogroup(s, name)
	case "host":
		host, ok := r.Hosts[name]
		if !ok {
			return sel, didYouMean(name, "host:", maps.Keys(r.Hosts)), fmt.Errorf("host %s is not defined in hosts", quote(s))
		}
		return host, "", nil
	}
	known := []string{"group", "tag", "autogroup", "ipset", "host"}
	fix = didYouMean(prefix, "", slices.Values(known))
	if fix != "" {
		fix = didYouMean(prefix+":"+name, "", slices.Values([]string{nearest(prefix, slices.Values(known)) + ":" + name}))
	}
	return sel, fix, fmt.Errorf("%s is no user, group:…, tag:…, autogroup:…, ipset:…, host, address or CIDR", quote(s))
}

func resolveAutogroup(s, name string) (sel Selector, fix string, err error) {
	if k, ok := autogroup(name); ok {
		return Selector{Kind: k}, "", nil
	}
	switch name {
	case "danger-all":
		fix = "write \"*\": traffic comes from devices and the CIDRs behind them only"
	case "shared":
		fix = "devices are not shared between networks"
	case "owner", "it-admin", "network-admin", "billing-admin", "auditor":
		fix = "the only role is administrator; write \"autogroup:admin\""
	default:
		fix = didYouMean(name, "autogroup:", slices.Values([]string{"member", "tagged", "admin", "self", "internet"}))
	}
	if fix == "" {
		fix = "there are autogroup:member, :tagged, :admin, :self and :internet"
	}
	return sel, fix, fmt.Errorf("unknown autogroup %s", quote(s))
}

// resolveUser takes "ann", Headscale's "ann@" and "ann@example.com", each the name of a user of the coordinator.
func (r *reader) resolveUser(s string) (sel Selector, fix string, err error) {
	name := strings.TrimSuffix(s, "@")
	if err := checkUser(name); err != nil {
		return sel, didYouMean(s, "", maps.Keys(r.Hosts)), fmt.Errorf("%s is no user, host, address or CIDR: %w", quote(s), err)
	}
	return Selector{Kind: ByUser, Name: name}, "", nil
}

func checkUser(name string) error {
	switch {
	case name == "":
		return errors.New("a user has a name")
	case len(name) > maxName:
		return fmt.Errorf("a user's name has at most %d bytes", maxName)
	case strings.ContainsAny(name, ":*,/\"'") || strings.HasPrefix(name, "@"):
		return errors.New("a user's name has none of : * , / and quotes, and does not begin with @")
	case strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) || c == unicode.ReplacementChar }):
		return errors.New("a user's name is printable")
	}
	return nil
}

// checkName is for groups, tags, hosts, IP sets and postures.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is missing")
	case len(name) > maxName:
		return fmt.Errorf("a name has at most %d bytes", maxName)
	case strings.ContainsAny(name, ":*,/\"' ") || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) || c == unicode.ReplacementChar }):
		return errors.New("a name is printable and has none of : * , / quotes and spaces")
	}
	return nil
}

// looksLikeAddress tells addresses and CIDRs, also broken ones, from names.
func looksLikeAddress(s string) bool {
	a, _, cidr := strings.Cut(s, "/")
	if _, err := netip.ParseAddr(a); err == nil {
		return true
	}
	digits := strings.Trim(a, "0123456789.") == "" && strings.Contains(a, ".")
	hex := strings.Trim(a, "0123456789abcdefABCDEF:.%") == "" && strings.Count(a, ":") >= 2
	return digits || hex || cidr && strings.Trim(a, "0123456789abcdefABCDEF:.") == ""
}

// parsePrefix reads an address or a CIDR.
func parsePrefix(s string) (netip.Prefix, error) {
	var p netip.Prefix
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return p, fmt.Errorf("%s is not an address", quote(s))
		}
		if a.Zone() != "" || a.Is4In6() {
			return p, fmt.Errorf("%s: an address has no zone and is not an IPv4 one mapped into IPv6", quote(s))
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf("%s is not a CIDR, such as 10.1.0.0/16 or fd00:1::/48", quote(s))
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%s is an IPv4 CIDR mapped into IPv6; write it as IPv4", quote(s))
	case p != p.Masked():
		return p, fmt.Errorf("%s has bits set beyond its length; write %s, or %s/%d for that address alone",
			quote(s), p.Masked(), p.Addr(), p.Addr().BitLen())
	}
	return p, nil
}
