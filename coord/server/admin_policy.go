package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"warren/coord/policy"
	"warren/coord/policy/compile"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

type callerKey struct{}

// WithCaller notes in a call's context who makes it. AdminHandler names that person in the history of the policy, and as owner of tokens that name
// none.
func WithCaller(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, callerKey{}, name)
}

func callerOf(ctx context.Context) string {
	name, _ := ctx.Value(callerKey{}).(string)
	return name
}

func policyMessage(p *store.Policy) *pb.Policy {
	return &pb.Policy{
		Number: p.Number, Text: p.Text, Author: p.Author, Reason: p.Reason, At: timestamp(p.At), State: string(p.State), ConfirmBy: timestamp(p.ConfirmBy),
	}
}

// GetPolicy implements AdminService.
func (a *admin) GetPolicy(ctx context.Context, req *connect.Request[pb.GetPolicyRequest]) (*connect.Response[pb.GetPolicyResponse], error) {
	var out pb.GetPolicyResponse
	err := a.store.View(ctx, func(tx store.Tx) error {
		current, _, err := store.InForce(tx)
		if err != nil {
			return err
		}
		p := current
		if n := req.Msg.GetNumber(); n != 0 && n != current.Number {
			if p, err = tx.Policy(n); errors.Is(err, store.ErrNotFound) {
				return errNoPolicy(n)
			}
		}
		if err != nil {
			return err
		}
		out.Policy = policyMessage(p)
		out.Policy.InForce = p == current
		return nil
	})
	if err != nil {
		return nil, a.failure("policy get", err)
	}
	return connect.NewResponse(&out), nil
}

// ListPolicies implements AdminService.
func (a *admin) ListPolicies(ctx context.Context, _ *connect.Request[pb.ListPoliciesRequest]) (*connect.Response[pb.ListPoliciesResponse], error) {
	var out pb.ListPoliciesResponse
	err := a.store.View(ctx, func(tx store.Tx) error {
		current, _, err := store.InForce(tx)
		if err != nil {
			return err
		}
		all, err := tx.Policies()
		for _, p := range all {
			m := policyMessage(p)
			m.InForce = p.Number == current.Number
			out.Policies = append(out.Policies, m)
		}
		return err
	})
	if err != nil {
		return nil, a.failure("policy history", err)
	}
	return connect.NewResponse(&out), nil
}

// CheckPolicy implements AdminService.
func (a *admin) CheckPolicy(ctx context.Context, req *connect.Request[pb.CheckPolicyRequest]) (*connect.Response[pb.CheckPolicyResponse], error) {
	text := req.Msg.GetText()
	if len(text) == 0 {
		p, _ := a.hub.directory()
		text = p.Text()
	}
	_, r, err := a.examine(ctx, text)
	if err != nil {
		return nil, a.failure("policy check", err)
	}
	return connect.NewResponse(&pb.CheckPolicyResponse{Report: reportMessage(r)}), nil
}

func reportMessage(r *Report) *pb.PolicyReport {
	m := &pb.PolicyReport{
		Errors: problemMessages(r.Errors), Warnings: problemMessages(r.Warnings), Tests: uint32(r.Tests),
		MoreChanges: uint32(r.Difference.More), LocksOut: r.LocksOut, Unseen: r.Difference.Unseen,
	}
	if r.TooLarge != "" {
		m.Errors = append(m.Errors, &pb.PolicyProblem{Line: 1, Column: 1, What: r.TooLarge})
	}
	for _, f := range r.Failures {
		m.Failures = append(m.Failures, &pb.PolicyProblem{Line: uint32(f.At.Line), Column: uint32(f.At.Column), Part: f.Test, What: f.Text})
	}
	for _, c := range r.Routes {
		m.Routes = append(m.Routes, &pb.RouteChange{Device: c.Device, Prefix: record.PrefixToProto(c.Prefix), Approves: c.Approves, Text: c.String()})
	}
	for _, c := range r.Difference.Changes {
		change := &pb.AccessChange{
			Gain: c.Gain, Who: c.Who, On: c.What, Sources: uint32(c.Sources), Destinations: uint32(c.Destinations), Text: c.String(),
			OwnAside: c.OwnAside,
		}
		for _, f := range c.Flows {
			change.Flows = append(change.Flows, f.String())
		}
		for _, f := range c.Except {
			change.Except = append(change.Except, f.String())
		}
		m.Changes = append(m.Changes, change)
	}
	return m
}

func problemMessages(ps policy.Problems) (out []*pb.PolicyProblem) {
	for _, p := range ps {
		out = append(out, &pb.PolicyProblem{Line: uint32(p.Line), Column: uint32(p.Column), Part: p.Part, What: p.What, Fix: p.Fix})
	}
	return out
}

// SetPolicy implements AdminService.
func (a *admin) SetPolicy(ctx context.Context, req *connect.Request[pb.SetPolicyRequest]) (*connect.Response[pb.SetPolicyResponse], error) {
	m := req.Msg
	w, err := wish(ctx, m.GetReason(), m.GetConfirmWithin(), m.GetForce())
	if err != nil {
		return nil, err
	}
	w.Text = m.GetText()
	p, r, err := a.Server.SetPolicy(ctx, w)
	if err != nil {
		return nil, a.policyFailure("policy set", err)
	}
	return connect.NewResponse(&pb.SetPolicyResponse{Policy: inForceMessage(p), Report: reportMessage(r), Unchanged: r.Unchanged}), nil
}

