package filter

import (
	"container/heap"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// The table is split by key into shards, each with a lock, a bound, and peers' accounts of its own.
const (
	shards = 32
	// maxPassing bounds, in a shard, the refused flows of a peer, and the packets of a peer whose fragments are under way.
	maxPassing = 16
	// maxEnded bounds, in a shard, the ends that wait for Collect.
	maxEnded = 128
)

// Peer is who is accountable for flows: all that come from it or go to it.
type Peer struct {
	// ID tells peers apart for whoever reads records.
	ID   [32]byte
	gone atomic.Bool
}

// account is what a peer has in a shard.
type account struct {
	peer     *Peer
	lists    [classes]list
	passing  [fragment + 1]int32 // lengths of the lists that have a bound
	n, place int32               // entries in all; where it is in heaviest
}

// list has its members by use, to a second.
type list struct{ oldest, newest *Flow }

func (a *account) push(e *Flow) {
	l := &a.lists[e.class]
	if e.older = l.newest; l.newest != nil {
		l.newest.newer = e
	} else {
		l.oldest = e
	}
	if l.newest = e; e.class <= fragment {
		a.passing[e.class]++
	}
}

func (a *account) remove(e *Flow) {
	l := &a.lists[e.class]
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		l.oldest = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		l.newest = e.older
	}
	if e.older, e.newer = nil, nil; e.class <= fragment {
		a.passing[e.class]--
	}
}

// dispensable is what the peer can do without most.
func (a *account) dispensable() *Flow {
	for c := range a.lists {
		if e := a.lists[c].oldest; e != nil {
			return e
		}
	}
	return nil
}

// heaviest is a heap.Interface: the account with the most entries comes first.
type heaviest []*account

func (h heaviest) Len() int           { return len(h) }
func (h heaviest) Less(i, j int) bool { return h[i].n > h[j].n }
func (h heaviest) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = int32(i), int32(j)
}

func (h *heaviest) Push(x any) {
	a := x.(*account)
	a.place = int32(len(*h))
	*h = append(*h, a)
}

func (h *heaviest) Pop() any {
	old := *h
	a := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return a
}

// shard is guarded by mu, which the callers of most methods hold.
type shard struct {
	mu       sync.Mutex
	seed     maphash.Seed
	most     int // entries
	passing  int32
	records  bool
	entries  index
	accounts map[*Peer]*account
	heaviest heaviest
	counts   [classes]int
	evicted  uint64
	ended    []ended
	omitted  map[*Peer]*Omitted
}

func (s *shard) init(seed maphash.Seed, most int, records bool) {
	s.seed, s.most, s.passing, s.records = seed, most, maxPassing, records
	s.entries.buckets = make([]*Flow, 8)
	s.accounts, s.omitted = map[*Peer]*account{}, map[*Peer]*Omitted{}
}

// index finds entries by key: a hash table whose chains run through the entries, at half of what a map takes.
type index struct {
	buckets []*Flow // a power of two of them
	n       int
}

// bucket is where a hash belongs. Its lowest bits have chosen the shard.
func (x *index) bucket(hash uint64) **Flow { return &x.buckets[hash/shards&uint64(len(x.buckets)-1)] }

func (x *index) find(hash uint64, k *key) *Flow {
	e := *x.bucket(hash)
	for e != nil && e.key != *k {
		e = e.next
	}
	return e
}

func (x *index) insert(hash uint64, e *Flow) {
	b := x.bucket(hash)
	*b, e.next = e, *b
	x.n++
}

func (x *index) remove(hash uint64, e *Flow) {
	b := x.bucket(hash)
	for *b != e {
		b = &(*b).next
	}
	*b, e.next = e.next, nil
	x.n--
}

// grow doubles the buckets once they are fewer than entries.
func (x *index) grow(seed maphash.Seed) {
	if x.n <= len(x.buckets) {
		return
	}
	old := x.buckets
	x.buckets = make([]*Flow, 2*len(old))
	for _, e := range old {
		for e != nil {
			next := e.next
			b := x.bucket(maphash.Bytes(seed, e.key[:]))
			*b, e.next = e, *b
			e = next
		}
	}
}

// shard is where a key belongs. It comes locked, and with the key's hash.
func (f *Filter) shard(k *key) (*shard, uint64) {
	hash := maphash.Bytes(f.seed, k[:])
	s := &f.shards[hash%shards]
	s.mu.Lock()
	return s, hash
}

