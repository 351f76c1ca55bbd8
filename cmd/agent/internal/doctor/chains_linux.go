package doctor

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// ruleset is what was read of one table.
type ruleset struct {
	rules map[string][]*nftables.Rule // by chain
	sets  map[string][]nftables.SetElement
}

// hostChains looks through nftables for chains that have a hook, and such as drop 100.64.0.0/10. Tables of this program are left out.
func hostChains(tunnel string) (out []Chain, err error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, err
	}
	tables := map[string]*ruleset{}
	for _, at := range chains {
		if isOurs(at.Table.Name) {
			continue
		}
		id := familyName(at.Table.Family) + " " + at.Table.Name
		if tables[id] == nil {
			if tables[id], err = readTable(c, chains, at.Table); err != nil {
				return nil, err
			}
		}
		one := Chain{Family: familyName(at.Table.Family), Table: at.Table.Name, Name: at.Name, Hook: hookOf(at)}
		one.Drops = at.Policy != nil && *at.Policy == nftables.ChainPolicyDrop
		one.NamesUs = tables[id].names(at.Name, append([]byte(tunnel), 0), map[string]bool{})
		one.DropsShared = tables[id].dropsShared(at.Name)
		if one.Hook == "forward" {
			one.DropsInvalid, _ = tables[id].dropsInvalid(at.Name, append([]byte(tunnel), 0), map[string]bool{})
		}
		if one.Hook != "" || one.DropsShared {
			out = append(out, one)
		}
	}
	return out, nil
}

func isOurs(table string) bool { return table == "warren" || strings.HasPrefix(table, "warren-") }

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return fmt.Sprintf("family %d", f)
}

func hookOf(c *nftables.Chain) string {
	if c.Hooknum == nil || c.Table.Family != nftables.TableFamilyINet && c.Table.Family != nftables.TableFamilyIPv4 && c.Table.Family != nftables.TableFamilyIPv6 {
		return ""
	}
	switch *c.Hooknum {
	case *nftables.ChainHookInput:
		return "input"
	case *nftables.ChainHookForward:
		return "forward"
	case *nftables.ChainHookOutput:
		return "output"
	case *nftables.ChainHookPrerouting:
		return "prerouting"
	}
	return "postrouting"
}

func readTable(c *nftables.Conn, chains []*nftables.Chain, t *nftables.Table) (*ruleset, error) {
	r := &ruleset{rules: map[string][]*nftables.Rule{}, sets: map[string][]nftables.SetElement{}}
	for _, at := range chains {
		if at.Table.Name != t.Name || at.Table.Family != t.Family {
			continue
		}
		rules, err := c.GetRules(t, at)
		if err != nil {
			return nil, fmt.Errorf("chain %s of table %s: %w", at.Name, t.Name, err)
		}
		r.rules[at.Name] = rules
	}
	sets, err := c.GetSets(t)
	if err != nil {
		return nil, fmt.Errorf("sets of table %s: %w", t.Name, err)
	}
	for _, s := range sets {
		if s.KeyType.Name != nftables.TypeIFName.Name && s.KeyType.Name != nftables.TypeCTState.Name && !s.IsMap { // of maps that is not told
			continue
		}
		if r.sets[s.Name], err = c.GetSetElements(s); err != nil {
			return nil, fmt.Errorf("set %s of table %s: %w", s.Name, t.Name, err)
		}
	}
	return r, nil
}

// names reports whether a rule of the chain, or of one that it leads to, compares an interface's name with this one.
func (r *ruleset) names(chain string, name []byte, seen map[string]bool) bool {
	if seen[chain] {
		return false
	}
	seen[chain] = true
	for _, rule := range r.rules[chain] {
		if r.ruleNames(rule, name) {
			return true
		}
		for _, e := range rule.Exprs {
			if v, ok := e.(*expr.Verdict); ok && v.Chain != "" && r.names(v.Chain, name, seen) {
				return true
			}
		}
	}
	return false
}

// ruleNames reports whether a rule compares an interface's name with this one.
func (r *ruleset) ruleNames(rule *nftables.Rule, name []byte) bool {
	for _, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Cmp:
			if bytes.HasPrefix(append(bytes.Clone(e.Data), 0), name) {
				return true
			}
		case *expr.Lookup:
			for _, el := range r.sets[e.SetName] {
				if bytes.HasPrefix(append(bytes.Clone(el.Key), 0), name) {
					return true
				}
			}
		}
	}
	return false
}

// dropsShared reports whether a rule of the chain compares an address with 100.64.0.0 and drops.
func (r *ruleset) dropsShared(chain string) bool {
	for _, rule := range r.rules[chain] {
		compares := false
		for _, e := range rule.Exprs {
			switch e := e.(type) {
			case *expr.Cmp:
				compares = compares || e.Op == expr.CmpOpEq && bytes.Equal(e.Data, []byte{100, 64, 0, 0})
			case *expr.Verdict:
				if compares && e.Kind == expr.VerdictDrop {
					return true
				}
			}
		}
	}
	return false
}
