package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"warren/cmd/internal/cmdline"
	"warren/coord/policy"
	"warren/coord/policy/compile"
	pb "warren/proto/warrenv1"
)

func (a *app) policy() *cobra.Command {
	return cmdline.Group("policy", "Show, check, set and roll back the policy: who may reach whom",
		a.policyGet(), a.policyCheck(), a.policySet(), a.policyConfirm(), a.policyTest(), a.policyDiff(), a.policyHistory(), a.policyRollback())
}

// document is a policy that a person gave.
type document struct {
	name   string // for messages
	text   []byte
	parsed *policy.Policy
}

// read takes a policy from a file, or from standard input for "-". What is not well formed is told with its place, and is an error.
func (a *app) read(path string) (*document, error) {
	d := &document{name: path}
	from := io.Reader(os.Stdin)
	if path == "-" {
		d.name = "standard input"
	} else {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	var err error
	if d.text, err = io.ReadAll(io.LimitReader(from, policy.MaxSize+1)); err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, err)
	}
	if len(d.text) > policy.MaxSize {
		return nil, fmt.Errorf("%s is longer than %d bytes, and no policy may be", d.name, policy.MaxSize)
	}
	d.parsed, err = policy.Parse(d.text)
	var problems policy.Problems
	if errors.As(err, &problems) {
		return d, &reported{reportJSON{Errors: problemViews(problems)}, d.name + " is not a policy"}
	}
	return d, err
}

// reported is an error with the report that explains it.
type reported struct {
	report reportJSON
	why    string
}

func (r *reported) Error() string { return r.why }

// explain prints what a report says against a document, one line for each place.
func (a *app) explain(name string, r reportJSON) {
	for _, list := range []struct {
		word     string
		problems []problemJSON
	}{{"", r.Errors}, {"", r.Failures}, {"warning: ", r.Warnings}} {
		for _, p := range list.problems {
			fmt.Fprintf(a.err, "%s:%d:%d: %s%s\n", name, p.Line, p.Column, list.word, p.text())
		}
	}
}

// refused prints the report of a document that was refused, with --json on standard output, and gives the error to end with.
func (a *app) refused(name string, err error) error {
	var r *reported
	var remote *connect.Error
	switch {
	case errors.As(err, &r):
	case errors.As(err, &remote):
		for _, d := range remote.Details() {
			if m, bad := d.Value(); bad == nil {
				if report, ok := m.(*pb.PolicyReport); ok {
					r = &reported{reportView(report), remote.Message()}
				}
			}
		}
	}
	if r == nil {
		return err
	}
	if a.json {
		if err := a.printJSON(r.report.whole()); err != nil {
			return err
		}
	} else {
		a.explain(name, r.report)
	}
	return r
}

func (a *app) policyGet() *cobra.Command {
	var number uint64
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Print the policy in force, or an earlier one",
		Args:  cmdline.Args(cobra.NoArgs),
	}
	cmd.Flags().Uint64Var(&number, "number", 0, "the `number` of another policy; \"policy history\" shows them")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := a.client().GetPolicy(cmd.Context(), connect.NewRequest(&pb.GetPolicyRequest{Number: number}))
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(policyView(r.Msg.GetPolicy()))
		}
		_, err = a.out.Write(r.Msg.GetPolicy().GetText())
		return err
	}
	return cmd
}

// examine has the running coordinator look at a document; nil: none runs here, or this user may not ask it.
func (a *app) examine(ctx context.Context, text []byte) (*pb.PolicyReport, error) {
	r, err := a.client().CheckPolicy(ctx, connect.NewRequest(&pb.CheckPolicyRequest{Text: text}))
	absent := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
	if absent && errors.Is(err, errSocket) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return r.Msg.GetReport(), nil
}

// look finds out what there is to say of a document: from the running coordinator, or else as far as the document alone tells.
func (a *app) look(ctx context.Context, path string) (r reportJSON, name string, alone bool, err error) {
	d, err := a.read(path)
	if err != nil {
		var bad *reported
		if d == nil || !errors.As(err, &bad) {
			return r, path, false, err
		}
		return bad.report, d.name, false, nil
	}
	m, err := a.examine(ctx, d.text)
	if err != nil || m != nil {
		return reportView(m), d.name, false, err
	}
	r = reportJSON{Warnings: problemViews(d.parsed.Warnings), Tests: len(d.parsed.Tests)}
	for _, f := range compile.RunTests(d.parsed, compile.Directory{}, time.Now()) {
		r.Failures = append(r.Failures, problemJSON{Line: f.At.Line, Column: f.At.Column, Part: f.Test, What: f.Text})
	}
	return r, d.name, true, nil
}

