package filter

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
)

// TestFlood: a peer that opens a million flows gives up its own, and none of another peer's, of which there are nearly as many as its share.
func TestFlood(t *testing.T) {
	f, quiet, loud := New(Config{Records: true}), new(Peer), new(Peer)
	f.SetRules(mustCompile(a4+" -> "+b4+","+c4+" 6,17:0-65535,6:0-65535"), 0)
	const mine = DefaultMaxFlows / shards / 2 // even if all were in one shard
	packet := udp(a4, c4, 1, 1).bytes()
	open := func(p *Peer, b []byte, n int, now time.Duration) {
		b[20], b[21], b[22], b[23] = byte(n), byte(n>>8), byte(n>>16), 7
		if v := f.Judge(Out, p, b, now).Verdict; v != Pass {
			t.Fatalf("flow %d: %v", n, v)
		}
	}
	for n := range mine {
		open(quiet, packet, n, 0)
	}
	flood := udp(a4, b4, 0, 0).bytes()
	for n := range 1_000_000 {
		open(loud, flood, n, time.Duration(n)*time.Microsecond)
	}
	mineLeft, theirs := 0, 0
	f.Flows(quiet, time.Second, func(r *Record) bool { mineLeft++; return true })
	f.Flows(loud, time.Second, func(r *Record) bool { theirs++; return true })
	if mineLeft != mine || theirs < DefaultMaxFlows*9/10 || mineLeft+theirs > DefaultMaxFlows {
		t.Errorf("%d of %d flows of the quiet peer are left, and %d of the loud one's", mineLeft, mine, theirs)
	}
	if s := f.Stats(); s.Evicted != uint64(1_000_000-theirs) || s.Flows != mineLeft+theirs {
		t.Errorf("%+v", s)
	}
	// The loud one's ends are told up to a bound, and summed up behind it.
	told, sum := 0, Omitted{}
	f.Collect(2*time.Second, func(r *Record) {
		if r.Kind == Ended {
			told++
		}
		if r.Kind == Ended && (r.Peer != loud || r.Reason != Evicted) {
			t.Fatalf("ended: %+v", r)
		}
	}, func(p *Peer, o Omitted) {
		if p != loud {
			t.Errorf("%+v of the quiet peer was left out", o)
		}
		sum.add(&o)
	})
	if told != maxEnded*shards || sum.Ended != uint64(1_000_000-theirs-told) || sum.Traffic[Out].Packets != sum.Ended || sum.Traffic[Out].Bytes != sum.Ended*32 {
		t.Errorf("%d ends told, %+v left out", told, sum)
	}
}

// TestScan: refused flows are bounded for each peer, and push nothing else out.
func TestScan(t *testing.T) {
	f, p := New(Config{Records: true}), new(Peer)
	f.SetRules(mustCompile(a4+" -> "+b4+" 6:80-80"), 0)
	f.Judge(In, p, tcp(a4, b4, 1, 80, tcpSYN).bytes(), 0)
	scan := tcp(a4, b4, 1, 0, tcpSYN).bytes()
	sum, told := Omitted{}, 0
	for n := range 1 << 20 {
		scan[22], scan[23], scan[19] = byte(n), byte(n>>8), byte(3+n>>16)
		if v := f.on(p, scan, 0); v != Denied {
			t.Fatal(v)
		}
	}
	if s := f.Stats(); s.Flows != 1 || s.Refused > maxPassing*shards || s.Refused < maxPassing*shards*9/10 {
		t.Errorf("%+v", s)
	}
	f.Collect(0, func(r *Record) { told += int(r.Traffic[In].Packets) }, func(_ *Peer, o Omitted) { sum.add(&o) })
	if told > 2+(maxPassing+maxEnded)*shards || told+int(sum.Refused) != 1<<20+1 || sum.Refused != sum.Traffic[In].Packets {
		t.Errorf("%d told, %+v left out, of %d", told, sum, 1<<20+1)
	}
	again := 0
	f.Collect(time.Second, func(*Record) { again++ }, func(*Peer, Omitted) { again++ })
	if again > 0 {
		t.Errorf("%d things told twice", again)
	}
}

