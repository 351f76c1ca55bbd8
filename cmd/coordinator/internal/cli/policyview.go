package cli

import (
	"fmt"
	"time"

	"warren/coord/policy"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// policyJSON is what --json prints of a policy; its names, and those of the types below, are an interface that stays stable.
type policyJSON struct {
	Number    uint64     `json:"number"`
	State     string     `json:"state"`
	InForce   bool       `json:"in_force"`
	Author    string     `json:"author"`
	Reason    string     `json:"reason"`
	At        *time.Time `json:"at"`
	ConfirmBy *time.Time `json:"confirm_by"`
	Text      string     `json:"text,omitempty"`
}

func policyView(p *pb.Policy) policyJSON {
	return policyJSON{
		Number: p.GetNumber(), State: p.GetState(), InForce: p.GetInForce(), Author: p.GetAuthor(), Reason: p.GetReason(),
		At: moment(p.GetAt()), ConfirmBy: moment(p.GetConfirmBy()), Text: string(p.GetText()),
	}
}

func (p policyJSON) condition() string {
	if p.ConfirmBy != nil {
		return p.State + " until " + when(p.ConfirmBy, "")
	}
	return p.State
}

type problemJSON struct {
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Part   string `json:"part"`
	What   string `json:"what"`
	Fix    string `json:"fix,omitempty"`
}

func (p problemJSON) text() string {
	out := p.What
	if p.Part != "" {
		out = p.Part + ": " + out
	}
	if p.Fix != "" {
		out += "; " + p.Fix
	}
	return out
}

func problemViews(ps policy.Problems) (out []problemJSON) {
	for _, p := range ps {
		out = append(out, problemJSON{p.Line, p.Column, p.Part, p.What, p.Fix})
	}
	return out
}

type changeJSON struct {
	Gain         bool     `json:"gain"`
	Who          []string `json:"who"`
	On           []string `json:"on"`
	Flows        []string `json:"flows"`
	Except       []string `json:"except,omitempty"`
	OwnAside     bool     `json:"own_aside,omitempty"`
	Sources      uint32   `json:"sources"`
	Destinations uint32   `json:"destinations"`
	Text         string   `json:"text"`
}

type routeChangeJSON struct {
	Gateway  string `json:"gateway"`
	Route    string `json:"route"`
	Approves bool   `json:"approves"`
	Text     string `json:"text"`
}

type reportJSON struct {
	Errors      []problemJSON `json:"errors"`
	Warnings    []problemJSON `json:"warnings"`
	Tests       int           `json:"tests"`
	Failures    []problemJSON `json:"failures"`
	Changes     []changeJSON  `json:"changes"`
	MoreChanges uint32        `json:"more_changes"`
	LocksOut    bool          `json:"locks_out"`
	Unseen      bool          `json:"unseen,omitempty"`
	// Routes that the policy would approve, or take back.
	Routes []routeChangeJSON `json:"routes"`
}

func reportView(m *pb.PolicyReport) reportJSON {
	problems := func(ps []*pb.PolicyProblem) (out []problemJSON) {
		for _, p := range ps {
			out = append(out, problemJSON{int(p.GetLine()), int(p.GetColumn()), p.GetPart(), p.GetWhat(), p.GetFix()})
		}
		return out
	}
	r := reportJSON{
		Errors: problems(m.GetErrors()), Warnings: problems(m.GetWarnings()), Tests: int(m.GetTests()), Failures: problems(m.GetFailures()),
		MoreChanges: m.GetMoreChanges(), LocksOut: m.GetLocksOut(), Unseen: m.GetUnseen(),
	}
	for _, c := range m.GetRoutes() {
		p, _ := record.PrefixFromProto(c.GetPrefix()) // "invalid Prefix" if it is none
		r.Routes = append(r.Routes, routeChangeJSON{c.GetDevice(), p.String(), c.GetApproves(), c.GetText()})
	}
	for _, c := range m.GetChanges() {
		r.Changes = append(r.Changes, changeJSON{
			c.GetGain(), append([]string{}, c.GetWho()...), append([]string{}, c.GetOn()...), append([]string{}, c.GetFlows()...),
			c.GetExcept(), c.GetOwnAside(), c.GetSources(), c.GetDestinations(), c.GetText(),
		})
	}
	return r
}

// whole is r with empty lists instead of none.
func (r reportJSON) whole() reportJSON {
	r.Errors, r.Warnings = append([]problemJSON{}, r.Errors...), append([]problemJSON{}, r.Warnings...)
	r.Failures, r.Changes = append([]problemJSON{}, r.Failures...), append([]changeJSON{}, r.Changes...)
	r.Routes = append([]routeChangeJSON{}, r.Routes...)
	return r
}

// failed is the error for tests that fail.
func (r reportJSON) failed(name string) error {
	tests := map[string]bool{}
	for _, f := range r.Failures {
		tests[f.Part] = true
	}
	switch {
	case len(r.Errors) > 0:
		return fmt.Errorf("%s is not a policy that could be set", name)
	case len(tests) > 0:
		return fmt.Errorf("%s: %d of %d tests fail", name, len(tests), r.Tests)
	}
	return nil
}

// against is the error for a document that would not be put into force.
func (r reportJSON) against(name string) error {
	if err := r.failed(name); err != nil {
		return err
	}
	if r.LocksOut {
		return fmt.Errorf("%s: no device could reach the coordinator's host, and one can now; it can be set with --force only", name)
	}
	return nil
}
