package compile

import (
	"slices"

	"warren/coord/policy"
)

// flowSet is flows among which every protocol that some grant mentions stands by itself; protocol 0 is all the others together. So one can be
// taken from another, and what is left is exact.
type flowSet []policy.Flow

const maxPort = 65535

// mentioned gives the protocols that grants of any of programs mention, rising.
func mentioned(programs ...*program) (out []uint8) {
	for _, g := range programs {
		for _, r := range g.rules {
			for _, f := range r.grant.Flows {
				if f.Protocol != 0 {
					out = append(out, f.Protocol)
				}
			}
		}
	}
	return sortedUnique(out)
}

// newFlowSet takes flows apart by protocols.
func newFlowSet(flows []policy.Flow, protocols []uint8) flowSet {
	flows = policy.NormalFlows(flows)
	if len(flows) == 0 || flows[0].Protocol != 0 {
		return flows
	}
	out := flowSet{{Protocol: 0, Last: maxPort}}
	for _, p := range protocols {
		out = append(out, policy.Flow{Protocol: p, Last: maxPort})
	}
	return out
}

// without gives what s has and o has not.
func (s flowSet) without(o flowSet) flowSet {
	rest := s
	for _, taken := range o {
		var next flowSet
		for _, f := range rest {
			switch {
			case f.Protocol != taken.Protocol || f.Last < taken.First || taken.Last < f.First:
				next = append(next, f)
			default:
				if f.First < taken.First {
					next = append(next, policy.Flow{Protocol: f.Protocol, First: f.First, Last: taken.First - 1})
				}
				if taken.Last < f.Last {
					next = append(next, policy.Flow{Protocol: f.Protocol, First: taken.Last + 1, Last: f.Last})
				}
			}
		}
		rest = next
	}
	return rest
}

// words gives the flows for people: everything, except for some, where all other protocols are in s.
func (s flowSet) words(protocols []uint8) (flows, except []policy.Flow) {
	if !slices.ContainsFunc(s, func(f policy.Flow) bool { return f.Protocol == 0 }) {
		return s, nil
	}
	everything := []policy.Flow{{Protocol: 0, Last: maxPort}}
	return everything, newFlowSet(everything, protocols).without(s)
}