// TestLastingStay: short-lived flows of a peer make room before its connections.
func TestLastingStay(t *testing.T) {
	f, p := New(Config{MaxFlows: 64 * shards}), new(Peer)
	f.SetRules(mustCompile(a4+" -> "+b4+" 6,17:0-65535,6:0-65535"), 0)
	for port := range uint16(100) {
		f.Judge(Out, p, tcp(a4, b4, port, 80, tcpSYN).bytes(), 0)
		f.Judge(In, p, tcp(b4, a4, 80, port, tcpSYN).bytes(), 0)
	}
	for n := range 50_000 {
		f.Judge(Out, p, udp(a4, b4, uint16(n), 7).bytes(), time.Minute)
	}
	for port := range uint16(100) {
		if v := f.Judge(In, p, tcp(b4, a4, 80, port, 0).bytes(), time.Minute).Verdict; v != Pass {
			t.Errorf("connection %d did not outlive a flood of datagrams: %v", port, v)
		}
	}
}

// naiveTable is a shard's table as a list, in order of use.
type naiveTable struct {
	most, passing int
	list          []naiveEntry
}

type naiveEntry struct {
	n     int
	peer  *Peer
	class class
	used  time.Duration
	place int // when it came to its place in the order
}

func (t *naiveTable) of(p *Peer, c class) (out []naiveEntry) {
	for _, e := range t.list {
		if e.peer == p && (c == classes || e.class == c) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b naiveEntry) int { return a.place - b.place })
	return out
}

// victims are those entries of which one may go when p adds something.
func (t *naiveTable) victims(p *Peer, c class, peers []*Peer) (out []int) {
	if own := t.of(p, c); c <= fragment && len(own) >= t.passing {
		return []int{own[0].n}
	}
	if len(t.list) < t.most {
		return nil
	}
	most := 0
	for _, q := range peers {
		most = max(most, len(t.of(q, classes)))
	}
	for _, q := range peers {
		if len(t.of(q, classes)) != most || (q != p && len(t.of(p, classes)) == most) {
			continue
		}
		for c := refused; c < classes; c++ {
			if l := t.of(q, c); len(l) > 0 {
				out = append(out, l[0].n)
				break
			}
		}
	}
	return out
}

// TestTableModel plays random entries, uses and changes of class and peer against the list.
func TestTableModel(t *testing.T) {
	evicted := 0
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 4))
		var s shard
		model := naiveTable{most: 12, passing: 2}
		s.init(maphash.MakeSeed(), model.most, false)
		s.passing = int32(model.passing)
		entries, peers := map[int]*Flow{}, []*Peer{new(Peer), new(Peer), new(Peer), new(Peer)}
		now := time.Duration(0)
		for n := range 400 {
			now += time.Duration(rng.IntN(3)) * time.Second / 2
			p, c := peers[min(rng.IntN(4), rng.IntN(4))], class(rng.IntN(int(classes)))
			switch i := rng.IntN(10); {
			case i < 6:
				e := &Flow{key: key{byte(n), byte(n >> 8)}, class: c, used: now, expires: 1 << 60}
				victims := model.victims(p, c, peers)
				s.add(hashOf(&s, e), e, p, now)
				model.list = slices.DeleteFunc(model.list, func(old naiveEntry) bool {
					gone := s.entries.find(hashOf(&s, entries[old.n]), &entries[old.n].key) == nil
					if gone && !slices.Contains(victims, old.n) {
						t.Fatalf("seed %d, step %d: entry %d is gone; %v might", seed, n, old.n, victims)
					}
					if gone {
						victims, evicted = nil, evicted+1
					}
					return gone
				})
				if victims != nil {
					t.Fatalf("seed %d, step %d: nobody made room; %v might", seed, n, victims)
				}
				entries[n] = e
				model.list = append(model.list, naiveEntry{n, p, c, now, n})
			case len(model.list) == 0:
			case i < 9:
				m := &model.list[rng.IntN(len(model.list))]
				if rng.IntN(4) > 0 {
					p = m.peer
				}
				if rng.IntN(2) > 0 {
					c = m.class
				}
				s.touch(entries[m.n], p, c, now)
				if p != m.peer || c != m.class || now/time.Second != m.used/time.Second {
					m.place = n
				}
				m.peer, m.class, m.used = p, c, now
			default:
				at := rng.IntN(len(model.list))
				s.end(entries[model.list[at].n], Idle, now)
				model.list = slices.Delete(model.list, at, at+1)
			}
			if err := same(&s, &model, entries, peers); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, n, err)
			}
		}
	}
	if evicted < 1000 {
		t.Errorf("only %d entries made room", evicted)
	}
}

