package policy

import (
	"bytes"
	"fmt"
)

// Parse reads a policy. The error is Problems, all that were found up to a bound.
func Parse(text []byte) (*Policy, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // some editors write a byte order mark
	p := &Policy{text: text}
	if len(text) > MaxSize {
		return nil, Problems{{
			Position{1, 1}, "", fmt.Sprintf("the policy has %d bytes, more than %d", len(text), MaxSize), "name sets of addresses once, in ipsets, and use the names",
		}}
	}
	p.lines = lineStarts(text)
	r := &reader{Policy: p, names: map[string]Offset{}}
	if root, ok := r.tree(); ok {
		r.document(root)
	}
	if len(r.problems) > 0 {
		r.problems.sort()
		if r.flooded {
			last := r.problems[len(r.problems)-1]
			r.problems = append(r.problems, Problem{last.Position, "", "there are more problems", "mend these first"})
		}
		return nil, r.problems
	}
	p.Warnings.sort()
	return p, nil
}

// document reads sections in the order in which they need one another.
func (r *reader) document(root value) {
	sections := map[string]value{}
	keep := func(name string) field { return field{name, func(v value) { sections[name] = v }} }
	ignored := func(name, why string) field {
		return field{name, func(v value) { r.warn(v, "", "%s is ignored: %s", name, why) }}
	}
	r.object(root,
		keep("groups"), keep("tagOwners"), keep("hosts"), keep("ipsets"), keep("grants"), keep("acls"), keep("autoApprovers"),
		keep("nodeAttrs"), keep("postures"), keep("defaultSrcPosture"), keep("tests"),
		ignored("ssh", "Warren does not let anybody in by SSH; a grant of tcp:22 lets a device reach an SSH server"),
		ignored("sshTests", "there are no SSH rules to test"),
		ignored("derpMap", "relays are set up at the coordinator"),
		ignored("disableIPv4", "every device has an IPv4 and an IPv6 address"),
		ignored("OneCGNATRoute", "agents install the routes of the network's own prefixes"),
		ignored("randomizeClientPort", "agents choose their ports by themselves"),
	)
	read := func(name string, f func(value)) {
		if v, ok := sections[name]; ok {
			f(v)
		}
	}
	read("hosts", r.readHosts)
	read("ipsets", r.readIPSets)
	read("groups", r.readGroups)
	read("postures", r.readPostures)
	read("defaultSrcPosture", func(v value) { r.posture = r.postureNames(v) })
	read("tagOwners", r.readTagOwners)
	read("grants", r.readGrants)
	read("acls", r.readACLs)
	read("autoApprovers", r.readApprovers)
	read("nodeAttrs", r.readNodeAttrs)
	read("tests", r.readTests)
	if len(r.Grants) == 0 && len(r.problems) == 0 {
		r.warn(root, "\"warren-coordinator policy get --number 1\" prints the policy that the network began with", "no grants: no device may reach any other")
	}
}

// readApprovers reads who needs no approval.
func (r *reader) readApprovers(v value) {
	who := anyOf(ByUser, ByGroup, ByTag, Members, Tagged, Admins)
	r.object(v,
		field{"routes", func(v value) {
			for _, m := range r.members(v, false) {
				route, err := parsePrefix(m.name)
				if err != nil {
					r.fail(m.key, "", "%v", err)
				}
				by := r.selectorList(m.value, who, "autoApprovers")
				r.Approvers = append(r.Approvers, RouteApprover{route, by})
			}
		}},
		field{"exitNode", func(v value) { r.ExitApprover = r.selectorList(v, who, "autoApprovers") }},
	)
}

func (r *reader) readNodeAttrs(v value) {
	for _, e := range r.list(v) {
		var a NodeAttr
		ok := r.object(e,
			field{"target", func(v value) {
				a.Target = r.selectorList(v, anyOf(Any, ByUser, ByGroup, ByTag, ByAddress, Members, Tagged, Admins), "nodeAttrs")
			}},
			field{"attr", func(v value) {
				if a.Attrs, _ = r.strings(v); len(a.Attrs) > 0 {
					r.warn(v, "", "attr has no effect: Warren knows no attributes of devices")
				}
			}},
			field{"app", func(v value) { r.warn(v, "", "app is ignored: Warren knows no application capabilities") }},
			field{"ipPool", func(v value) { r.warn(v, "", "ipPool is ignored: addresses come from the network's prefixes") }},
		)
		if ok && a.Target == nil {
			r.fail(e, "write \"target\": [\"*\"], for example", "no target")
		}
		r.NodeAttrs = append(r.NodeAttrs, a)
	}
}
