package domain

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"warren/proto/key"
	"warren/proto/record"
)

// world drives the domain as a coordinator does, and checks it against what a naive observer would say: a table of devices that is
// searched from end to end, and a peer that follows the changes only.
type world struct {
	*testing.T
	r       *rand.Rand
	random  *stream
	n       *Network
	now     time.Time
	changes uint64
	devices []*Device
	token   *Token
	// follower is what a peer has from changes alone.
	follower map[[key.Size]byte]record.Version
	// highest is the highest version that any peer has ever had of a key.
	highest map[[key.Size]byte]record.Version
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{
		T: t, r: rand.New(rand.NewPCG(seed, 1)), random: &stream{seed: seed}, n: testNetwork(), now: start,
		token: &Token{Reusable: true}, follower: map[[key.Size]byte]record.Version{}, highest: map[[key.Size]byte]record.Version{},
	}
}

// taken looks at every other device that is not removed.
func (w *world) taken() Taken {
	some := func(f func(*Device) bool) bool {
		return slices.ContainsFunc(w.devices, func(d *Device) bool { return !d.Removed && f(d) })
	}
	return Taken{
		Name:    func(s string) bool { return some(func(d *Device) bool { return d.Name == s }) },
		Address: func(a netip.Addr) bool { return some(func(d *Device) bool { return slices.Contains(d.Addresses, a) }) },
		Node:    func(k key.NodePublic) bool { return some(func(d *Device) bool { return d.hasNodeKey(k) }) },
	}
}

func (w *world) pick() (int, *Device) {
	if len(w.devices) == 0 {
		return -1, nil
	}
	i := w.r.IntN(len(w.devices))
	return i, w.devices[i]
}

// put is what a coordinator does with a next state: a new version is told, anything else is not.
func (w *world) put(i int, before, after *Device) {
	k := after.Key.Raw()
	if i < 0 {
		w.devices = append(w.devices, after)
	} else {
		w.devices[i] = after
	}
	if before != nil && before.Version == after.Version {
		if !sameRecord(before, after) || before.Visible() != after.Visible() {
			w.Fatalf("%+v became %+v without a new version", before, after)
		}
		return
	}
	if after.Version.Compare(w.highest[k]) <= 0 {
		w.Fatalf("version %+v after %+v", after.Version, w.highest[k])
	}
	if before != nil && !slices.Equal(before.Addresses, after.Addresses) {
		w.Fatalf("addresses %v became %v", before.Addresses, after.Addresses)
	}
	w.highest[k] = after.Version
	w.changes++
	if after.Visible() {
		w.follower[k] = after.Version
	} else {
		delete(w.follower, k)
	}
}

func (w *world) step() string {
	i, d := w.pick()
	var next *Device
	var err error
	what := []string{"enrol", "enrol", "renew", "rename", "expire", "expire later", "time", "remove", "rotate", "use", "self", "restore", "forget"}[w.r.IntN(13)]
	switch what {
	case "enrol":
		i = -1
		r := Request{Device: key.NewDevice().Public(), Node: w.node(), Name: w.name(), Host: Host{Hostname: "host"}, Counter: w.changes}
		next, err = Enrol(w.n, nil, r, w.token, w.taken(), w.random, w.now)
		d = nil
	case "time":
		w.now = w.now.Add(time.Duration(w.r.IntN(60)) * time.Minute)
		for i, d := range w.devices {
			w.put(i, d, Lapse(w.n, d, w.now))
		}
		return what
	case "restore":
		w.n.Generation++
		for i, d := range w.devices {
			w.put(i, d, Restore(w.n, d))
		}
		return what
	case "forget":
		if d != nil && d.Removed { // pruned, and the key comes again
			w.devices = slices.Delete(w.devices, i, i+1)
			r := Request{Device: d.Key, Node: key.NewNode().Public(), Host: Host{Hostname: "host"}, Counter: w.changes}
			next, err = Enrol(w.n, nil, r, w.token, w.taken(), w.random, w.now)
			i, d = -1, nil
		}
	default:
		if d != nil {
			next, err = w.change(what, d)
		}
	}
	if err == nil && next != nil {
		w.put(i, d, next)
	}
	return what
}