func (a *app) policyCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Tell whether a policy is well formed and could be set; \"-\" reads standard input",
		Long: `Tells whether a policy is well formed, whether its tests pass, and whether it could be put into force, and changes nothing. Each
problem comes with file, line and column. Where no coordinator runs, only what the document itself says is checked.`,
		Args: cmdline.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			r, name, alone, err := a.look(cmd.Context(), given[0])
			if err != nil {
				return err
			}
			why := r.against(name)
			if a.json {
				return errors.Join(a.printJSON(r.whole()), why)
			}
			a.explain(name, r)
			if why != nil {
				return why
			}
			note := ""
			if alone {
				note = "; users, tags and devices were not looked at, for no coordinator runs here"
			}
			_, err = fmt.Fprintf(a.out, "%s is well formed; %s%s\n", name, passed(r.Tests), note)
			return err
		},
	}
}

func passed(tests int) string {
	switch tests {
	case 0:
		return "it has no tests"
	case 1:
		return "its test passes"
	}
	return fmt.Sprintf("its %d tests pass", tests)
}

func (a *app) policyTest() *cobra.Command {
	return &cobra.Command{
		Use:   "test [FILE]",
		Short: "Run the tests of a policy, by default of the one in force",
		Args:  cmdline.Args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			r, name, err := a.tested(cmd.Context(), given)
			if err != nil {
				return err
			}
			if a.json {
				return errors.Join(a.printJSON(map[string]any{"tests": r.Tests, "failures": r.whole().Failures}), r.failed(name))
			}
			r.Warnings = nil
			a.explain(name, r)
			if err := r.failed(name); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "%s: %s\n", name, passed(r.Tests))
			return err
		},
	}
}

func (a *app) tested(ctx context.Context, given []string) (r reportJSON, name string, err error) {
	if len(given) == 1 {
		r, name, _, err = a.look(ctx, given[0])
		return r, name, err
	}
	m, err := a.client().CheckPolicy(ctx, connect.NewRequest(&pb.CheckPolicyRequest{}))
	if err != nil {
		return r, "", err
	}
	return reportView(m.Msg.GetReport()), "policy in force", nil
}

func (a *app) policyDiff() *cobra.Command {
	return &cobra.Command{
		Use:   "diff FILE",
		Short: "Tell who would gain and who would lose what if this policy were in force",
		Args:  cmdline.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			d, err := a.read(given[0])
			if err != nil {
				return a.refused(given[0], err)
			}
			m, err := a.client().CheckPolicy(cmd.Context(), connect.NewRequest(&pb.CheckPolicyRequest{Text: d.text}))
			if err != nil {
				return err
			}
			r := reportView(m.Msg.GetReport())
			if len(r.Errors) > 0 {
				return a.refused(d.name, &reported{r, d.name + " has errors"})
			}
			if a.json {
				return a.printJSON(map[string]any{"changes": r.whole().Changes, "more_changes": r.MoreChanges, "routes": r.whole().Routes})
			}
			return a.printChanges(r)
		},
	}
}

func (a *app) printChanges(r reportJSON) error {
	for _, c := range r.Changes {
		fmt.Fprintln(a.out, c.Text)
	}
	if r.MoreChanges > 0 {
		fmt.Fprintf(a.out, "and %d more changes\n", r.MoreChanges)
	}
	if r.Unseen {
		fmt.Fprintln(a.out, "and perhaps more, for there are too many kinds of devices to compare them all")
	}
	for _, c := range r.Routes {
		fmt.Fprintln(a.out, c.Text)
	}
	if len(r.Changes)+len(r.Routes) == 0 && !r.Unseen {
		fmt.Fprintln(a.out, "no device gains or loses anything")
	}
	return nil
}

// conditions are the flags that set and rollback share.
type conditions struct {
	reason string
	within time.Duration
	force  bool
}

func (c *conditions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.reason, "reason", "", "why, as a `text` for the history")
	f.DurationVar(&c.within, "confirm-within", 0, "roll it back after this `time` unless \"policy confirm\" comes first")
	f.BoolVar(&c.force, "force", false, "also if no device could reach the coordinator's host any more")
}

func (c *conditions) confirmWithin(cmd *cobra.Command) (*durationpb.Duration, error) {
	if !cmd.Flags().Changed("confirm-within") {
		return nil, nil
	}
	if c.within <= 0 {
		return nil, cmdline.Usagef("%s: --confirm-within %s is not in the future", cmd.CommandPath(), c.within)
	}
	return durationpb.New(c.within), nil
}

