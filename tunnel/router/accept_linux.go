package router

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// In nftables a packet passes only if every table lets it. Where another's drops what is forwarded unless told otherwise, as iptables' chain
// FORWARD does under Docker and ufw, a gateway needs a rule of its own there: in the chain that Docker keeps for such rules, or else at the
// beginning of FORWARD. An exit node needs one in INPUT too, for questions for names.
const (
	filterTable   = "filter"
	forwardChain  = "FORWARD"
	inputChain    = "INPUT"
	userChain     = "DOCKER-USER"
	acceptComment = "warren"
)

// pass is what other firewalls have to let through.
type pass struct {
	interfaceName string
	// in has what comes from the tunnel forwarded, because the tunnel's own filter let it out, and the answers to it.
	in bool
	// out has all forwarded that goes into the tunnel, because the filter looks at that next.
	out bool
	// names has questions for names from the tunnel reach this host.
	names bool
}

func (r *Router) passFor(s State) pass {
	both := slices.ContainsFunc(s.Carried, func(c Carried) bool { return c.Kind == Site || c.translated() })
	return pass{interfaceName: r.name, in: s.gateway().Any(), out: both, names: s.Exit.Any()}
}

// acceptRule is one rule, as nftables has it and as iptables' arguments say it.
type acceptRule struct {
	exprs []expr.Any
	args  []string
}

// rules are those for a chain, of which nothing but its name matters here.
func (p pass) rules(chain string) (out []acceptRule) {
	add := func(args []string, exprs ...[]expr.Any) {
		all := append(slices.Concat(exprs...), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept})
		out = append(out, acceptRule{all, append(args, "-m", "comment", "--comment", comment(p.interfaceName), "-j", "ACCEPT")})
	}
	in, into := iptablesInterface(expr.MetaKeyIIFNAME, p.interfaceName), iptablesInterface(expr.MetaKeyOIFNAME, p.interfaceName)
	switch {
	case chain == inputChain && p.names:
		for _, l4 := range []struct {
			name  string
			match term
		}{{"udp", udp()}, {"tcp", tcp()}} {
			add([]string{"-i", p.interfaceName, "-p", l4.name, "--dport", "53"}, in, l4.match.exprs, destinationPort(53).exprs)
		}
	case chain == inputChain || !p.in:
	case p.out:
		add([]string{"-i", p.interfaceName}, in)
		add([]string{"-o", p.interfaceName}, into)
	default:
		add([]string{"-i", p.interfaceName}, in)
		add([]string{"-o", p.interfaceName, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"}, into, iptablesAnswers())
	}
	return out
}

// comment marks a rule of ours in a chain of others.
func comment(name string) string { return acceptComment + " " + name }

// applyAccept has other firewalls let through what a gateway forwards.
func (r *Router) applyAccept(s State) error {
	if !s.gateway().Any() {
		if !r.journal.Accepted {
			return nil
		}
		if err := removeAccepts(r.name); err != nil {
			return err
		}
		r.journal.Accepted = false
		return r.journal.save()
	}
	p := r.passFor(s)
	var errs []error
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		errs = append(errs, r.acceptInNFT(family, p))
	}
	for _, program := range legacyPrograms {
		errs = append(errs, r.acceptInLegacy(program, p))
	}
	r.tellOfOthers()
	return errors.Join(errs...)
}

// willAccept has the journal say so before there is such a rule.
func (r *Router) willAccept() error {
	r.journal.Accepted = true
	return r.journal.save()
}

// iptablesInterface matches an interface's name as iptables does, which compares up to the end of the string.
func iptablesInterface(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{meta(key), equal(append([]byte(name), 0)...)}
}

// places are the chains of others that rules of ours may be in.
var places = []string{forwardChain, userChain, inputChain}

func mayHoldOurs(c *nftables.Chain) bool {
	return c.Table.Name == filterTable && slices.Contains(places, c.Name)
}

// iptablesAnswers matches answers, and ICMP errors about them, as iptables does: it calls a table with a "ct state" of nftables' own in it
// incompatible, and lists nothing of it.
func iptablesAnswers() []expr.Any {
	const established, related = 1 << 1, 1 << 2 // bits of XT_CONNTRACK_STATE_BIT in xt_conntrack.h
	info := xt.ConntrackMtinfo3{}
	info.MatchFlags, info.StateMask = uint16(xt.ConntrackState), established|related
	return []expr.Any{&expr.Match{Name: "conntrack", Rev: 3, Info: &info}}
}