func (w *world) change(what string, d *Device) (*Device, error) {
	switch what {
	case "renew":
		return Enrol(w.n, d, Request{Device: d.Key, Node: w.node(), Name: w.name()}, w.token, w.taken(), w.random, w.now)
	case "rename":
		return Rename(w.n, d, w.name(), w.taken().Name)
	case "expire":
		return Expire(w.n, d, w.now, w.now)
	case "expire later":
		return Expire(w.n, d, w.now.Add(time.Duration(w.r.IntN(120))*time.Minute), w.now)
	case "remove":
		return Remove(w.n, d, w.now)
	case "rotate":
		return RotateNodeKey(w.n, d, w.node(), w.taken().Node)
	case "use":
		return UseNodeKey(w.n, d, d.NextNodeKey)
	}
	_, by := w.pick()
	c := SelfChange{By: by.Key, Sequence: d.Sequence + uint64(w.r.IntN(2)), Name: w.name(), Leave: w.r.IntN(10) == 0}
	next, err := ApplySelf(w.n, d, c, w.taken(), w.now)
	if err == nil && (!by.Key.Equal(d.Key) || c.Sequence <= d.Sequence) {
		w.Fatalf("change %+v of %s was taken", c, d.Name)
	}
	if err != nil {
		return nil, err
	}
	counted := *next
	counted.Sequence = c.Sequence
	return &counted, nil
}

// node gives a new node key, or sometimes somebody's.
func (w *world) node() key.NodePublic {
	if _, d := w.pick(); d != nil && w.r.IntN(4) == 0 {
		return d.NodeKey
	}
	return key.NewNode().Public()
}

// name gives a name out of a few, sometimes none or a bad one.
func (w *world) name() string {
	return []string{"", "", "a", "b", "c", "d", "Bad", "host-2"}[w.r.IntN(8)]
}

func (w *world) check() {
	visible := map[[key.Size]byte]record.Version{}
	claims := map[string]string{}
	claim := func(what string, d *Device) {
		if other, ok := claims[what]; ok {
			w.Fatalf("%s belongs to %s and to %s", what, other, d.Name)
		}
		claims[what] = d.Name
	}
	for _, d := range w.devices {
		if d.Removed {
			continue
		}
		if err := record.CheckLabel(d.Name); err != nil {
			w.Fatal(err)
		}
		claim("name "+d.Name, d)
		for i, a := range d.Addresses {
			claim("address "+a.String(), d)
			if !w.n.Prefixes[i].Contains(a) {
				w.Fatalf("address %s is not in %s", a, w.n.Prefixes[i])
			}
		}
		claim("node key "+d.NodeKey.String(), d)
		if !d.NextNodeKey.IsZero() {
			claim("node key "+d.NextNodeKey.String(), d)
		}
		if d.Member(w.now) { // everybody who takes part is seen, and nobody else
			visible[d.Key.Raw()] = d.Version
		}
	}
	if !maps.Equal(visible, w.follower) {
		w.Fatalf("peers know %v, and members are %v", w.follower, visible)
	}
	var told, held record.Digest
	for k, v := range w.follower {
		d, err := key.DevicePublicFromBytes(k[:])
		if err != nil {
			w.Fatal(err)
		}
		told.Toggle(d, v)
	}
	slices.SortFunc(w.devices, func(a, b *Device) int { return bytes.Compare(a.Key.Bytes(), b.Key.Bytes()) })
	for _, d := range w.devices {
		if d.Visible() {
			held.Toggle(d.Key, d.Version)
		}
	}
	if told != held {
		w.Fatal("digests differ")
	}
}

func TestModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			var steps []string
			defer func() {
				if t.Failed() {
					t.Logf("after %v", steps)
				}
			}()
			for range 150 {
				steps = append(steps, w.step())
				w.check()
			}
		})
	}
}
