package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
)

// snapshot is what a device has been told, in a form that compares.
type snapshot struct {
	Peers []ID
	Hash  [32]byte
	View  View
	Users []string // with their groups
}

func snapshots(c *Compiler, devices map[ID]Device) map[ID]snapshot {
	out := map[ID]snapshot{}
	for id := range devices {
		v := c.View(id)
		peers := slices.Collect(c.Peers(id))
		slices.SortFunc(peers, func(a, b ID) int { return slices.Compare(a[:], b[:]) })
		var users []string
		for _, u := range c.Groups(id).Users {
			users = append(users, u.GetUser()+" "+strings.Join(u.GetGroups(), " "))
		}
		out[id] = snapshot{peers, v.Hash, v, users}
	}
	return out
}

func same(a, b snapshot) bool {
	return slices.Equal(a.Peers, b.Peers) && slices.Equal(a.Users, b.Users) && a.Hash == b.Hash && slices.EqualFunc(a.View.Routes, b.View.Routes, func(x, y Route) bool {
		return x.Prefix == y.Prefix && x.Gateway == y.Gateway && x.Exit == y.Exit && slices.Equal(x.Allowed, y.Allowed)
	})
}

// life is a compiler that is changed, and what it was told to be.
type life struct {
	t       *testing.T
	gen     gen
	c       *Compiler
	model   policyModel
	dir     Directory
	devices map[ID]Device
	at      time.Time
}

func newLife(t *testing.T, seed uint64) *life {
	l := &life{t: t, gen: newGen(seed), at: start, devices: map[ID]Device{}}
	l.model, l.dir = l.gen.policy(), l.gen.directory(l.gen.IntN(6))
	l.c = New(parse(t, l.model.text()), l.dir, l.at)
	for _, d := range l.dir.Devices {
		l.devices[d.ID] = d
	}
	return l
}

// step changes one thing, and gives what was said of it. device is the one device that changed, if it was one.
func (l *life) step() (what string, u Update, device *ID) {
	one := func(d Device) *ID { return &d.ID }
	switch what = l.gen.pick("set", "set", "set", "alter", "alter", "remove", "user", "group", "policy", "grant", "time", "time"); what {
	case "set":
		d := l.gen.device(l.gen.IntN(9))
		l.devices[d.ID] = d
		return what, l.c.SetDevice(d), one(d)
	case "alter":
		for _, d := range l.devices { // any one
			l.alter(&d)
			l.devices[d.ID] = d
			return fmt.Sprintf("alter %s", d.Name), l.c.SetDevice(d), one(d)
		}
	case "remove":
		d := l.gen.device(l.gen.IntN(9))
		delete(l.devices, d.ID)
		return what, l.c.RemoveDevice(d.ID), one(d)
	case "user":
		name := l.gen.pick(genUsers...)
		l.dir.Users = maps.Clone(l.dir.Users)
		l.dir.Users[name] = User{Admin: l.gen.chance(50)}
		return what, l.c.SetUser(name, l.dir.Users[name]), nil
	case "group":
		name := l.gen.pick("idp", "ops")
		users := l.gen.some(3, genUsers)
		if l.gen.chance(20) {
			users = nil
		}
		l.dir.Groups = maps.Clone(l.dir.Groups)
		l.dir.Groups[name] = users
		return what, l.c.SetGroup(name, users), nil
	case "policy":
		l.model = l.gen.policy()
		return what, l.c.SetPolicy(parse(l.t, l.model.text()), l.at), nil
	case "grant":
		if n := len(l.model.grants); n > 1 && l.gen.chance(50) {
			l.model.grants = slices.Delete(slices.Clone(l.model.grants), n-1, n)
		} else {
			l.model.groups = maps.Clone(l.model.groups)
			l.model.groups["eng"] = l.gen.some(3, genUsers)
		}
		return what, l.c.SetPolicy(parse(l.t, l.model.text()), l.at), nil
	case "time":
		l.at = l.at.Add(time.Duration(l.gen.IntN(600)) * time.Minute)
		u, _ = l.c.Advance(l.at)
		return what, u, nil
	}
	return what, Update{}, nil
}

func (l *life) alter(d *Device) {
	fresh := l.gen.device(int(d.ID[2]))
	switch l.gen.IntN(7) {
	case 0:
		d.Owner = fresh.Owner
	case 1:
		d.Tags = fresh.Tags
	case 2:
		d.Routes = fresh.Routes
	case 3:
		d.Exit = fresh.Exit
	case 4:
		d.Facts = fresh.Facts
	case 5:
		d.Addresses = fresh.Addresses
	case 6:
		d.Name += "x"
	}
}

// scratch compiles the present state anew.
func (l *life) scratch() *Compiler {
	dir := l.dir
	dir.Devices = nil
	for _, id := range slices.SortedFunc(maps.Keys(l.devices), func(a, b ID) int { return slices.Compare(a[:], b[:]) }) {
		dir.Devices = append(dir.Devices, l.devices[id])
	}
	return New(l.c.Policy(), dir, l.at)
}

// TestChanges plays random changes. After each, the compiler has what one made anew has; who changed is told, and who gained and lost sight of
// a device is told exactly.
func TestChanges(t *testing.T) {
	told, changed := 0, 0
	for seed := range uint64(*worlds) / 5 {
		l := newLife(t, seed)
		before := snapshots(l.c, l.devices)
		for step := range 30 {
			what, u, device := l.step()
			fail := func(format string, args ...any) {
				t.Helper()
				t.Fatalf("seed %d, step %d, %s: %s\n%s", seed, step, what, fmt.Sprintf(format, args...), l.model.text())
			}
			after, anew := snapshots(l.c, l.devices), snapshots(l.scratch(), l.devices)
			l.c.minNamed = 1
			for id, s := range after {
				checkByPeer(t, l.c, id, l.addresses)
				if !same(s, anew[id]) {
					fail("%s has another view than anew:\n%s", l.devices[id].Name, cmp.Diff(anew[id], s, protocmp.Transform(), cmp.Comparer(prefixEqual)))
				}
				if old := before[id]; !same(old, s) {
					changed++
					if !slices.Contains(u.Changed, id) && len(old.Peers)+len(s.Peers) > 0 {
						fail("%s changed and nobody says so:\n%s", l.devices[id].Name, cmp.Diff(old, s, protocmp.Transform(), cmp.Comparer(prefixEqual)))
					}
				}
			}
			told += len(u.Changed)
			if device != nil {
				checkSight(*device, before, after, u, fail)
			}
			before = after
		}
	}
	if told > changed*3/2 {
		t.Errorf("%d views were said to change, %d did", told, changed)
	}
	t.Logf("%d views were said to change, %d did", told, changed)
}

// checkSight holds Gained and Lost against the peers before and after.
func checkSight(id ID, before, after map[ID]snapshot, u Update, fail func(string, ...any)) {
	sorted := func(ids []ID) []ID {
		return slices.SortedFunc(slices.Values(ids), func(a, b ID) int { return slices.Compare(a[:], b[:]) })
	}
	minus := func(a, b []ID) []ID {
		return slices.DeleteFunc(slices.Clone(a), func(x ID) bool { return slices.Contains(b, x) })
	}
	was, is := before[id].Peers, after[id].Peers
	if !slices.Equal(sorted(u.Gained), minus(is, was)) || !slices.Equal(sorted(u.Lost), minus(was, is)) {
		fail("peers were %x, are %x; said to be gained %x, lost %x", was, is, u.Gained, u.Lost)
	}
}

func prefixEqual(a, b netip.Prefix) bool { return a == b }
