package server

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warren/coord/domain"
	"warren/coord/policy"
)

// policyWith parses a policy of one member.
func policyWith(member string) (*policy.Policy, error) {
	return policy.Parse([]byte("{" + member + "}"))
}

// approving is routePolicy with other autoApprovers.
func approving(approvers string) string {
	start, rest, _ := strings.Cut(routePolicy, `"autoApprovers": `)
	_, rest, _ = strings.Cut(rest, "]},\n")
	return start + `"autoApprovers": {` + approvers + "},\n" + rest
}

// The policy approves at once what it names, also what waits already when it comes, and takes it back when it does so no longer. What a person
// said counts for more.
func TestAutoApproval(t *testing.T) {
	c := start(t, nil)
	c.set(routePolicy)
	tagged := c.token(domain.TokenWish{Tags: []string{"gate"}, Reusable: true})
	gw, other := c.member(tagged, "gw"), c.member(c.token(domain.TokenWish{Owner: "bob", Reusable: true}), "other")
	r := gw.advertise("10.9.0.0/17", "10.1.0.0/16", "0.0.0.0/0")
	if got := fmt.Sprint(r.Routes); got != "[10.9.0.0/17]" {
		t.Errorf("routes of the answer: %s", got)
	}
	other.advertise("10.9.0.0/16")
	c.hasRoutes("gw 0.0.0.0/0 waiting; gw 10.1.0.0/16 waiting; gw 10.9.0.0/17 approved by policy; other 10.9.0.0/16 waiting")

	c.set(approving(`"routes": {"10.0.0.0/8": ["bob"]}, "exitNode": ["tag:gate"]`))
	c.hasRoutes("gw 0.0.0.0/0 approved by policy; gw 10.1.0.0/16 waiting; gw 10.9.0.0/17 waiting; other 10.9.0.0/16 approved by policy")
	c.set(approving(`"routes": {"10.0.0.0/8": ["tag:gate", "bob"]}`))
	c.hasRoutes("gw 0.0.0.0/0 waiting; gw 10.1.0.0/16 approved by policy; gw 10.9.0.0/17 approved by policy; other 10.9.0.0/16 approved by policy")

	c.revokeRoutes("gw", "10.9.0.0/17")
	c.approveRoutes("gw", "10.1.0.0/16") // so that it does not depend on the policy any more
	gw.advertise("10.9.0.0/17", "10.1.0.0/16")
	c.set(approving(``))
	c.hasRoutes("gw 10.1.0.0/16 approved by root; gw 10.9.0.0/17 revoked by root; other 10.9.0.0/16 waiting")
	c.set(routePolicy)
	c.hasRoutes("gw 10.1.0.0/16 approved by root; gw 10.9.0.0/17 revoked by root; other 10.9.0.0/16 waiting")

	// What the policy approved is forgotten with what is not advertised any more, and what it approves follows tags and owner.
	c.approveRoutes("gw", "10.9.0.0/17")
	if _, err := other.enrol(tagged); err != nil {
		t.Fatal(err)
	}
	c.hasRoutes("gw 10.1.0.0/16 approved by root; gw 10.9.0.0/17 approved by root; other 10.9.0.0/16 approved by policy")
	other.advertise()
	gw.advertise()
	c.hasRoutes("gw 10.1.0.0/16 approved by root, not advertised; gw 10.9.0.0/17 approved by root, not advertised")
	c.restart()
	c.hasRoutes("gw 10.1.0.0/16 approved by root, not advertised; gw 10.9.0.0/17 approved by root, not advertised")
	c.remove("gw")
	c.hasRoutes("")
}

// A policy on trial approves while it is in force only.
func TestAutoApprovalOnTrial(t *testing.T) {
	c := start(t, nil)
	c.set(approving(``))
	gw, ann := c.member(c.token(domain.TokenWish{Tags: []string{"gate"}}), "gw"), c.member(c.token(domain.TokenWish{Owner: "ann"}), "laptop")
	gw.advertise("10.9.0.0/16")
	f := ann.watch(0, 0)
	f.sees("laptop")
	_, _, err := c.srv.SetPolicy(t.Context(), PolicyWish{Text: []byte(routePolicy), ConfirmWithin: time.Minute})
	c.must(err)
	f.sees("gw", "laptop")
	f.usesRoutes("10.9.0.0/16 gw 100")
	c.advance(time.Minute)
	f.sees("laptop")
	c.hasRoutes("gw 10.9.0.0/16 waiting")
}

