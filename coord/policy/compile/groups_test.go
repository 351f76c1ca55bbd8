package compile

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"warren/coord/policy"
	pb "warren/proto/warrenv1"
)

// TestGroups: each device is told the groups of its own user and of its peers', and of nobody else; a reader of the policy's text agrees.
func TestGroups(t *testing.T) {
	users, none := 0, 0
	for seed := range uint64(*worlds) / 2 {
		g := newGen(seed)
		model, dir := g.policy(), g.directory(g.IntN(9))
		n, c := naive{model, dir}, New(parse(t, model.text()), dir, start)
		names := map[string]bool{}
		for _, groups := range []map[string][]string{model.groups, dir.Groups} {
			for name := range groups {
				names[name] = true
			}
		}
		byID := map[ID]Device{}
		for _, d := range dir.Devices {
			byID[d.ID] = d
		}
		for id, d := range byID {
			seen := map[string]bool{userOf(d): true}
			for p := range c.Peers(id) {
				seen[userOf(byID[p])] = true
			}
			delete(seen, "")
			var want []*pb.UserGroups
			for _, u := range slices.Sorted(maps.Keys(seen)) {
				told := &pb.UserGroups{User: u}
				for _, name := range slices.Sorted(maps.Keys(names)) {
					if n.inGroup(name, u) {
						told.Groups = append(told.Groups, "group:"+name)
					}
				}
				if len(told.Groups) > 0 {
					want = append(want, told)
				}
			}
			got := c.Groups(id)
			if diff := cmp.Diff(want, got.Users, protocmp.Transform()); diff != "" {
				t.Fatalf("seed %d, %s (-want +got):\n%s\n%s", seed, d.Name, diff, model.text())
			}
			if users += len(want); len(want) == 0 {
				none++
			}
		}
	}
	if users < 100 || none < 10 {
		t.Errorf("%d users and %d devices that are told of none: too few to show anything", users, none)
	}
}

// TestGroupsAreShared: devices that see the same users share what they are told, until groups change; devices that are not known are told nothing.
func TestGroupsAreShared(t *testing.T) {
	g := newGen(1)
	dir := g.directory(0)
	dir.Devices, dir.Groups = nil, nil
	for i := range 6 {
		d := g.device(i)
		d.Owner, d.Tags = []string{"ann", "bob"}[i%2], nil
		dir.Devices = append(dir.Devices, d)
	}
	with := func(groups string) *policy.Policy {
		return parse(t, fmt.Sprintf(`{"groups": {%s}, "grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}`, groups))
	}
	c := New(with(`"group:eng": ["ann", "bob"]`), dir, start)
	first := c.Groups(dir.Devices[0].ID)
	for _, d := range dir.Devices {
		if c.Groups(d.ID) != first || len(first.Users) != 2 {
			t.Fatalf("%s has a set of its own: %v", d.Name, c.Groups(d.ID))
		}
	}
	u := c.SetPolicy(with(`"group:eng": ["ann", "bob"], "group:ops": ["ann"]`), start)
	if got := c.Groups(dir.Devices[1].ID); len(u.Changed) != len(dir.Devices) || len(got.Users[0].GetGroups()) != 2 || len(first.Users[0].GetGroups()) != 1 {
		t.Errorf("%d changed; %v, and before %v", len(u.Changed), got, first)
	}
	if u := c.SetPolicy(with(`"group:ops": ["ann"], "group:eng": ["bob", "ann"], "group:far": ["zoe"]`), start); len(u.Changed) > 0 {
		t.Errorf("%d changed by a group of somebody who has no device", len(u.Changed))
	}
	moved := dir.Devices[0]
	moved.Owner = "cat" // whose devices all see as before, by another user
	if u := c.SetDevice(moved); len(u.Changed) != len(dir.Devices) {
		t.Errorf("%d changed by another owner", len(u.Changed))
	}
	if got := c.Groups(ID{99}); len(got.Users) > 0 {
		t.Errorf("a stranger is told %v", got)
	}
}
