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
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// In nftables a packet passes only if every table lets it. Where another's drops what is forwarded unless told otherwise, as iptables' chain
// FORWARD does under Docker and ufw, a gateway needs a rule of its own there: in the chain that Docker keeps for such rules, or else at the
// beginning of FORWARD.
const (
	filterTable   = "filter"
	forwardChain  = "FORWARD"
	userChain     = "DOCKER-USER"
	acceptComment = "warren"
)

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
	both := slices.ContainsFunc(s.Carried, func(c Carried) bool { return c.Kind == Site || c.translated() })
	var errs []error
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		errs = append(errs, r.acceptInNFT(family, both))
	}
	for _, program := range legacyPrograms {
		errs = append(errs, r.acceptInLegacy(program, both))
	}
	r.tellOfOthers()
	return errors.Join(errs...)
}

// willAccept has the journal say so before there is such a rule.
func (r *Router) willAccept() error {
	r.journal.Accepted = true
	return r.journal.save()
}

// acceptExprs are the rules: what comes from the tunnel passes, because the tunnel's own filter let it out; what goes into it, if LANs may begin
// connections, because the filter looks at that next; if not, answers only.
func acceptExprs(name string, both bool) [][]expr.Any {
	verdict := []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}
	in := slices.Concat(iptablesInterface(expr.MetaKeyIIFNAME, name), verdict)
	out := iptablesInterface(expr.MetaKeyOIFNAME, name)
	if !both {
		out = append(out,
			&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Xor: make([]byte, 4),
				Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)},
			differ(0, 0, 0, 0))
	}
	return [][]expr.Any{in, slices.Concat(out, verdict)}
}

// iptablesInterface matches an interface's name as iptables does, which compares up to the end of the string.
func iptablesInterface(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{meta(key), equal(append([]byte(name), 0)...)}
}

// chainFor is the chain of another's table where an accepting rule is needed, or nil.
func chainFor(chains []*nftables.Chain) *nftables.Chain {
	var forward, user *nftables.Chain
	for _, c := range chains {
		switch {
		case c.Table.Name != filterTable:
		case c.Name == userChain:
			user = c
		case c.Name == forwardChain && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop:
			forward = c
		}
	}
	if forward != nil && user != nil {
		return user
	}
	return forward
}

func (r *Router) acceptInNFT(family nftables.TableFamily, both bool) error {
	c, err := nftables.New()
	if err != nil {
		return explainFirewall(filterTable, err)
	}
	chains, err := c.ListChainsOfTableFamily(family)
	if err != nil {
		return nil // no nftables, which the table of our own has told
	}
	at := chainFor(chains)
	if at == nil {
		return nil
	}
	want := acceptExprs(r.name, both)
	ours, err := acceptsIn(c, at, r.name)
	if err != nil {
		return fmt.Errorf("chain %s: %w; let it accept what comes from %s and goes there", at.Name, err, r.name)
	}
	if len(ours) == len(want) && len(ours[len(ours)-1].Exprs) == len(want[0]) { // inserted in turn, so that the first is last
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
	for _, exprs := range want {
		c.InsertRule(&nftables.Rule{Table: at.Table, Chain: at, Exprs: exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, comment(r.name))})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("chain %s drops what is forwarded, and takes no rule that lets %s through: %w", at.Name, r.name, err)
	}
	r.noteOnce("chain %s of table %s accepts what is forwarded from and to %s", at.Name, at.Table.Name, r.name)
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
		if at.Table.Name != filterTable || at.Name != forwardChain && at.Name != userChain {
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

func (l legacy) rules(name string, both bool) [][]string {
	said := []string{"-m", "comment", "--comment", comment(name), "-j", "ACCEPT"}
	in, out := []string{"-i", name}, []string{"-o", name}
	if !both {
		out = append(out, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED")
	}
	return [][]string{slices.Concat(in, said), slices.Concat(out, said)}
}

func (r *Router) acceptInLegacy(l legacy, both bool) error {
	if !l.used() {
		return nil
	}
	have, err := l.run("-S")
	if err != nil {
		return fmt.Errorf("%w; if its chain %s drops, let it accept what comes from %s and goes there", err, forwardChain, r.name)
	}
	if !strings.Contains(have, "-P "+forwardChain+" DROP\n") {
		return nil
	}
	at := forwardChain
	if strings.Contains(have, "-N "+userChain+"\n") {
		at = userChain
	}
	if err := r.willAccept(); err != nil {
		return err
	}
	for _, rule := range l.rules(r.name, both) {
		if _, err := l.run(append([]string{"-C", at}, rule...)...); err == nil {
			continue
		}
		if _, err := l.run(append([]string{"-I", at}, rule...)...); err != nil {
			return err
		}
	}
	r.noteOnce("chain %s of %s accepts what is forwarded from and to %s", at, l.program, r.name)
	return nil
}

// remove deletes our rules, of which there may be none.
func (l legacy) remove(name string) error {
	if !l.used() {
		return nil
	}
	var errs []error
	for _, at := range []string{forwardChain, userChain} {
		for _, both := range []bool{false, true} {
			for _, rule := range l.rules(name, both) {
				for {
					if _, err := l.run(append([]string{"-C", at}, rule...)...); err != nil {
						break
					}
					if _, err := l.run(append([]string{"-D", at}, rule...)...); err != nil {
						errs = append(errs, err)
						break
					}
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
