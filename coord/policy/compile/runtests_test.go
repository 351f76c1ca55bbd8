package compile

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/coord/policy"
)

func TestRunTests(t *testing.T) {
	const head = `{
	"groups": {"group:eng": ["ann", "bob"], "group:all": ["group:eng", "group:sales"], "group:none": []},
	"hosts": {"office": "10.1.0.0/16", "db": "100.64.0.7"},
	"postures": {"posture:mac": ["node:os == 'macos'"]},
	"grants": [
		{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:443", "icmp:*"]},
		{"src": ["ann"], "dst": ["tag:db"], "ip": ["5432"]},
		{"src": ["group:sales"], "dst": ["tag:crm"], "ip": ["443"], "srcPosture": ["posture:mac"]},
		{"src": ["bob"], "dst": ["tag:db"], "ip": ["tcp:22"], "when": {"hours": "08:00-10:00", "zone": "UTC"}},
		{"src": ["group:eng"], "dst": ["office"], "ip": ["*"], "via": ["tag:gw"]},
		{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["tcp:22"]},
		{"src": ["autogroup:admin"], "dst": ["autogroup:internet"], "ip": ["*"]},
		{"src": ["office"], "dst": ["tag:web"], "ip": ["tcp:80"]},
	],
	"tests": [`
	for tests, want := range map[string][]string{
		`{"src": "ann", "accept": ["tag:web:443", "tag:db:5432", "db:5432", "100.64.0.7:5432", "office:22", "10.1.2.3:8080", "autogroup:self:22", "ann:22"]}`: nil,
		`{"src": "ann", "deny": ["tag:web:80", "tag:db:22", "bob:22", "autogroup:self:23", "autogroup:tagged:22", "10.2.0.1:22"]}`:                            nil,
		`{"src": "group:eng", "accept": ["tag:web:443"], "deny": ["tag:crm:443"]}`:                                                                            nil,
		`{"src": "group:eng", "accept": ["tag:db:5432"]}`:                                                                                                     {"bob must reach tag:db:5432, and no grant lets it; nearest is grants[3] (line 9): it allows tcp:22, not tcp:5432; it holds 08:00-10:00 UTC only"},
		`{"src": "group:all", "deny": ["tag:web:443"]}`:                                                                                                       {"ann must not reach tag:web:443, and grants[0] (line 6) lets it", "bob must not reach tag:web:443, and grants[0] (line 6) lets it"},
		`{"src": "cyd", "accept": ["tag:crm:443"], "srcPostureAttrs": {"node:os": "macos"}}`:                                                                  nil,
		`{"src": "cyd", "accept": ["tag:crm:443"]}`:                                                                                                           {"cyd must reach tag:crm:443, and no grant lets it; nearest is grants[2] (line 8): posture:mac asks for node:os == 'macos', and of cyd it is not known"},
		`{"src": "bob", "deny": ["tag:db:22"]}`:                                                                                                               nil,
		`{"src": "bob", "accept": ["tag:db:22"], "at": "2030-01-02T09:00:00Z"}`:                                                                               nil,
		`{"src": "autogroup:admin", "accept": ["autogroup:internet:443"]}`:                                                                                    nil,
		`{"src": "autogroup:member", "deny": ["autogroup:internet:443"], "accept": ["autogroup:self:22"]}`:                                                    nil,
		`{"src": "ann", "accept": ["autogroup:internet:443"]}`:                                                                                                nil,
		`{"src": "10.1.9.9", "accept": ["tag:web:80"], "deny": ["tag:web:443", "office:80"]}`:                                                                 nil,
		`{"src": "tag:web", "deny": ["*:22", "autogroup:member:443"]}`:                                                                                        nil,
		`{"src": "*", "deny": ["tag:web:443"]}`:                                                                                                               nil,
		`{"src": "ann", "proto": "udp", "deny": ["tag:web:443"], "accept": ["tag:db:5432"]}`:                                                                  nil,
		`{"src": "ann", "proto": "tcp", "deny": ["tag:web:*"]}`:                                                                                               {"ann must not reach tag:web:*, and grants[0] (line 6) lets it"},
		`{"src": "ann", "proto": "tcp", "accept": ["tag:web:*"]}`:                                                                                             {"ann must reach tag:web:*, and no grant lets it; nearest is grants[0] (line 6): it allows icmp:*, tcp:443, icmpv6:*, not tcp:*"},
		`{"src": "ann", "proto": "icmp", "accept": ["tag:web:*", "tag:db:*"]}`:                                                                                nil,
		`{"src": "group:none", "deny": ["tag:web:443"]}`:                                                                                                      {"group:none has no users, so the test says nothing"},
		`{"src": "100.64.0.1", "accept": ["tag:web:443"]}`:                                                                                                    nil,
		`{"src": "cyd", "deny": ["db:5432", "tag:web:443"], "accept": ["db:22"]}`:                                                                             {"cyd must reach db:22, and no grant lets it; nearest is grants[5] (line 11): dst has autogroup:self, and db-1 (tag:db) belongs to no user"},
	} {
		var got []string
		p := parse(t, head+"\n"+tests+"]}")
		for _, f := range RunTests(p, office(), start) {
			got = append(got, f.Text)
			if !strings.HasPrefix(f.String(), "16:") || f.Test != "tests[0]" {
				t.Errorf("failure %s", f)
			}
		}
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s:\n%s", tests, d)
		}
	}
}

