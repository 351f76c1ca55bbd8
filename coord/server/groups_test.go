package server

import (
	"fmt"
	"strings"
	"testing"

	"warren/coord/domain"
	"warren/coord/policy/compile"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// groups are those that the last statement has.
func (f *follower) groups() string {
	if f.statement == nil {
		return "no statement"
	}
	var out []string
	for _, u := range f.statement.GetGroups() {
		out = append(out, u.GetUser()+"="+strings.Join(u.GetGroups(), "+"))
	}
	return strings.Join(out, " ")
}

func (f *follower) hasGroups(want string) {
	f.d.c.Helper()
	f.until("groups "+want, func() bool { return f.groups() == want })
}

// TestGroups: a device is told the groups of the users whom it sees, and each change of them; nobody else is bothered by one.
func TestGroups(t *testing.T) {
	c := start(t, nil)
	devices := map[string]*device{}
	for _, user := range []string{"ann", "bob", "cat"} {
		devices[user] = c.member(c.token(domain.TokenWish{Owner: user}), user+"s")
	}
	tagged := c.member(c.token(domain.TokenWish{Owner: "bob", Tags: []string{"web"}}), "tagged")
	const form = `{"groups": {%s}, "grants": [{"src": ["ann"], "dst": [%s], "ip": ["tcp:80"]}]}`
	set := func(groups, dst string) { c.set(fmt.Sprintf(form, groups, dst)) }
	set(`"group:eng": ["ann", "bob"], "group:all": ["group:eng", "cat"]`, `"bob"`)
	ann, bob, cat := devices["ann"].watch(0, 0), devices["bob"].watch(0, 0), devices["cat"].watch(0, 0)
	both := "ann=group:all+group:eng bob=group:all+group:eng"
	ann.hasGroups(both)
	bob.hasGroups(both)
	cat.hasGroups("cat=group:all")

	set(`"group:eng": ["ann"], "group:all": ["group:eng", "cat"]`, `"bob"`) // no grant changed
	ann.hasGroups("ann=group:all+group:eng")
	bob.hasGroups("ann=group:all+group:eng")
	if ann.changes+ann.snapshots+bob.changes+bob.snapshots != 2 {
		t.Errorf("besides their first snapshots, records came: %d and %d changes", ann.changes, bob.changes)
	}
	before := cat.statements
	set(`"group:eng": ["ann"], "group:all": ["group:eng", "cat"], "group:new": ["bob"]`, `"bob"`)
	bob.hasGroups("ann=group:all+group:eng bob=group:new")
	set(`"group:eng": ["ann"], "group:all": ["group:eng", "cat"], "group:new": ["bob"]`, `"bob", "cat"`)
	ann.hasGroups("ann=group:all+group:eng bob=group:new cat=group:all")
	cat.hasGroups("ann=group:all+group:eng cat=group:all")
	if n := cat.statements - before; n != 1 {
		t.Errorf("%d statements for who was concerned once", n)
	}
	set(`"group:eng": ["ann", "bob"]`, `"tag:web"`)
	ann.hasGroups("ann=group:eng")
	web := tagged.watch(0, 0)
	web.hasGroups("ann=group:eng") // and not bob, for it belongs to its tag
	c.set("{}")
	ann.hasGroups("")
}

// TestTooManyGroups: groups that do not fit are left out, all of them, and grants come first.
func TestTooManyGroups(t *testing.T) {
	many := &compile.GroupSet{}
	for n := range 12_000 {
		many.Users = append(many.Users, &pb.UserGroups{User: fmt.Sprint("user", n), Groups: []string{strings.Repeat("g", 80)}})
	}
	one := &compile.GroupSet{Users: []*pb.UserGroups{{User: "ann", Groups: make([]string, record.MaxUserGroups+1)}}}
	few := &compile.GroupSet{Users: many.Users[:100]}
	for name, test := range map[string]struct {
		set  *compile.GroupSet
		told told
		want int
	}{
		"few": {few, told{fit: true}, 100}, "many": {many, told{fit: true}, 0}, "many of one user": {one, told{fit: true}, 0},
		"beside large grants": {few, told{fit: true, grants: []*pb.Grant{{Id: strings.Repeat("x", maxTold-2000)}}}, 0},
	} {
		test.told.setGroups(test.set)
		if got := len(test.told.users()); got != test.want || test.told.groupsTooMany != (test.want == 0) || !test.told.fit {
			t.Errorf("%s: %d users, too many: %v", name, got, test.told.groupsTooMany)
		}
	}
}
