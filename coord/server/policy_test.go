package server

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"warren/coord/domain"
	"warren/coord/policy"
	"warren/coord/policy/compile"
	"warren/coord/statedir"
	"warren/coord/store"
	pb "warren/proto/warrenv1"
)

const (
	own       = `{"grants": [{"name": "own", "src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]}]}`
	annsWeb   = `{"grants": [{"name": "web", "src": ["ann"], "dst": ["bob"], "ip": ["tcp:80"]}]}`
	badTest   = `{"tests": [{"src": "ann", "accept": ["bob:80"]}]}`
	malformed = `{"grants": [{"src": ["ann"], "dst": ["bob"]}]}`
)

// history tells number and state of every document.
func (c *coordinator) history() string {
	c.Helper()
	r, err := c.admin.ListPolicies(c.Context(), connect.NewRequest(&pb.ListPoliciesRequest{}))
	c.must(err)
	var out []string
	for _, p := range r.Msg.GetPolicies() {
		text := fmt.Sprintf("%d %s", p.GetNumber(), p.GetState())
		if p.GetInForce() {
			text += "*"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func (c *coordinator) hasHistory(want string) {
	c.Helper()
	if got := c.history(); got != want {
		c.Errorf("history: %s; want %s", got, want)
	}
}

// A new network begins with the starter policy, in which who began it is an administrator.
func TestStarterPolicy(t *testing.T) {
	c := start(t, func(cfg *Config) { cfg.Owner = "eve" })
	if got := c.srv.FirstPolicy(); got != StarterPolicy {
		t.Errorf("first policy %v", got)
	}
	ann, bob := c.token(domain.TokenWish{Reusable: true}), c.token(domain.TokenWish{Owner: "bob"})
	a := c.member(ann, "a")
	c.member(ann, "b")
	other := c.member(bob, "c")
	a.watch(0, 0).sees("a", "b")
	other.watch(0, 0).sees("c")
	p, err := c.srv.Policy(t.Context())
	c.must(err)
	if !strings.Contains(string(p.Text), `"eve"`) || p.Author != ownName || p.Reason == "" {
		t.Errorf("policy %+v", p)
	}
	c.restart()
	c.hasHistory("1 active*")
	if got := c.srv.FirstPolicy(); got != NoFirstPolicy {
		t.Errorf("first policy %v at the second start", got)
	}
}

// A network from before there were policies goes on as it was: everything is allowed.
func TestBuiltInPolicy(t *testing.T) {
	c := start(t, nil)
	a := c.member(c.token(domain.TokenWish{}), "a")
	c.member(c.token(domain.TokenWish{Tags: []string{"web"}}), "b")
	c.stop()
	db, err := sql.Open("sqlite", filepath.Join(c.cfg.StateDir, statedir.Database))
	c.must(err)
	_, err = db.ExecContext(t.Context(), "DELETE FROM policies")
	c.must(errors.Join(err, db.Close()))
	c.start()
	if got := c.srv.FirstPolicy(); got != BuiltInPolicy {
		t.Errorf("first policy %v", got)
	}
	f := a.watch(0, 0)
	f.sees("a", "b")
	if g := f.statement.GetGrants(); len(g) != 1 || g[0].GetId() != "built-in" || g[0].GetFlows()[0].GetProtocol() != 0 {
		t.Errorf("grants %v", g)
	}
	c.restart()
	if got := c.srv.FirstPolicy(); got != NoFirstPolicy {
		t.Errorf("first policy %v at the second start", got)
	}
}

// A policy reaches those whom it concerns within a second, and nobody else.
func TestPolicyWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPiped(t, nil)
		ann, bob := c.token(domain.TokenWish{Reusable: true}), c.token(domain.TokenWish{Owner: "bob", Reusable: true})
		a, b := c.member(ann, "a"), c.member(bob, "b")
		c.member(ann, "a2")
		cat := c.token(domain.TokenWish{Owner: "cat", Reusable: true})
		bystander := c.member(cat, "c")
		c.member(cat, "c2")
		c.set(own)
		fa, fb, fc := a.watch(0, 0), b.watch(0, 0), bystander.watch(0, 0)
		fa.sees("a", "a2")
		fb.sees("b")
		fc.sees("c", "c2")
		fc.until("the snapshot's end", func() bool { return fc.snapshots == 1 })
		before := fc.statements
		for _, step := range []struct {
			policy string
			a, b   []string
		}{
			{strings.Replace(own, "]}", `]}, {"src": ["ann"], "dst": ["bob"], "ip": ["tcp:80"]}`, 1), []string{"a", "a2", "b"}, []string{"a", "a2", "b"}},
			{own, []string{"a", "a2"}, []string{"b"}},
		} {
			step.policy = strings.Replace(step.policy, `"ip": ["*"]}, {`, `"ip": ["*"]}, {`, 1)
			began := time.Now()
			c.set(step.policy + "\n//" + fmt.Sprint(began.UnixNano()) + "\n")
			fa.sees(step.a...)
			fb.sees(step.b...)
			if took := time.Since(began); took > time.Second {
				t.Errorf("known after %s", took)
			}
		}
		synctest.Wait()
		select {
		case m := <-fc.events:
			t.Errorf("who is not concerned was told %v", m)
		default:
		}
		if fc.statements != before {
			t.Errorf("%d statements for who is not concerned", fc.statements-before)
		}
	})
}

