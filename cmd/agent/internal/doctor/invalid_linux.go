package doctor

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
)

// stateInvalid is the bit of packets that conntrack knows no connection for, in nftables' "ct state" and in the matches of iptables.
const stateInvalid = 1

// dropsInvalid reports whether the chain, or one that it leads to, drops packets of connections whose beginning was not seen, before a rule that names
// the tunnel's interface. Such a rule ends the search: known.
func (r *ruleset) dropsInvalid(chain string, name []byte, seen map[string]bool) (drops, known bool) {
	if seen[chain] {
		return false, false
	}
	seen[chain] = true
	for _, rule := range r.rules[chain] {
		if r.ruleNames(rule, name) {
			return false, true
		}
		if r.ruleDropsInvalid(rule) {
			return true, false
		}
		for _, e := range rule.Exprs {
			if v, ok := e.(*expr.Verdict); ok && v.Chain != "" {
				if drops, known = r.dropsInvalid(v.Chain, name, seen); drops || known {
					return drops, known
				}
			}
		}
	}
	return false, false
}

// ruleDropsInvalid knows "ct state invalid drop", the same in a verdict map, and the match conntrack of iptables.
func (r *ruleset) ruleDropsInvalid(rule *nftables.Rule) bool {
	state, invalid := false, false // a "ct state" was loaded; what follows is about the state invalid
	for _, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Ct:
			state = e.Key == expr.CtKeySTATE
		case *expr.Bitwise:
			invalid = invalid || state && len(e.Mask) == 4 && binary.NativeEndian.Uint32(e.Mask)&stateInvalid != 0
		case *expr.Cmp:
			if state && invalid && e.Op == expr.CmpOpEq { // "! ct state invalid"
				invalid = false
			}
			state = false
		case *expr.Lookup:
			if state && e.IsDestRegSet && r.holdsInvalid(e.SetName, toDrop) {
				return true
			}
			invalid = invalid || state && !e.IsDestRegSet && !e.Invert && r.holdsInvalid(e.SetName, anything)
			state = false
		case *expr.Match:
			invalid = invalid || matchesInvalid(e)
		case *expr.Verdict:
			if invalid && e.Kind == expr.VerdictDrop {
				return true
			}
		}
	}
	return false
}

// holdsInvalid reports whether a set of connections' states has the state invalid, in an element of that kind.
func (r *ruleset) holdsInvalid(set string, kind func(nftables.SetElement) bool) bool {
	for _, el := range r.sets[set] {
		if len(el.Key) == 4 && binary.NativeEndian.Uint32(el.Key)&stateInvalid != 0 && kind(el) {
			return true
		}
	}
	return false
}

func anything(nftables.SetElement) bool { return true }

// toDrop reads what the library leaves as it came: an attribute with the verdict.
func toDrop(el nftables.SetElement) bool {
	const code = 1 // NFTA_VERDICT_CODE
	return len(el.Val) == 8 && binary.NativeEndian.Uint16(el.Val[2:]) == code && expr.VerdictKind(int32(binary.BigEndian.Uint32(el.Val[4:]))) == expr.VerdictDrop
}

func matchesInvalid(m *expr.Match) bool {
	i, ok := m.Info.(*xt.ConntrackMtinfo3)
	return m.Name == "conntrack" && ok && i.StateMask&stateInvalid != 0 && i.MatchFlags&^i.InvertFlags&1 != 0 // of the state, and not of all others
}