func hashOf(s *shard, e *Flow) uint64 { return maphash.Bytes(s.seed, e.key[:]) }

// same compares the accounts of a shard with the list.
func same(s *shard, model *naiveTable, entries map[int]*Flow, peers []*Peer) error {
	if s.entries.n != len(model.list) || len(s.accounts) != len(s.heaviest) {
		return fmt.Errorf("%d entries, %d accounts, %d in the heap; want %d entries", s.entries.n, len(s.accounts), len(s.heaviest), len(model.list))
	}
	found := 0
	for from, more := 0, true; more; from += portion {
		more = s.each(from, func(*Flow) { found++ })
	}
	if found != len(model.list) {
		return fmt.Errorf("%d entries are found, want %d", found, len(model.list))
	}
	for _, p := range peers {
		want, a := model.of(p, classes), s.accounts[p]
		if (a == nil) != (len(want) == 0) || a != nil && (int(a.n) != len(want) || s.heaviest[a.place] != a || s.heaviest[0].n < a.n) {
			return fmt.Errorf("account %+v; want %d entries", a, len(want))
		}
		for c := refused; a != nil && c < classes; c++ {
			e, older := a.lists[c].oldest, (*Flow)(nil)
			for _, m := range model.of(p, c) {
				if e == nil || e != entries[m.n] || e.older != older || e.account != a || e.class != c {
					return fmt.Errorf("class %d: entry %d is not where it belongs", c, m.n)
				}
				e, older = e.newer, e
			}
			if e != nil || a.lists[c].newest != older || c <= fragment && int(a.passing[c]) != len(model.of(p, c)) {
				return fmt.Errorf("class %d: the list has more than it should", c)
			}
		}
	}
	for c := range classes {
		n := 0
		for _, m := range model.list {
			if m.class == c {
				n++
			}
		}
		if s.counts[c] != n {
			return fmt.Errorf("%d of class %d counted, want %d", s.counts[c], c, n)
		}
	}
	return nil
}

// TestMemory: what DefaultMaxFlows says that a full table takes.
func TestMemory(t *testing.T) {
	for _, c := range []struct {
		name  string
		peers int
		most  uint64
	}{{"one peer", 1, 15 << 20}, {"a peer for each flow", DefaultMaxFlows * 2, 27 << 20}} {
		peers := make([]Peer, c.peers)
		before := heapInUse()
		f := New(Config{Records: true})
		f.SetRules(mustCompile(a4+" -> "+b4+" 17:0-65535"), 0)
		b := udp(a4, b4, 0, 0).bytes()
		for n := range DefaultMaxFlows * 2 {
			b[20], b[21], b[22] = byte(n), byte(n>>8), byte(n>>16)
			f.Judge(Out, &peers[n%len(peers)], b, 0)
		}
		f.Collect(0, func(*Record) {}, func(*Peer, Omitted) {})
		used := heapInUse() - before
		t.Logf("%s: %d entries in %.1f MB, %d bytes each", c.name, f.Stats().Flows, float64(used)/(1<<20), used/uint64(f.Stats().Flows))
		if used > c.most || f.Stats().Flows < DefaultMaxFlows*9/10 {
			t.Errorf("%s: %d flows take %d bytes, more than %d", c.name, f.Stats().Flows, used, c.most)
		}
		runtime.KeepAlive(peers)
	}
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