func TestLockedOut(t *testing.T) {
	own, behind, public, nowhere := netip.MustParseAddr("100.64.0.5"), netip.MustParseAddr("10.1.0.9"), netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("172.16.0.1")
	const none, all = `{"grants": []}`, `{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}`
	grant := func(src, dst, more string) string {
		return `{"grants": [{"src": ["` + src + `"], "dst": ["` + dst + `"], "ip": ["*"]` + more + `}]}`
	}
	for name, c := range map[string]struct {
		old, next string
		host      []netip.Addr
		want      bool
	}{
		"nothing left":               {all, none, []netip.Addr{own}, true},
		"nothing before":             {none, none, []netip.Addr{own}, false},
		"nobody knows the host":      {all, none, []netip.Addr{nowhere}, false},
		"no address given":           {all, none, nil, false},
		"still":                      {all, grant("ann", "tag:web", ""), []netip.Addr{own}, false},
		"by one of its addresses":    {all, grant("ann", "10.1.0.0/24", ""), []netip.Addr{own, behind}, false},
		"behind a gateway":           {all, grant("ann", "tag:gw", ""), []netip.Addr{behind}, true},
		"through no gateway":         {all, grant("ann", "10.1.0.0/16", `, "via": ["tag:none"]`), []netip.Addr{behind}, true},
		"through an exit node":       {all, grant("ann", "autogroup:internet", ""), []netip.Addr{public}, false},
		"itself only":                {all, grant("100.64.0.5", "100.64.0.5", ""), []netip.Addr{own}, true},
		"others of its tag":          {all, grant("tag:web", "tag:web", ""), []netip.Addr{own}, false},
		"a user without devices":     {all, grant("ghost", "tag:web", ""), []netip.Addr{own}, true},
		"own devices, and it is not": {all, grant("autogroup:member", "autogroup:self", ""), []netip.Addr{own}, true},
		"own devices":                {all, grant("autogroup:member", "autogroup:self", ""), []netip.Addr{netip.MustParseAddr("100.64.0.1")}, false},
		"the only one of its user":   {all, grant("autogroup:member", "autogroup:self", ""), []netip.Addr{netip.MustParseAddr("100.64.0.3")}, true},
		"expired":                    {all, grant("ann", "tag:web", `, "until": "2029-01-01T00:00:00Z"`), []netip.Addr{own}, true},
	} {
		if got := LockedOut(parse(t, c.old), parse(t, c.next), office(), office(), c.host, start); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAsk(t *testing.T) {
	c := New(parse(t, `{
	"groups": {"group:net": ["bob", "group:sales"]},
	"tagOwners": {"tag:web": ["group:net"], "tag:ci": [], "tag:any": ["autogroup:member"]},
	"autoApprovers": {
		"routes": {"10.0.0.0/8": ["tag:gw", "group:net"], "fd00::/8": ["autogroup:admin"]},
		"exitNode": ["tag:exit", "ann"],
	},
	"nodeAttrs": [
		{"target": ["*"], "attr": ["all"]},
		{"target": ["tag:web", "group:net"], "attr": ["some", "all"]},
		{"target": ["100.64.0.0/30"], "attr": ["low"]},
	],
}`), office(), start)
	prefix := netip.MustParsePrefix
	for name, c := range map[string]struct{ got, want bool }{
		"a part of the route":       {c.Approves(Device{Tags: []string{"gw"}})(prefix("10.1.0.0/16")), true},
		"the route":                 {c.Approves(Device{Tags: []string{"tag:gw"}})(prefix("10.0.0.0/8")), true},
		"a wider route":             {c.Approves(Device{Tags: []string{"gw"}})(prefix("10.0.0.0/7")), false},
		"all addresses":             {c.Approves(Device{Tags: []string{"gw"}})(prefix("0.0.0.0/0")), false},
		"another tag":               {c.Approves(Device{Tags: []string{"web"}})(prefix("10.1.0.0/16")), false},
		"a user of the group":       {c.Approves(Device{Owner: "cyd"})(prefix("10.1.0.0/16")), true},
		"a tagged device of theirs": {c.Approves(Device{Owner: "cyd", Tags: []string{"x"}})(prefix("10.1.0.0/16")), false},
		"an administrator":          {c.Approves(Device{Owner: "ann"})(prefix("fd00:1::/32")), true},
		"no administrator":          {c.Approves(Device{Owner: "bob"})(prefix("fd00:1::/32")), false},
		"exit by tag":               {c.Approves(Device{Tags: []string{"exit"}})(prefix("0.0.0.0/0")), true},
		"exit by user":              {c.Approves(Device{Owner: "ann"})(prefix("0.0.0.0/0")), true},
		"exit by another":           {c.Approves(Device{Owner: "bob"})(prefix("0.0.0.0/0")), false},
		"tag by its owner":          {c.MayTag("bob", "web"), true},
		"tag by sign-in":            {c.MayTag("cyd", "tag:web"), true},
		"tag by a stranger":         {c.MayTag("dan", "web"), false},
		"tag by an administrator":   {c.MayTag("ann", "ci"), true},
		"tag of nobody":             {c.MayTag("bob", "ci"), false},
		"unknown tag":               {c.MayTag("bob", "none"), false},
		"tag by any user":           {c.MayTag("bob", "any"), true},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v", name, c.got)
		}
	}
	dir := office()
	for name, want := range map[string][]string{
		"ann-laptop": {"all", "low"}, "bob-laptop": {"all", "low", "some"}, "web-1": {"all", "some"}, "exit": {"all"},
	} {
		if got := c.Attrs(byName(dir, name).Device); !slices.Equal(got, want) {
			t.Errorf("%s has %q", name, got)
		}
	}
	if got := c.GroupsOf("cyd"); !slices.Equal(got, []string{"net", "sales"}) {
		t.Errorf("cyd is in %q", got)
	}
	if c.Attrs(ID{99}) != nil || c.Policy() == (*policy.Policy)(nil) {
		t.Error("of nothing")
	}
}
