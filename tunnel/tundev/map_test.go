package tundev

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/proto/key"
)

// naive is a map as a list, from which everything is worked out anew.
type naive struct {
	self  []netip.Prefix
	peers map[[key.Size]byte]Peer // by node key
}

// carrier gives the node key of who carries exactly a prefix, nil for nobody, and whether it is ourselves.
func (n *naive) carrier(x netip.Prefix) (raw []byte, us bool) {
	if slices.Contains(n.self, x) {
		return nil, true
	}
	for k, p := range n.peers {
		if slices.Contains(p.Prefixes, x) && (raw == nil || bytes.Compare(k[:], raw) < 0) {
			raw = bytes.Clone(k[:])
		}
	}
	return raw, false
}

func (n *naive) apply(u Update) {
	for _, k := range u.Gone {
		delete(n.peers, k.Raw())
	}
	for _, p := range u.Put {
		n.peers[p.Node.Raw()] = p
	}
	if u.Self != nil {
		n.self = u.Self
	}
}

// check compares the device with what it was told.
func (n *naive) check(d *Device, universe []netip.Prefix) error {
	want, got, size := map[string]string{}, map[string]string{}, 0
	for _, x := range universe {
		raw, us := n.carrier(x)
		switch {
		case us:
			want[x.String()] = "us"
		case raw != nil:
			want[x.String()] = fmt.Sprintf("%x", raw)
		}
		if p, ok := d.view.Load().routes.Get(x); ok {
			size++
			raw := p.key.Raw()
			if got[x.String()] = fmt.Sprintf("%x", raw[:]); p.peer == d.us {
				got[x.String()] = "us"
			} else if d.peers[raw] != p.peer || d.accounts[p.account.ID] != p.account {
				return fmt.Errorf("%s: the peer is not the one that is known by its key", x)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || size != d.view.Load().routes.Size() || len(d.peers) != len(n.peers) {
		return fmt.Errorf("%d routes, %d peers, want %d (-want +got):\n%s", d.view.Load().routes.Size(), len(d.peers), len(n.peers), diff)
	}
	keys := map[[key.Size]byte]int{}
	for _, p := range n.peers {
		keys[p.account()]++
	}
	for id, a := range d.accounts {
		if a.keys != keys[id] {
			return fmt.Errorf("device %x has %d keys, want %d", id[:4], a.keys, keys[id])
		}
	}
	if len(keys) != len(d.accounts) {
		return fmt.Errorf("%d devices, want %d", len(d.accounts), len(keys))
	}
	return nil
}

// TestUpdateModel: after any row of changes, large and small, the map is as if it had been made anew from what stands.
func TestUpdateModel(t *testing.T) {
	universe := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	for i := range 20 {
		universe = append(universe, netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("2001:db8::%x/128", i+1)))
	}
	nodes := keys(150)
	var devices []key.DevicePublic
	for range 100 {
		devices = append(devices, key.NewDevice().Public())
	}
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 3))
		some := func(most int) (out []netip.Prefix) {
			for range rng.IntN(most + 1) {
				out = append(out, universe[rng.IntN(len(universe))])
			}
			return out
		}
		d, n := Wrap(newFakeTUN(), Config{}), &naive{peers: map[[key.Size]byte]Peer{}}
		for step := range 60 {
			var u Update
			count := rng.IntN(4)
			if rng.IntN(10) == 0 {
				count = 100
			}
			for range count {
				if k := nodes[rng.IntN(len(nodes))]; rng.IntN(3) == 0 {
					u.Gone = append(u.Gone, k)
				} else {
					p := Peer{Node: k, Prefixes: some(4)}
					if rng.IntN(5) > 0 {
						p.Device = devices[rng.IntN(len(devices))]
					}
					u.Put = append(u.Put, p)
				}
			}
			if rng.IntN(5) == 0 {
				u.Self = append([]netip.Prefix{}, some(3)...)
			}
			d.Update(u)
			n.apply(u)
			if err := n.check(d, universe); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
		}
		d.Close()
	}
}

// TestUpdateKeeps: a peer that changes or changes its key among others that do not stays who it is, and so do its packets that wait.
func TestUpdateKeeps(t *testing.T) {
	d := Wrap(newFakeTUN(), Config{})
	defer d.Close()
	ks := keys(2)
	setMap(t, d, ks, all, route{"10.0.0.1/32", 0}, route{"10.0.0.2/32", 1})
	d.Configured(ks[0], true)
	d.SetMTU(ks[1], 1300)
	before := d.view.Load().routes
	d.Update(Update{Put: []Peer{{Node: ks[0], Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.9.0.0/16")}}}})
	p, ok := d.view.Load().routes.Lookup(netip.MustParseAddr("10.9.1.1"))
	if !ok || p.peer != d.peers[ks[0].Raw()] || !p.configured.Load() {
		t.Errorf("the changed peer is %+v", p)
	}
	if q, _ := d.view.Load().routes.Lookup(netip.MustParseAddr("10.0.0.2")); q == nil || q.mtu.Load() != 1300 {
		t.Errorf("the other is %+v", q)
	}
	if _, ok := before.Lookup(netip.MustParseAddr("10.9.1.1")); ok {
		t.Error("a table changed that packets look things up in")
	}
	d.Update(Update{Gone: ks[:1]})
	if p.configured.Load() || d.view.Load().routes.Size() != 2 {
		t.Errorf("a peer that has left is configured: %v; %d routes", p.configured.Load(), d.view.Load().routes.Size())
	}
}

// BenchmarkUpdate is a change of one peer in maps of several sizes.
func BenchmarkUpdate(b *testing.B) {
	for _, peers := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprint(peers), func(b *testing.B) {
			ks := keys(peers)
			u := Update{Self: ours(), Rules: rulesOf(b, all)}
			for i, k := range ks {
				u.Put = append(u.Put, Peer{Node: k, Prefixes: []netip.Prefix{prefixOf(i)}})
			}
			d := Wrap(newFakeTUN(), Config{})
			defer d.Close()
			d.Update(u)
			one, other := u.Put[peers/2:peers/2+1], []Peer{{Node: ks[peers/2], Prefixes: []netip.Prefix{prefixOf(peers)}}}
			b.ReportAllocs()
			for b.Loop() {
				d.Update(Update{Put: other})
				d.Update(Update{Put: one})
			}
		})
	}
}

func prefixOf(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
}