// dropping are the chains of the filter table that need rules: those that drop unless told otherwise.
func dropping(chains []*nftables.Chain) (out []*nftables.Chain) {
	var user *nftables.Chain
	for _, c := range chains {
		if c.Table.Name == filterTable && c.Name == userChain {
			user = c
		}
	}
	for _, c := range chains {
		drops := c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
		switch {
		case c.Table.Name != filterTable || !drops:
		case c.Name == forwardChain && user != nil:
			out = append(out, user)
		case c.Name == forwardChain || c.Name == inputChain:
			out = append(out, c)
		}
	}
	return out
}

func (r *Router) acceptInNFT(family nftables.TableFamily, p pass) error {
	c, err := nftables.New()
	if err != nil {
		return explainFirewall(filterTable, err)
	}
	chains, err := c.ListChainsOfTableFamily(family)
	if err != nil {
		return nil // no nftables, which the table of our own has told
	}
	var errs []error
	need := dropping(chains)
	for _, at := range chains {
		switch {
		case slices.Contains(need, at):
			errs = append(errs, r.acceptIn(c, at, p.rules(at.Name)))
		case r.journal.Accepted && mayHoldOurs(at): // it dropped, or there was no better place
			errs = append(errs, r.acceptIn(c, at, nil))
		}
	}
	return errors.Join(errs...)
}

// acceptIn puts our rules at the beginning of a chain, in place of those of ours that are there.
func (r *Router) acceptIn(c *nftables.Conn, at *nftables.Chain, want []acceptRule) error {
	ours, err := acceptsIn(c, at, r.name)
	if err != nil {
		return fmt.Errorf("chain %s: %w; let it accept what comes from %s and goes there", at.Name, err, r.name)
	}
	slices.Reverse(ours) // each was inserted before the one before it
	if slices.EqualFunc(ours, want, func(is *nftables.Rule, want acceptRule) bool { return len(is.Exprs) == len(want.exprs) }) {
		return nil
	}
	if err := r.willAccept(); err != nil {
		return err
	}
	for _, old := range ours {
		if err := c.DelRule(old); err != nil {
			return err
		}
	}
	for _, rule := range want {
		c.InsertRule(&nftables.Rule{Table: at.Table, Chain: at, Exprs: rule.exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, comment(r.name))})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("chain %s drops unless told otherwise, and takes no rule that lets %s through: %w", at.Name, r.name, err)
	}
	if len(want) > 0 {
		r.noteOnce("chain %s of table %s accepts what is needed from and to %s", at.Name, at.Table.Name, r.name)
	}
	return nil
}

// acceptsIn are our rules in a chain of others.
func acceptsIn(c *nftables.Conn, at *nftables.Chain, name string) (ours []*nftables.Rule, err error) {
	rules, err := c.GetRules(at.Table, at)
	for _, rule := range rules {
		if text, ok := userdata.GetString(rule.UserData, userdata.TypeComment); ok && text == comment(name) {
			rule.Table, rule.Chain = at.Table, at
			ours = append(ours, rule)
		}
	}
	return ours, err
}

// removeAccepts removes our rules from the chains of others.
func removeAccepts(name string) error {
	var errs []error
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		errs = append(errs, removeFromNFT(family, name))
	}
	for _, program := range legacyPrograms {
		errs = append(errs, program.remove(name))
	}
	return errors.Join(errs...)
}

func removeFromNFT(family nftables.TableFamily, name string) error {
	c, err := nftables.New()
	if err != nil {
		return explainFirewall(filterTable, err)
	}
	chains, err := c.ListChainsOfTableFamily(family)
	if err != nil {
		return nil
	}
	var errs []error
	for _, at := range chains {
		if !mayHoldOurs(at) {
			continue
		}
		ours, err := acceptsIn(c, at, name)
		errs = append(errs, err)
		for _, rule := range ours {
			errs = append(errs, c.DelRule(rule))
		}
	}
	if err := c.Flush(); !errors.Is(err, unix.ENOENT) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("rules of table %s that let %s through: %w", filterTable, name, err)
	}
	return nil
}