// live finds an entry that has not expired.
func (s *shard) live(hash uint64, k *key, now time.Duration) *Flow {
	e := s.entries.find(hash, k)
	if e != nil && now >= e.expires {
		s.end(e, Idle, now)
		return nil
	}
	return e
}

// add enters e on a peer's account. Room is made by whoever has most, the peer itself if nobody has more.
func (s *shard) add(hash uint64, e *Flow, p *Peer, now time.Duration) {
	own := s.accounts[p]
	switch {
	case own != nil && e.class <= fragment && own.passing[e.class] >= s.passing:
		s.evict(own.lists[e.class].oldest, now)
	case s.entries.n >= s.most:
		victim := s.heaviest[0]
		if own != nil && own.n == victim.n {
			victim = own
		}
		s.evict(victim.dispensable(), now)
	}
	s.entries.insert(hash, e)
	s.entries.grow(s.seed)
	s.book(e, p)
}

func (s *shard) evict(e *Flow, now time.Duration) {
	if now < e.expires {
		s.evicted++
	}
	s.end(e, Evicted, now)
}

// book puts e on the account of a peer.
func (s *shard) book(e *Flow, p *Peer) {
	a := s.accounts[p]
	if a == nil {
		a = &account{peer: p}
		s.accounts[p] = a
		heap.Push(&s.heaviest, a)
	}
	e.account = a
	a.push(e)
	a.n++
	s.counts[e.class]++
	heap.Fix(&s.heaviest, int(a.place))
}

// unbook takes e off its account.
func (s *shard) unbook(e *Flow) {
	a := e.account
	a.remove(e)
	a.n--
	s.counts[e.class]--
	if a.n > 0 {
		heap.Fix(&s.heaviest, int(a.place))
		return
	}
	heap.Remove(&s.heaviest, int(a.place))
	delete(s.accounts, a.peer)
}

// carry has a flow go on with a packet. answer tells which way it goes.
func (s *shard) carry(e *Flow, peer *Peer, p *Packet, flipped bool, now time.Duration) {
	s.touch(e, peer, e.track(p, flipped != e.flipped, now), now)
}

// touch makes e the one of its class that was used last. Its peer may have changed: a prefix can move from one device to another.
func (s *shard) touch(e *Flow, peer *Peer, c class, now time.Duration) {
	a := e.account
	switch {
	case a.peer != peer:
		s.unbook(e)
		e.class = c
		s.book(e, peer)
	case e.class != c || now/time.Second != e.used/time.Second:
		a.remove(e)
		s.counts[e.class]--
		e.class = c
		a.push(e)
		s.counts[c]++
	}
	e.used = now
}

// end takes e out of the table.
func (s *shard) end(e *Flow, why Reason, now time.Duration) {
	s.entries.remove(maphash.Bytes(s.seed, e.key[:]), e)
	peer := e.account.peer
	s.unbook(e)
	if why != Forbidden && why != Left && e.closed() {
		why = Closed
	} else if why == Evicted && now >= e.expires {
		why = Idle
	}
	s.tell(e, peer, why)
}

// portion is how many buckets are looked at before packets get their turn.
const portion = 64

// each visits the entries of a portion of the buckets, which begins at from; visit may end the one that it is given. more says that there are buckets
// behind it. A table that grows in between has all that was not visited further behind, and some that was there once more.
func (s *shard) each(from int, visit func(*Flow)) (more bool) {
	end := min(from+portion, len(s.entries.buckets))
	for i := from; i < end; i++ {
		for e := s.entries.buckets[i]; e != nil; {
			next := e.next
			visit(e)
			e = next
		}
	}
	return end < len(s.entries.buckets)
}

// enforce ends what rules do not allow, and what belongs to peers that are gone. The caller does not hold mu.
func (s *shard) enforce(rules *Rules, now time.Duration) {
	for from, more := 0, true; more; from += portion {
		more = s.enforceSome(from, rules, now)
	}
}

func (s *shard) enforceSome(from int, rules *Rules, now time.Duration) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.each(from, func(e *Flow) {
		switch {
		case e.account.peer.gone.Load():
			s.end(e, Left, now)
		case e.class != refused && !rules.renew(e):
			s.end(e, Forbidden, now)
		}
	})
}