// A change of grants between devices that see each other anyway is a new statement at a new revision, so that the one before cannot come back.
func TestGrantsOnly(t *testing.T) {
	c := start(t, nil)
	a := c.member(c.token(domain.TokenWish{}), "a")
	c.member(c.token(domain.TokenWish{Owner: "bob"}), "b")
	c.set(annsWeb)
	f := a.watch(0, 0)
	f.sees("a", "b")
	port := func() uint32 { return f.statement.GetGrants()[0].GetFlows()[0].GetFirstPort() }
	if port() != 80 {
		t.Fatalf("grants %v", f.statement.GetGrants())
	}
	revision := f.statement.GetRevision()
	c.set(strings.Replace(annsWeb, "tcp:80", "tcp:81", 1))
	f.until("the other port", func() bool { return port() == 81 })
	if f.statement.GetRevision() <= revision || f.changes != 0 {
		t.Errorf("revision %d after %d, %d records", f.statement.GetRevision(), revision, f.changes)
	}
}

// Windows open and close on time.
func TestWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPiped(t, nil)
		a := c.member(c.token(domain.TokenWish{}), "a")
		c.member(c.token(domain.TokenWish{Owner: "bob"}), "b")
		noon := time.Now().UTC().Truncate(24 * time.Hour).Add(12 * time.Hour)
		c.set(strings.Replace(annsWeb, `"name"`, `"when": {"hours": "12:00-13:30", "zone": "UTC"}, "name"`, 1))
		c.advance(time.Until(noon) - time.Minute)
		f := a.watch(0, 0)
		f.sees("a")
		began := c.now()
		for _, step := range []struct {
			sees []string
			at   time.Time
		}{{[]string{"a", "b"}, noon}, {[]string{"a"}, noon.Add(90 * time.Minute)}} {
			c.advance(step.at.Sub(c.now()) - 2*time.Second)
			f.sees(step.sees...)
			if late := c.now().Sub(step.at); late < 0 || late > time.Second {
				t.Errorf("%v at %s, want it at %s (began at %s)", step.sees, c.now(), step.at, began)
			}
		}
	})
}