func (a *app) policySet() *cobra.Command {
	var c conditions
	cmd := &cobra.Command{
		Use:   "set FILE",
		Short: "Put a policy into force; \"-\" reads standard input",
		Long: `Puts a policy into force, and tells who gains and who loses what by that. A policy with an error or a test that fails changes nothing.
Devices follow within a second.`,
		Args: cmdline.Args(cobra.ExactArgs(1)),
	}
	c.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		within, err := c.confirmWithin(cmd)
		if err != nil {
			return err
		}
		d, err := a.read(given[0])
		if err != nil {
			return a.refused(given[0], err)
		}
		r, err := a.client().SetPolicy(cmd.Context(), connect.NewRequest(&pb.SetPolicyRequest{
			Text: d.text, Reason: c.reason, ConfirmWithin: within, Force: c.force,
		}))
		if err != nil {
			return a.refused(d.name, err)
		}
		report := reportView(r.Msg.GetReport())
		if a.json {
			return a.printJSON(struct {
				policyJSON
				Unchanged bool       `json:"unchanged"`
				Report    reportJSON `json:"report"`
			}{policyView(r.Msg.GetPolicy()), r.Msg.GetUnchanged(), report.whole()})
		}
		a.explain(d.name, reportJSON{Warnings: report.Warnings})
		if r.Msg.GetUnchanged() {
			_, err := fmt.Fprintf(a.out, "this is policy %d, which is in force already\n", r.Msg.GetPolicy().GetNumber())
			return err
		}
		return errors.Join(a.printChanges(report), a.printInForce(r.Msg.GetPolicy()))
	}
	return cmd
}

func (a *app) printInForce(p *pb.Policy) error {
	v := policyView(p)
	if v.ConfirmBy == nil {
		_, err := fmt.Fprintf(a.out, "policy %d is in force\n", v.Number)
		return err
	}
	_, err := fmt.Fprintf(a.out, "policy %d is in force, and is rolled back at %s unless you run \"warren-coordinator policy confirm\"\n",
		v.Number, v.ConfirmBy.Local().Format(time.DateTime))
	return err
}

func (a *app) policyConfirm() *cobra.Command {
	return &cobra.Command{
		Use:   "confirm",
		Short: "Keep a policy that was set with --confirm-within",
		Args:  cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.client().ConfirmPolicy(cmd.Context(), connect.NewRequest(&pb.ConfirmPolicyRequest{}))
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(policyView(r.Msg.GetPolicy()))
			}
			return a.printInForce(r.Msg.GetPolicy())
		},
	}
}

func (a *app) policyHistory() *cobra.Command {
	return &cobra.Command{
		Use:   "history",
		Short: "List the policies that were set, with author and reason",
		Args:  cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.client().ListPolicies(cmd.Context(), connect.NewRequest(&pb.ListPoliciesRequest{}))
			if err != nil {
				return err
			}
			views := []policyJSON{}
			for _, p := range r.Msg.GetPolicies() {
				views = append(views, policyView(p))
			}
			if a.json {
				return a.printJSON(views)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NUMBER\tSTATE\tSET AT\tBY\tREASON")
			for _, v := range views {
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", v.Number, v.condition(), when(v.At, "-"), dash(v.Author), dash(v.Reason))
			}
			return w.Flush()
		},
	}
}

func (a *app) policyRollback() *cobra.Command {
	var c conditions
	cmd := &cobra.Command{
		Use:   "rollback [NUMBER]",
		Short: "Take back a policy that waits to be confirmed, or go back to an earlier one",
		Long: `Takes back a policy that was set with --confirm-within and waits to be confirmed. If none does, or with a NUMBER, an earlier policy is put
into force again, under a new number: by default the one that was replaced last.`,
		Args: cmdline.Args(cobra.MaximumNArgs(1)),
	}
	c.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		within, err := c.confirmWithin(cmd)
		if err != nil {
			return err
		}
		req := &pb.RollbackPolicyRequest{Reason: c.reason, ConfirmWithin: within, Force: c.force}
		if len(given) == 1 {
			if req.Number, err = strconv.ParseUint(given[0], 10, 63); err != nil || req.Number == 0 {
				return cmdline.Usagef("%s: %q is not the number of a policy; \"policy history\" shows them", cmd.CommandPath(), given[0])
			}
		}
		r, err := a.client().RollbackPolicy(cmd.Context(), connect.NewRequest(req))
		if err != nil {
			return a.refused("policy", err)
		}
		if a.json {
			return a.printJSON(policyView(r.Msg.GetPolicy()))
		}
		if p := r.Msg.GetPolicy(); p.GetNumber() < r.Msg.GetFrom() {
			fmt.Fprintf(a.out, "policy %d was taken back\n", r.Msg.GetFrom())
		} else {
			fmt.Fprintf(a.out, "policy %d has the text of policy %d\n", p.GetNumber(), r.Msg.GetFrom())
		}
		return a.printInForce(r.Msg.GetPolicy())
	}
	return cmd
}
