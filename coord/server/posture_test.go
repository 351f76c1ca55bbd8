package server

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/coord/domain"
	"warren/coord/policy"
	"warren/coord/policy/compile"
)

const posturePolicy = `{
	"postures": {"posture:new": ["node:os == 'linux'", "node:osVersion >= '6.6'"]},
	"grants": [
		{"src": ["ann"], "dst": ["tag:db"], "ip": ["tcp:5432"], "srcPosture": ["posture:new"]},
		{"src": ["bob"], "dst": ["tag:db"], "ip": ["tcp:80"]},
	],
}`

// What a device says of itself at a login counts for postures at once, for itself and for those whom it gains or loses, and stays known.
func TestPostures(t *testing.T) {
	c := start(t, nil)
	c.set(posturePolicy)
	db := c.member(c.token(domain.TokenWish{Tags: []string{"db"}}), "db")
	bob := c.member(c.token(domain.TokenWish{Owner: "bob"}), "bobs")
	ann := c.member(c.token(domain.TokenWish{Owner: "ann"}), "anns")
	dbs, bobs, anns := db.watch(0, 0), bob.watch(0, 0), ann.watch(0, 0)
	asks := compile.Question{Src: compile.End{Device: ann.key.Public().Raw()}, Dst: compile.End{Device: db.key.Public().Raw()}, Protocol: 6, Port: 5432}
	allowed := func(want bool) {
		t.Helper()
		if a := c.srv.hub.explain(asks, c.now()); a.Allowed != want {
			t.Errorf("allowed: %v, want %v: %s", a.Allowed, want, a)
		}
	}
	dbs.sees("bobs", "db") // nothing is known of the version of ann's system
	anns.sees("anns")
	allowed(false)
	version := db.record.Version

	ann.system = "6.8.0-45-generic"
	anns = ann.watch(0, 0)
	anns.sees("anns", "db")
	dbs.sees("anns", "bobs", "db")
	allowed(true)
	before := c.srv.hub.newest()
	anns = ann.watch(0, 0)
	anns.sees("anns", "db")
	if now := c.srv.hub.newest(); now != before {
		t.Errorf("a login that says nothing new made revision %d of %d", now, before)
	}
	bobs.sees("bobs", "db")
	if d := c.srv.hub.device(ann.key.Public()); d.Version != ann.record.Version || db.record.Version != version {
		t.Errorf("the record has version %v, it had %v", d.Version, ann.record.Version)
	}

	c.restart()
	allowed(true)
	dbs = db.watch(0, 0)
	dbs.sees("anns", "bobs", "db")
	ann.system = "5.15.0"
	anns = ann.watch(0, 0)
	anns.sees("anns")
	dbs.sees("bobs", "db")
	allowed(false)
}

// The facts have the names that policies are promised, and the systems those that policies know; a device that says nothing has none.
func TestFacts(t *testing.T) {
	for _, x := range []struct {
		host domain.Host
		want map[string]string
	}{
		{domain.Host{}, nil},
		{domain.Host{OS: "windows"}, map[string]string{"node:os": "windows"}},
		{domain.Host{Hostname: "mac", OS: "darwin", OSVersion: "14.4.1", AgentVersion: "v1.2.3"}, map[string]string{
			"node:hostname": "mac", "node:os": "macos", "node:osVersion": "14.4.1", "node:agentVersion": "v1.2.3",
		}},
	} {
		if diff := cmp.Diff(x.want, factsOf(&x.host)); diff != "" {
			t.Errorf("%+v: %s", x.host, diff)
		}
	}
	all := factsOf(&domain.Host{Hostname: "h", OS: "o", OSVersion: "v", AgentVersion: "a"})
	if diff := cmp.Diff(policy.NodeFacts(), slices.Sorted(maps.Keys(all))); diff != "" {
		t.Errorf("facts that policies may name, and those that there are: %s", diff)
	}
}