func TestTrial(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a := c.member(tok, "a")
	c.member(tok, "b")
	f := a.watch(0, 0)
	f.sees("a", "b")
	try := func(text string) {
		t.Helper()
		_, _, err := c.srv.SetPolicy(t.Context(), PolicyWish{Text: []byte(text), ConfirmWithin: time.Minute})
		c.must(err)
	}
	try(nothing)
	f.sees("a")
	c.hasHistory("1 active, 2 pending*")
	for what, f := range map[string]func() error{
		"another policy": func() error { _, _, err := c.srv.SetPolicy(t.Context(), PolicyWish{Text: []byte(own)}); return err },
		"an earlier one": func() error { _, _, err := c.srv.RollBackPolicy(t.Context(), 1, PolicyWish{}); return err },
	} {
		if err := f(); !errors.Is(err, errPolicy) || !strings.Contains(err.Error(), "policy 2 waits until") {
			t.Errorf("%s while one waits: %v", what, err)
		}
	}
	c.advance(59 * time.Second)
	c.hasHistory("1 active, 2 pending*")
	c.advance(time.Second)
	f.sees("a", "b")
	c.hasHistory("1 active*, 2 rolled back")
	_, err := c.srv.ConfirmPolicy(t.Context(), "ann")
	if !errors.Is(err, errPolicy) {
		t.Errorf("confirming too late: %v", err)
	}

	try(nothing)
	f.sees("a")
	_, err = c.srv.ConfirmPolicy(t.Context(), "ann")
	c.must(err)
	c.advance(time.Hour)
	c.hasHistory("1 replaced, 2 rolled back, 3 active*")

	p, from, err := c.srv.RollBackPolicy(t.Context(), 0, PolicyWish{Author: "ann"})
	c.must(err)
	f.sees("a", "b")
	if p.Number != 4 || from != 1 || p.Author != "ann" || p.Reason != "back to policy 1" {
		t.Errorf("rolled back to %+v, from %d", p, from)
	}
	try(nothing)
	f.sees("a")
	if p, from, err = c.srv.RollBackPolicy(t.Context(), 0, PolicyWish{}); err != nil || p.Number != 4 || from != 5 {
		t.Errorf("taken back: %+v, %d, %v", p, from, err)
	}
	f.sees("a", "b")
	c.hasHistory("1 replaced, 2 rolled back, 3 replaced, 4 active*, 5 rolled back")
}

// A restart neither confirms nor forgets what waits to be confirmed.
func TestTrialAcrossRestarts(t *testing.T) {
	for name, away := range map[string]time.Duration{"back in time": time.Second, "back too late": time.Hour} {
		t.Run(name, func(t *testing.T) {
			c := start(t, nil)
			tok := c.token(domain.TokenWish{Reusable: true})
			a := c.member(tok, "a")
			c.member(tok, "b")
			_, _, err := c.srv.SetPolicy(t.Context(), PolicyWish{Text: []byte(nothing), ConfirmWithin: time.Minute})
			c.must(err)
			f := a.watch(0, 0)
			f.sees("a")
			c.stop()
			f.end()
			c.ahead.Add(int64(away))
			c.start()
			c.hasHistory(map[bool]string{true: "1 active, 2 pending*", false: "1 active*, 2 rolled back"}[away < time.Minute])
			f = f.resume()
			if away < time.Minute {
				f.until("a statement", func() bool { return f.statements == 1 })
				f.sees("a")
				c.hasHistory("1 active, 2 pending*")
				c.advance(time.Minute)
			}
			f.sees("a", "b")
			if f.snapshots > 0 {
				t.Error("a snapshot for one change")
			}
			c.hasHistory("1 active*, 2 rolled back")
		})
	}
}