// lines is a log that several goroutines write.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// Every change of what a device may carry is in the log, with who made it.
func TestRulingsAreLogged(t *testing.T) {
	var log lines
	c := start(t, func(cfg *Config) { cfg.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	c.set(routePolicy)
	gw := c.member(c.token(domain.TokenWish{Tags: []string{"gate"}}), "gw")
	gw.advertise("10.9.0.0/16", "10.1.0.0/16")
	c.approveRoutes("gw", "10.1.0.0/16")
	c.approveRoutes("gw", "10.1.0.0/16") // no change
	c.revokeRoutes("gw", "10.1.0.0/16")
	c.set(approving(``))
	log.mu.Lock()
	defer log.mu.Unlock()
	var got []string
	for line := range strings.Lines(log.b.String()) {
		if _, what, ok := strings.Cut(line, `msg="route `); ok {
			got = append(got, strings.TrimSpace(what))
		}
	}
	want := []string{
		`approved" device=gw route=10.9.0.0/16 by=policy`, `approved" device=gw route=10.1.0.0/16 by=root`,
		`revoked" device=gw route=10.1.0.0/16 by=root`, `waiting" device=gw route=10.9.0.0/16 by=policy`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A change of routes is told within a second to those whom it concerns: carriers of the same CIDR, those whom grants let use it, and the gateway. Others
// are told nothing.
func TestRoutesWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPiped(t, nil)
		c.set(routePolicy)
		bob := c.token(domain.TokenWish{Owner: "bob", Reusable: true})
		ann, gw, twin, bystander := c.member(c.token(domain.TokenWish{Owner: "ann"}), "laptop"), c.member(bob, "gw"), c.member(bob, "twin"), c.member(bob, "pc")
		user, gate, sibling, pc := ann.watch(0, 0), gw.watch(0, 0), twin.watch(0, 0), bystander.watch(0, 0)
		pc.until("the snapshot's end", func() bool { return pc.snapshots == 1 })
		before := pc.statements
		step := func(do func(), userSees, userRoutes, gateRoutes, siblingRoutes string) {
			t.Helper()
			began := time.Now()
			do()
			user.usesRoutes(userRoutes)
			user.sees(strings.Fields(userSees)...)
			gate.usesRoutes(gateRoutes)
			sibling.usesRoutes(siblingRoutes)
			if took := time.Since(began); took > time.Second {
				t.Errorf("known after %s", took)
			}
		}
		gw.advertise("10.1.0.0/16", "10.5.0.0/16")
		twin.advertise("150@10.1.0.0/16", "10.5.0.0/16")
		step(func() { c.approveRoutes("gw", "10.1.0.0/16") }, "gw laptop", "10.1.0.0/16 gw 100", "", "")
		step(func() { c.approveRoutes("twin", "10.1.0.0/16") }, "gw laptop twin", sorted(gw, twin, "10.1.0.0/16 gw 100", "10.1.0.0/16 twin 150"),
			"10.1.0.0/16 twin 150", "10.1.0.0/16 gw 100")
		step(func() { c.revokeRoutes("gw", "10.1.0.0/16") }, "laptop twin", "10.1.0.0/16 twin 150", "", "")
		step(func() { c.approveRoutes("gw", "10.5.0.0/16"); c.approveRoutes("twin", "10.5.0.0/16") }, "laptop twin", "10.1.0.0/16 twin 150",
			"10.5.0.0/16 twin 100", "10.5.0.0/16 gw 100") // no grant, and yet they know each other
		gate.sees("gw", "twin")
		c.remove("twin")
		user.sees("laptop")
		gate.usesRoutes("")
		gate.sees("gw")
		synctest.Wait()
		select {
		case m := <-pc.events:
			t.Errorf("who is not concerned was told %v", m)
		default:
		}
		if pc.statements != before {
			t.Errorf("%d statements for who is not concerned", pc.statements-before)
		}
	})
}

// sorted puts what is told of two gateways of one CIDR into the order of their keys.
func sorted(a, b *device, ofA, ofB string) string {
	x, y := a.key.Public().Raw(), b.key.Public().Raw()
	if bytes.Compare(x[:], y[:]) > 0 {
		ofA, ofB = ofB, ofA
	}
	return ofA + "; " + ofB
}

// A document is judged by the routes that it would approve, and the report names them.
func TestExaminedRoutes(t *testing.T) {
	host := prefix("10.9.0.1/32").Addr()
	c := start(t, func(cfg *Config) {
		cfg.HostAddresses = func() ([]netip.Addr, error) { return []netip.Addr{host}, nil }
	})
	c.set(routePolicy)
	gw := c.member(c.token(domain.TokenWish{Tags: []string{"gate"}}), "gw")
	c.member(c.token(domain.TokenWish{Owner: "ann"}), "laptop")
	gw.advertise("10.9.0.0/16", "10.1.0.0/16", "0.0.0.0/0")
	c.approveRoutes("gw", "10.1.0.0/16")
	texts := func(r *Report) string {
		var out []string
		for _, c := range r.Routes {
			out = append(out, c.String())
		}
		return strings.Join(out, "; ")
	}
	// It takes back the route by which alone the coordinator's host is reached.
	_, r, err := c.srv.SetPolicy(t.Context(), PolicyWish{Text: []byte(approving(`"exitNode": ["tag:gate"]`))})
	var refused *Refused
	if !errors.As(err, &refused) || !r.LocksOut || texts(r) != "approves 0.0.0.0/0 for gw; takes back 10.9.0.0/16 for gw" {
		t.Errorf("a policy that locks out: %v, routes %q", err, texts(r))
	}
	const changes = "ann (1 device) gains * on autogroup:internet (1 device)\nann (1 device) loses * on 10.9.0.0/16 (1 device)\n"
	if got := r.Difference.String(); got != changes {
		t.Errorf("who gains and loses by its routes:\n%swant\n%s", got, changes)
	}
	c.hasRoutes("gw 0.0.0.0/0 waiting; gw 10.1.0.0/16 approved by root; gw 10.9.0.0/16 approved by policy")
	_, r, err = c.srv.SetPolicy(t.Context(), PolicyWish{Text: []byte(approving(`"routes": {"10.9.0.0/16": ["tag:gate"]}, "exitNode": ["tag:gate"]`))})
	if err != nil || texts(r) != "approves 0.0.0.0/0 for gw" {
		t.Errorf("one that does not: %v, %+v", err, r)
	}
	c.hasRoutes("gw 0.0.0.0/0 approved by policy; gw 10.1.0.0/16 approved by root; gw 10.9.0.0/16 approved by policy")
	if reply := reportMessage(r); len(reply.GetRoutes()) != 1 || !reply.GetRoutes()[0].GetApproves() {
		t.Errorf("the reply has %v", reply.GetRoutes())
	}
}
