package bind

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// indexBuckets is a power of two. Ten thousand peers have some thirty thousand indices: chains stay short.
	indexBuckets = 8192
	// indicesPerPeer bounds what one peer can hold. A device has at most four live ones, but new ones come every 5 s while a handshake
	// goes unanswered, for 90 s (WireGuard's Rekey-Attempt-Time), and the old session may go on meanwhile.
	indicesPerPeer = 24
	// indexLife is when an index is dead for sure: a session ends 180 s after its handshake (Reject-After-Time).
	indexLife = int64(200 * time.Second)
)

// indexEntry says whose an index is. All but used is immutable.
type indexEntry struct {
	index    uint32
	endpoint *endpoint
	learnt   int64
	used     atomic.Int64 // when a message last came for it
	next     *indexEntry  // in the same bucket; entries are copied, not changed
}

// indexTable maps our receiver indices to endpoints. Lookups take no lock: a bucket is an immutable list behind an atomic pointer.
type indexTable struct {
	buckets []atomic.Pointer[indexEntry]
	mu      sync.Mutex // writers
}

func (t *indexTable) init() { t.buckets = make([]atomic.Pointer[indexEntry], indexBuckets) }

// bucket relies on indices being random: the device draws them.
func (t *indexTable) bucket(index uint32) *atomic.Pointer[indexEntry] {
	return &t.buckets[index%indexBuckets]
}

// lookup gives the endpoint of a message for index, or nil.
func (t *indexTable) lookup(index uint32, now int64) *endpoint {
	for e := t.bucket(index).Load(); e != nil; e = e.next {
		if e.index == index {
			if now-e.used.Load() > int64(time.Millisecond) {
				e.used.Store(now)
			}
			return e.endpoint
		}
	}
	return nil
}

// learn notes that the device has just given index to a handshake with the peer.
func (t *indexTable) learn(index uint32, ep *endpoint, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.purge(ep, now)
	for e := t.bucket(index).Load(); e != nil; e = e.next {
		if e.index == index { // the device reuses an index only once it is dead
			t.remove(e)
			break
		}
	}
	if len(ep.indices) >= indicesPerPeer {
		t.remove(slices.MinFunc(ep.indices, func(a, b *indexEntry) int {
			return int(min(max(a.lastUse()-b.lastUse(), -1), 1))
		}))
	}
	entry := &indexEntry{index: index, endpoint: ep, learnt: now}
	b := t.bucket(index)
	entry.next = b.Load()
	b.Store(entry)
	ep.indices = append(ep.indices, entry)
}

func (e *indexEntry) lastUse() int64 { return max(e.learnt, e.used.Load()) }

// purge removes what is dead of a peer's indices.
func (t *indexTable) purge(ep *endpoint, now int64) {
	for _, e := range slices.Clone(ep.indices) {
		if now-e.learnt > indexLife {
			t.remove(e)
		}
	}
}

// remove takes an entry out of its bucket and its peer's list. The caller holds mu.
func (t *indexTable) remove(gone *indexEntry) {
	b := t.bucket(gone.index)
	var kept *indexEntry
	for e := b.Load(); e != nil; e = e.next {
		if e.index == gone.index {
			continue
		}
		c := &indexEntry{index: e.index, endpoint: e.endpoint, learnt: e.learnt, next: kept}
		c.used.Store(e.used.Load())
		i := slices.Index(e.endpoint.indices, e)
		e.endpoint.indices[i] = c
		kept = c
	}
	b.Store(kept)
	list := gone.endpoint.indices
	gone.endpoint.indices = slices.DeleteFunc(list, func(e *indexEntry) bool { return e.index == gone.index })
}

// removeAll forgets every index of a peer.
func (t *indexTable) removeAll(ep *endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range slices.Clone(ep.indices) {
		t.remove(e)
	}
}