func wish(ctx context.Context, reason string, within *durationpb.Duration, force bool) (PolicyWish, error) {
	w := PolicyWish{Author: callerOf(ctx), Reason: reason, Force: force}
	if within != nil {
		if err := within.CheckValid(); err != nil || within.AsDuration() == 0 {
			return w, connect.NewError(connect.CodeInvalidArgument, errors.New("the time within which a policy is to be confirmed must be longer than nothing"))
		}
		w.ConfirmWithin = within.AsDuration()
	}
	return w, nil
}

// inForceMessage is of the document in force, without its text, which the caller has.
func inForceMessage(p *store.Policy) *pb.Policy {
	m := policyMessage(p)
	m.Text, m.InForce = nil, true
	return m
}

// policyFailure is failure; a refusal carries the report.
func (a *admin) policyFailure(what string, err error) *connect.Error {
	var refused *Refused
	switch {
	case errors.As(err, &refused):
		e := connect.NewError(connect.CodeFailedPrecondition, refused)
		if d, err := connect.NewErrorDetail(reportMessage(refused.Report)); err == nil {
			e.AddDetail(d)
		}
		return e
	case errors.Is(err, errPolicy):
		return connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return a.failure(what, err)
}

// ConfirmPolicy implements AdminService.
func (a *admin) ConfirmPolicy(ctx context.Context, _ *connect.Request[pb.ConfirmPolicyRequest]) (*connect.Response[pb.ConfirmPolicyResponse], error) {
	p, err := a.Server.ConfirmPolicy(ctx, callerOf(ctx))
	if err != nil {
		return nil, a.policyFailure("policy confirm", err)
	}
	return connect.NewResponse(&pb.ConfirmPolicyResponse{Policy: inForceMessage(p)}), nil
}

// RollbackPolicy implements AdminService.
func (a *admin) RollbackPolicy(ctx context.Context, req *connect.Request[pb.RollbackPolicyRequest]) (*connect.Response[pb.RollbackPolicyResponse], error) {
	m := req.Msg
	w, err := wish(ctx, m.GetReason(), m.GetConfirmWithin(), m.GetForce())
	if err != nil {
		return nil, err
	}
	p, from, err := a.RollBackPolicy(ctx, m.GetNumber(), w)
	if err != nil {
		return nil, a.policyFailure("policy rollback", err)
	}
	return connect.NewResponse(&pb.RollbackPolicyResponse{Policy: inForceMessage(p), From: from}), nil
}

// maxAnswers bounds the pairs of devices that one question is answered for.
const maxAnswers = 100

// ExplainAccess implements AdminService.
func (a *admin) ExplainAccess(_ context.Context, req *connect.Request[pb.ExplainAccessRequest]) (*connect.Response[pb.ExplainAccessResponse], error) {
	flow, err := policy.ParseFlow(req.Msg.GetFlow())
	if err == nil && req.Msg.GetFlow() == "" {
		err = errors.New("the flow is missing")
	}
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%w; write tcp/443, udp/53 or icmp, for example", err))
	}
	sources, err := a.hub.ends(req.Msg.GetSource())
	if err != nil {
		return nil, connect.NewError(connect.CodeNotFound, err)
	}
	destinations, err := a.hub.ends(req.Msg.GetDestination())
	if err != nil {
		return nil, connect.NewError(connect.CodeNotFound, err)
	}
	var out pb.ExplainAccessResponse
	for _, src := range sources {
		for _, dst := range destinations {
			if src == dst && len(sources)*len(destinations) > 1 {
				continue // a user's device and itself
			}
			if len(out.Answers) == maxAnswers {
				out.More++
				continue
			}
			q := compile.Question{Src: src, Dst: dst, Protocol: flow.Protocol, Port: flow.First}
			out.Answers = append(out.Answers, answerMessage(a.hub.explain(q, a.cfg.Now())))
		}
	}
	return connect.NewResponse(&out), nil
}

func answerMessage(an compile.Answer) *pb.AccessAnswer {
	m := &pb.AccessAnswer{Source: endName(an.Src), Destination: endName(an.Dst), Allowed: an.Allowed, Grant: an.Grant, Line: uint32(an.At.Line), Text: an.String()}
	for _, miss := range an.Nearest {
		n := &pb.AccessMiss{Grant: miss.Grant, Line: uint32(miss.At.Line), Text: miss.Text}
		for _, r := range miss.Reasons {
			n.Reasons = append(n.Reasons, string(r))
		}
		m.Nearest = append(m.Nearest, n)
	}
	return m
}

func endName(s compile.Subject) string {
	if s.Name != "" {
		return s.Name
	}
	return s.Address.String()
}

func (h *hub) explain(q compile.Question, now time.Time) compile.Answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.access.compiled.Explain(q, now)
}

// ends finds what a person calls one end of a flow: a device by name or key, an address, or all untagged devices of a user.
func (h *hub) ends(text string) (out []compile.End, err error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return []compile.End{{Address: addr}}, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	wanted, keyErr := key.ParseDevicePublic(text)
	user := strings.TrimSuffix(text, "@")
	for _, d := range h.devices {
		switch {
		case !d.Visible():
		case d.Name == text, keyErr == nil && d.Key.Equal(wanted):
			return []compile.End{{Device: d.Key.Raw()}}, nil
		case d.Owner == user && user != "" && len(d.Tags) == 0:
			out = append(out, compile.End{Device: d.Key.Raw()})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no device has the name, address or key %.80q, and no user of that name has a device; \"device list\" shows them", text)
	}
	slices.SortFunc(out, func(x, y compile.End) int {
		return strings.Compare(h.devices[x.Device].Name, h.devices[y.Device].Name)
	})
	return out, nil
}