// A change that is not committed leaves no trace in what devices see.
func TestUndone(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a := c.member(tok, "a")
	c.member(tok, "b")
	p, err := policy.Parse([]byte(nothing))
	c.must(err)
	f := a.watch(0, 0)
	f.sees("a", "b")
	for what, change := range map[string]func(*batch) error{
		"policy": func(b *batch) error { b.policy = p; return nil },
		"removal": func(b *batch) error {
			d, err := b.find("b")
			c.must(err)
			gone, err := domain.Remove(&c.srv.network, d, c.now())
			c.must(err)
			return b.put(gone)
		},
		"enrolment": func(b *batch) error {
			d, err := b.find("b")
			c.must(err)
			other := *d
			other.Key, other.Name, other.Addresses = c.device("x").key.Public(), "x", []netip.Addr{netip.MustParseAddr("100.127.255.1")}
			other.NodeKey = c.device("x").node.Public()
			return b.put(&other)
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		revision := c.srv.hub.newest()
		err := c.srv.commit(ctx, func(b *batch) error {
			err := change(b)
			cancel() // the database refuses from here on
			return err
		})
		if !errors.Is(err, context.Canceled) || c.srv.hub.newest() != revision {
			t.Errorf("%s: %v, revision %d after %d", what, err, c.srv.hub.newest(), revision)
		}
		c.rename("a", "x")
		f.sees("b", "x")
		c.rename("x", "a")
		f.sees("a", "b")
		fresh := a.copy("again").watch(0, 0)
		fresh.sees("a", "b")
		f.end()
		f = fresh
	}
}

// What speaks against a policy keeps it out, and changes nothing.
func TestRefusedPolicies(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a := c.member(tok, "a")
	c.member(tok, "b")
	f := a.watch(0, 0)
	f.sees("a", "b")
	set := func(m *pb.SetPolicyRequest) error {
		_, err := c.admin.SetPolicy(t.Context(), connect.NewRequest(m))
		return err
	}
	report := func(err error) *pb.PolicyReport {
		var e *connect.Error
		if !errors.As(err, &e) {
			t.Fatalf("%v is no refusal", err)
		}
		for _, d := range e.Details() {
			if m, err := d.Value(); err == nil {
				return m.(*pb.PolicyReport)
			}
		}
		t.Fatalf("%v has no report", err)
		return nil
	}
	for name, test := range map[string]struct {
		text string
		want func(*pb.PolicyReport) bool
	}{
		"malformed":     {malformed, func(r *pb.PolicyReport) bool { return len(r.GetErrors()) == 1 && r.GetErrors()[0].GetLine() == 1 }},
		"unknown group": {`{"grants": [{"src": ["group:x"], "dst": ["*"], "ip": ["*"]}]}`, func(r *pb.PolicyReport) bool { return len(r.GetErrors()) == 1 }},
		"a test": {badTest, func(r *pb.PolicyReport) bool {
			return len(r.GetFailures()) == 1 && r.GetFailures()[0].GetPart() == "tests[0]"
		}},
		"binary":   {"\x00\xff\x01", func(r *pb.PolicyReport) bool { return len(r.GetErrors()) == 1 }},
		"empty":    {"", func(r *pb.PolicyReport) bool { return len(r.GetErrors()) == 1 }},
		"too long": {strings.Repeat(" ", policy.MaxSize+1), func(r *pb.PolicyReport) bool { return len(r.GetErrors()) == 1 }},
	} {
		err := set(&pb.SetPolicyRequest{Text: []byte(test.text), Force: true})
		if connect.CodeOf(err) != connect.CodeFailedPrecondition || !test.want(report(err)) {
			t.Errorf("%s: %v, %v", name, err, report(err))
		}
	}
	for name, m := range map[string]*pb.SetPolicyRequest{
		"a long reason":        {Text: []byte(own), Reason: strings.Repeat("x", maxReason+1)},
		"a reason with escape": {Text: []byte(own), Reason: "\x1b[2J"},
		"a short trial":        {Text: []byte(own), ConfirmWithin: duration(time.Second)},
		"a negative trial":     {Text: []byte(own), ConfirmWithin: duration(-time.Hour)},
		"a long trial":         {Text: []byte(own), ConfirmWithin: duration(1000 * time.Hour)},
		"a trial of nothing":   {Text: []byte(own), ConfirmWithin: duration(0)},
	} {
		if err := set(m); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := set(&pb.SetPolicyRequest{Text: make([]byte, 10<<20)}); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("10 MB: %v", err)
	}
	c.hasHistory("1 active*")
	c.rename("a", "x")
	f.sees("b", "x")
}

// The host that the coordinator runs on stays within somebody's reach, unless that is meant otherwise.
func TestLockout(t *testing.T) {
	var host []netip.Addr
	c := start(t, func(cfg *Config) { cfg.HostAddresses = func() ([]netip.Addr, error) { return host, nil } })
	tok := c.token(domain.TokenWish{Reusable: true})
	c.member(tok, "a")
	d := c.member(tok, "own")
	c.set(own) // so that nothing is said of the host yet
	host = []netip.Addr{netip.MustParseAddr("198.51.100.7"), d.record.Addresses[0]}
	set := func(text string, force bool) error {
		_, err := c.admin.SetPolicy(t.Context(), connect.NewRequest(&pb.SetPolicyRequest{Text: []byte(text), Force: force}))
		return err
	}
	err := set(nothing, false)
	if connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), "--force") {
		t.Errorf("locked out: %v", err)
	}
	_, _, err = c.srv.RollBackPolicy(t.Context(), 0, PolicyWish{})
	c.must(err) // to the starter policy, which lets a in
	c.must(set(`{"grants": [{"src": ["ann"], "dst": ["100.64.0.0/10"], "ip": ["tcp:22"]}]}`, false))
	c.must(set(nothing, true))
	c.must(set(annsWeb, false)) // none could before
	host = host[:1]
	c.must(set(own, false))
	c.must(set(nothing+" ", false)) // a public address needs no grant
}

