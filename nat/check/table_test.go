package check

import (
	"math/rand/v2"
	"testing"

	"warren/nat/stunmsg"
	"warren/proto/key"
)

// TestRotation: while a peer's node key rotates, its checks are good under both keys, and ours go out under the first; afterwards the old
// key is nothing.
func TestRotation(t *testing.T) {
	us, current, next := node(t, 1), node(t, 2), node(t, 3)
	peer := ID{7}
	table := NewTable()
	table.Set(peer, keys(t, us, current.Public()), keys(t, us, next.Public()))
	good := func(by key.NodePrivate) bool {
		m := parse(t, keys(t, by, us.Public()).Request(stunmsg.NewTxID()))
		e, ok := table.Lookup(m.Username)
		return ok && e.Peer == peer && e.Keys.VerifyRequest(m) == nil
	}
	if !good(current) || !good(next) {
		t.Errorf("during the rotation: current %v, next %v", good(current), good(next))
	}
	if err := keys(t, current, us.Public()).VerifyRequest(parse(t, table.Keys(peer)[0].Request(stunmsg.NewTxID()))); err != nil {
		t.Errorf("our own check, under the current key: %v", err)
	}
	table.Set(peer, keys(t, us, next.Public()))
	if good(current) || !good(next) {
		t.Errorf("after the rotation: current %v, next %v", good(current), good(next))
	}
	table.Set(peer)
	if good(next) || table.Len() != 0 || table.Keys(peer) != nil {
		t.Errorf("after removal: %v, %d peers", good(next), table.Len())
	}
}

// TestTableModel compares the table with the plain list of who has which keys, under random changes. It holds an entry for each key that is
// good now and nothing else, so that it is bounded by the map.
func TestTableModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	us := node(t, 1)
	var all []*Keys
	for range 24 {
		all = append(all, keys(t, us, key.NewNode().Public()))
	}
	table, model := NewTable(), map[ID][]*Keys{}
	for step := range 4000 {
		peer := ID{byte(rng.IntN(8))}
		// Peers have keys of their own, as the coordinator sees to it.
		own := all[int(peer[0])*3 : int(peer[0])*3+3]
		var set []*Keys
		for _, i := range rng.Perm(3)[:rng.IntN(3)] {
			set = append(set, own[i])
		}
		table.Set(peer, set...)
		delete(model, peer)
		if len(set) > 0 {
			model[peer] = set
		}
		entries := 0
		for p, want := range model {
			entries += len(want)
			for i, k := range want {
				if e, ok := table.Lookup(k.Username()); !ok || e.Peer != p || e.Keys != k || table.Keys(p)[i] != k {
					t.Fatalf("step %d: key %d of peer %d: %+v, %v", step, i, p[0], e, ok)
				}
			}
		}
		if table.Len() != len(model) || len(table.byName) != entries {
			t.Fatalf("step %d: %d peers and %d names, want %d and %d", step, table.Len(), len(table.byName), len(model), entries)
		}
	}
}

// TestOneKeyTwoPeers: no coordinator lets two devices have one node key. If one did, removing one of them must not leave the other's name
// to somebody who is gone.
func TestOneKeyTwoPeers(t *testing.T) {
	k := keys(t, node(t, 1), node(t, 2).Public())
	table := NewTable()
	table.Set(ID{1}, k)
	table.Set(ID{2}, k)
	table.Set(ID{1})
	if e, ok := table.Lookup(k.Username()); !ok || e.Peer != (ID{2}) {
		t.Errorf("%+v, %v; want peer 2", e, ok)
	}
	table.Set(ID{2})
	if _, ok := table.Lookup(k.Username()); ok || len(table.byName) != 0 {
		t.Error("a name of nobody is left")
	}
}

func TestLookupOfNonsense(t *testing.T) {
	table := NewTable()
	table.Set(ID{1}, keys(t, node(t, 1), node(t, 2).Public()))
	for _, name := range [][]byte{nil, {}, []byte("x"), make([]byte, 64), []byte("0123456789abcdef")} {
		if e, ok := table.Lookup(name); ok {
			t.Errorf("%q is %+v", name, e)
		}
	}
}
