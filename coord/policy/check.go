package policy

import (
	"iter"
	"maps"
	"slices"
)

// Names are what exists outside of the document.
type Names struct {
	Users  map[string]bool
	Groups map[string]bool
	Tags   map[string]bool // of devices and join tokens
}

// Check looks for names that neither the document nor known has. An unknown group is an error: who wrote it meant somebody. An unknown user or
// tag is a warning only, for a policy comes before the people and devices that it is for, and what nobody has grants nothing.
func (p *Policy) Check(known Names) (errs, warnings Problems) {
	type name struct {
		Kind
		string
	}
	told := map[name]bool{}
	for _, u := range p.uses {
		if len(errs)+len(warnings) >= maxProblems {
			break
		}
		if id := (name{u.kind, u.name}); told[id] {
			continue // once is enough
		} else {
			told[id] = true
		}
		switch u.kind {
		case ByGroup:
			if !known.Groups[u.name] {
				fix := didYouMean(u.name, "group:", both(maps.Keys(p.Groups), maps.Keys(known.Groups)))
				errs = append(errs, newProblem(p.Position(u.at), u.part, "group "+quote("group:"+u.name)+" is defined neither in groups nor by sign-in", fix))
			}
		case ByTag:
			if _, owned := p.TagOwners[u.name]; !owned && !known.Tags[u.name] {
				fix := didYouMean(u.name, "tag:", both(maps.Keys(p.TagOwners), maps.Keys(known.Tags)))
				warnings = append(warnings, newProblem(p.Position(u.at), u.part, "no device has "+quote("tag:"+u.name)+", and it is not in tagOwners", fix))
			}
		case ByUser:
			if !known.Users[u.name] {
				warnings = append(warnings, p.unknownUser(u, known))
			}
		default:
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Hosts)) {
		if host := p.Hosts[name]; known.Users[name] && len(warnings) < maxProblems {
			warnings = append(warnings, newProblem(
				p.Position(host.At), "hosts."+name, quote(name)+" is a user too: alone it means the host", "write "+quote(name+"@")+" for the user",
			))
		}
	}
	errs.sort()
	warnings.sort()
	return errs, warnings
}

func (p *Policy) unknownUser(u use, known Names) Problem {
	names := maps.Keys(known.Users)
	what := "there is no user " + quote(u.name)
	if u.bare {
		what += ", nor a host of that name"
		names = both(names, maps.Keys(p.Hosts))
	}
	return newProblem(p.Position(u.at), u.part, what, didYouMean(u.name, "", names))
}

func both(a, b iter.Seq[string]) iter.Seq[string] {
	return slices.Values(slices.Sorted(func(yield func(string) bool) {
		for _, s := range []iter.Seq[string]{a, b} {
			for n := range s {
				if !yield(n) {
					return
				}
			}
		}
	}))
}

// CheckUser accepts a name that a policy can name a user by.
func CheckUser(name string) error { return checkUser(name) }