func TestTooLarge(t *testing.T) {
	c := start(t, nil)
	var addresses []string
	for i := range 99_500 {
		addresses = append(addresses, fmt.Sprintf("%q", netip.AddrFrom4([4]byte{10, byte(i >> 15), byte(i >> 7), byte(i << 1)})))
	}
	text := fmt.Sprintf(`{"ipsets": {"ipset:x": [%s]}, "grants": [{"src": ["ann"], "dst": ["ipset:x"], "ip": ["*"]}]}`, strings.Join(addresses, ","))
	p, err := policy.Parse([]byte(text))
	c.must(err)
	dir := c.srv.emptyDirectory()
	dir.Devices = []compile.Device{
		{ID: compile.ID{1}, Name: "a", Owner: "ann", Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.1")}},
		{ID: compile.ID{2}, Name: "gate", Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.2")}, Routes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
	}
	compiled := compile.New(p, dir, c.now())
	if why := c.srv.tooLarge(compiled, dir); !strings.Contains(why, "that concern the device a, of ") {
		t.Errorf("too large: %q", why)
	}
	// If it comes to that all the same, nothing is allowed.
	a := c.member(c.token(domain.TokenWish{}), "a")
	v := view{told: toldBy(compiled.View(compile.ID{1}), anyPriority)}
	if v.told.fit {
		t.Fatalf("%d bytes fit", v.told.size())
	}
	signed, err := c.srv.statement(a.key.Public(), v)
	c.must(err)
	if n := len(signed.GetPayload()); n > 1000 {
		t.Errorf("a statement of %d bytes", n)
	}
}

// A document in the database that this version does not understand keeps the coordinator from starting, instead of allowing or denying something else.
func TestUnreadablePolicy(t *testing.T) {
	c := start(t, nil)
	c.must(c.srv.store.Update(t.Context(), func(tx store.Tx) error {
		return errors.Join(
			tx.MarkPolicy(1, store.PolicyReplaced, time.Time{}),
			tx.AddPolicy(&store.Policy{Text: []byte(`{"future": 1}`), State: store.PolicyActive}))
	}))
	c.stop()
	_, err := Open(t.Context(), c.cfg)
	if err == nil || !strings.Contains(err.Error(), "policy 2 in the database: 1:2: ") {
		t.Errorf("opened: %v", err)
	}
}

func duration(d time.Duration) *durationpb.Duration { return durationpb.New(d) }
