package filter

import (
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"testing"
	"time"
)

// crowded is a filter with so many UDP flows of one peer, in shards of far more buckets than a portion has.
func crowded(flows int) (*Filter, *Peer) {
	f, peer := New(Config{Records: true}), new(Peer)
	f.SetRules(mustCompile(a4+" -> "+b4+" 17:0-65535"), 0)
	p := udp(a4, b4, 0, 0).bytes()
	for n := range flows {
		p[20], p[21] = byte(n), byte(n>>8)
		f.Judge(Out, peer, p, 0)
	}
	return f, peer
}

// TestPortions: what is in a shard when a look at it begins is seen, whatever comes and goes, and however the table grows, while packets have their turn.
func TestPortions(t *testing.T) {
	grew, portions := 0, 0
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, 3))
		f, peer := crowded(12_000 + rng.IntN(8000))
		next := uint64(1 << 32)
		for i := range f.shards {
			s := &f.shards[i]
			there, seen := map[*Flow]bool{}, map[*Flow]bool{}
			for from, more := 0, true; more; from += portion {
				more = s.each(from, func(e *Flow) { there[e] = true })
			}
			before := len(s.entries.buckets)
			for from, more := 0, true; more; from += portion {
				more = s.each(from, func(e *Flow) {
					seen[e] = true
					if rng.IntN(10) == 0 {
						s.end(e, Idle, 0)
					}
				})
				for range rng.IntN(150) {
					e := &Flow{class: lasting, expires: time.Hour}
					binary.LittleEndian.PutUint64(e.key[:], next)
					s.add(maphash.Bytes(s.seed, e.key[:]), e, peer, 0)
					next++
				}
				portions++
			}
			if len(s.entries.buckets) > before {
				grew++
			}
			for e := range there {
				if !seen[e] && s.entries.find(maphash.Bytes(s.seed, e.key[:]), &e.key) == e { // and not evicted meanwhile
					t.Fatalf("seed %d, shard %d: one of %d flows was not seen", seed, i, len(there))
				}
			}
		}
	}
	if portions < 20*shards || grew == 0 {
		t.Errorf("%d portions, %d shards grew: nothing is shown", portions, grew)
	}
}

// TestWholeTable: new rules and Collect reach every flow of a large table.
func TestWholeTable(t *testing.T) {
	const flows = 20_000
	f, _ := crowded(flows)
	began := 0
	f.Collect(time.Second, func(r *Record) {
		if r.Kind == Began {
			began++
		}
	}, func(*Peer, Omitted) {})
	if n := f.Stats().Flows; n != flows || began != flows {
		t.Errorf("%d flows, %d told of, of %d", n, began, flows)
	}
	f.Collect(time.Hour, func(*Record) {}, func(*Peer, Omitted) {})
	if n := f.Stats().Flows; n > 0 {
		t.Errorf("%d idle flows are left", n)
	}
	f, _ = crowded(flows)
	f.SetRules(mustCompile(a4+" -> "+b4+" 6:1-1"), 0)
	if n := f.Stats().Flows; n > 0 {
		t.Errorf("%d flows outlive the rules that allowed them", n)
	}
}