// legacy is iptables on the kernel's old interface, which only its own program changes without danger.
type legacy struct{ program, names string }

var legacyPrograms = []legacy{{"iptables-legacy", "ip_tables_names"}, {"ip6tables-legacy", "ip6_tables_names"}}

// used reports whether the kernel has that interface's filter table in this network namespace.
func (l legacy) used() bool {
	b, err := os.ReadFile("/proc/thread-self/net/" + l.names)
	return err == nil && slices.Contains(strings.Fields(string(b)), filterTable)
}

// run calls the program, which waits for others of its kind.
func (l legacy) run(args ...string) (string, error) {
	var out, problem bytes.Buffer
	cmd := exec.Command(l.program, append([]string{"-w", "5", "-t", filterTable}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", l.program, strings.Join(args, " "), err, strings.TrimSpace(problem.String()))
	}
	return out.String(), nil
}

func (r *Router) acceptInLegacy(l legacy, p pass) error {
	if !l.used() {
		return nil
	}
	have, err := l.run("-S")
	if err != nil {
		return fmt.Errorf("%w; if its chain %s drops, let it accept what comes from %s and goes there", err, forwardChain, r.name)
	}
	want := make(map[string][]acceptRule)
	for _, chain := range []string{forwardChain, inputChain} {
		at := chain
		if chain == forwardChain && strings.Contains(have, "-N "+userChain+"\n") {
			at = userChain
		}
		if strings.Contains(have, "-P "+chain+" DROP\n") {
			want[at] = p.rules(at)
		}
	}
	for _, at := range places {
		if strings.Contains(have, comment(r.name)) {
			if err := l.removeBut(want[at], at, r.name); err != nil {
				return err
			}
		}
		rules := want[at]
		if len(rules) == 0 {
			continue
		}
		if err := r.willAccept(); err != nil {
			return err
		}
		for _, rule := range rules {
			if l.has(at, rule) {
				continue
			}
			if _, err := l.run(append([]string{"-I", at}, rule.args...)...); err != nil {
				return err
			}
		}
		r.noteOnce("chain %s of %s accepts what is needed from and to %s", at, l.program, r.name)
	}
	return nil
}

func (l legacy) has(chain string, rule acceptRule) bool {
	_, err := l.run(append([]string{"-C", chain}, rule.args...)...)
	return err == nil
}

// remove deletes our rules, of which there may be none.
func (l legacy) remove(name string) error {
	if !l.used() {
		return nil
	}
	var errs []error
	for _, chain := range places {
		errs = append(errs, l.removeBut(nil, chain, name))
	}
	return errors.Join(errs...)
}

// removeBut deletes the rules of ours in a chain that are not among those to keep.
func (l legacy) removeBut(keep []acceptRule, chain, name string) error {
	var errs []error
	for _, p := range []pass{{name, true, true, true}, {name, true, false, true}} {
		for _, rule := range p.rules(chain) {
			if slices.ContainsFunc(keep, func(k acceptRule) bool { return slices.Equal(k.args, rule.args) }) {
				continue
			}
			for l.has(chain, rule) {
				if _, err := l.run(append([]string{"-D", chain}, rule.args...)...); err != nil {
					errs = append(errs, err)
					break
				}
			}
		}
	}
	return errors.Join(errs...)
}

// tellOfOthers notes chains of other tables that drop what is forwarded by their policy, and that have no place for rules of others.
func (r *Router) tellOfOthers() {
	c, err := nftables.New()
	if err != nil {
		return
	}
	chains, err := c.ListChains()
	if err != nil {
		return
	}
	for _, at := range chains {
		forwards := at.Hooknum != nil && *at.Hooknum == *nftables.ChainHookForward && at.Policy != nil && *at.Policy == nftables.ChainPolicyDrop
		if forwards && at.Table.Name != filterTable && at.Table.Name != killSwitchTable {
			r.noteOnce("chain %s of nftables table %s drops what is forwarded unless told otherwise: let it accept what comes from %s and goes there",
				at.Name, at.Table.Name, r.name)
		}
	}
}
