package bind

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

func newTable() *indexTable {
	t := new(indexTable)
	t.init()
	return t
}

func TestIndexLearnAndForget(t *testing.T) {
	table := newTable()
	a, b := new(endpoint), new(endpoint)
	if table.lookup(7, 1) != nil {
		t.Fatal("an empty table knows an index")
	}
	table.learn(7, a, 1)
	table.learn(7+indexBuckets, b, 1) // same bucket
	table.learn(7+2*indexBuckets, a, 1)
	for index, want := range map[uint32]*endpoint{7: a, 7 + indexBuckets: b, 7 + 2*indexBuckets: a, 8: nil} {
		if got := table.lookup(index, 2); got != want {
			t.Errorf("index %d belongs to %p, want %p", index, got, want)
		}
	}
	table.learn(7, b, 3) // the device gave a dead index to another
	if table.lookup(7, 3) != b || len(a.indices) != 1 {
		t.Errorf("a reused index is not its new owner's: %d left with the old one", len(a.indices))
	}
	table.removeAll(b)
	if table.lookup(7, 3) != nil || table.lookup(7+2*indexBuckets, 3) != a || len(b.indices) != 0 {
		t.Error("removing one endpoint touched another, or not all of its own")
	}
}

func TestIndexBounds(t *testing.T) {
	table := newTable()
	ep := new(endpoint)
	table.learn(1, ep, 1)
	// Handshakes go unanswered while the session under index 1 is in use.
	for i := uint32(2); i < 200; i++ {
		now := int64(i) * int64(time.Second)
		if table.lookup(1, now) != ep {
			t.Fatalf("the session in use was lost after %d handshakes", i)
		}
		table.learn(i, ep, now)
		if len(ep.indices) > indicesPerPeer {
			t.Fatalf("%d indices of one peer", len(ep.indices))
		}
	}
	now := int64(200*time.Second) + indexLife
	table.learn(1000, ep, now)
	if len(ep.indices) != 1 || table.lookup(1, now) != nil {
		t.Errorf("%d indices left, want the new one alone", len(ep.indices))
	}
}

// TestIndexModel compares with a plain map under random operations, crowding few buckets.
func TestIndexModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 0))
		table := newTable()
		eps := make([]*endpoint, 8)
		for i := range eps {
			eps[i] = new(endpoint)
		}
		model := map[uint32]*endpoint{}
		draw := func() uint32 { return uint32(rng.IntN(3)) + uint32(rng.IntN(40))*indexBuckets }
		for now := int64(1); now < 3000; now++ {
			ep := eps[rng.IntN(len(eps))]
			switch rng.IntN(20) {
			case 0:
				table.removeAll(ep)
				for k, v := range model {
					if v == ep {
						delete(model, k)
					}
				}
			default:
				index := draw()
				if len(ep.indices) >= indicesPerPeer {
					continue // which one goes is TestIndexBounds' matter
				}
				table.learn(index, ep, now)
				model[index] = ep
			}
			index := draw()
			if got := table.lookup(index, now); got != model[index] {
				t.Fatalf("seed %d step %d: index %d belongs to %p, want %p", seed, now, index, got, model[index])
			}
		}
		owned := 0
		for _, ep := range eps {
			owned += len(ep.indices)
		}
		if owned != len(model) {
			t.Fatalf("seed %d: endpoints own %d indices, want %d", seed, owned, len(model))
		}
	}
}

// TestIndexRace reads while others write; the race detector judges.
func TestIndexRace(t *testing.T) {
	table := newTable()
	ep := new(endpoint)
	table.learn(5, ep, 1)
	var wg sync.WaitGroup
	for w := range uint32(4) {
		wg.Go(func() {
			other := new(endpoint)
			for i := range uint32(500) {
				table.learn(5+(1+w*500+i)*indexBuckets, other, int64(i)+2)
			}
			table.removeAll(other)
		})
		wg.Go(func() {
			for i := range int64(2000) {
				if table.lookup(5, i) != ep {
					t.Error("an index was away for a moment")
					return
				}
			}
		})
	}
	wg.Wait()
}
