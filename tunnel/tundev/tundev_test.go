package tundev

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/proto/key"
	"warren/tunnel/filter"
)

// scene is a wrapped device that is being read from, in a bubble.
type scene struct {
	*testing.T
	inner  *fakeTUN
	dev    *Device
	keys   []key.NodePublic
	reads  *reading
	mu     sync.Mutex
	wanted []int // indices of peers
}

func play(t *testing.T, do func(*scene)) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{T: t, inner: newFakeTUN(), keys: keys(20)}
		s.dev = Wrap(s.inner, Config{Wanted: func(k key.NodePublic) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.wanted = append(s.wanted, slices.IndexFunc(s.keys, k.Equal))
		}})
		s.reads = readAll(s.dev, 4)
		do(s)
		s.checkAccounts()
		s.dev.Close()
		if err := <-s.reads.err; !errors.Is(err, os.ErrClosed) {
			t.Errorf("Read of a closed device: %v", err)
		}
	})
}

func (s *scene) checkAccounts() {
	s.Helper()
	d := s.dev
	d.mu.Lock()
	defer d.mu.Unlock()
	held, bytes := 0, 0
	for p := range d.holding {
		if len(p.held) == 0 || len(p.held) > maxHeldPeer {
			s.Errorf("%d packets wait for one peer", len(p.held))
		}
		if p.direct.Load() {
			s.Error("packets wait for a peer that others may reach past them")
		}
		for _, b := range p.held {
			held, bytes = held+1, bytes+len(b.packet)
		}
	}
	if held != d.held || bytes != d.bytes || held > maxHeldTotal || bytes > maxHeldBytes {
		s.Errorf("%d packets of %d bytes are held; counted %d and %d", held, bytes, d.held, d.bytes)
	}
}

// expect lets everything come to rest and compares what was read, and whom it was said to be wanted.
func (s *scene) expect(what string, wanted []int, numbers ...int) {
	s.Helper()
	synctest.Wait()
	if diff := cmp.Diff(numbers, s.reads.numbers()); diff != "" {
		s.Errorf("%s: packets read (-want +got):\n%s", what, diff)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if diff := cmp.Diff(wanted, s.wanted); diff != "" {
		s.Errorf("%s: peers wanted (-want +got):\n%s", what, diff)
	}
	s.wanted = nil
}

func TestHoldAndRelease(t *testing.T) {
	play(t, func(s *scene) {
		setMap(t, s.dev, s.keys, all, route{"10.0.0.1/32", 0}, route{"10.0.0.2/32", 1})
		s.inner.feed(to("10.0.0.1", 1), to("10.0.0.2", 2), to("10.0.0.1", 3), to("10.0.0.9", 4))
		s.expect("nobody is configured", []int{0, 1})
		s.dev.Configured(s.keys[0], true) // interrupts the Read that is blocked
		s.expect("one is", nil, 1, 3)
		s.inner.feed(to("10.0.0.2", 5), to("10.0.0.1", 6))
		s.expect("more packets", nil, 6)
		<-time.After(wantAgain) // of the bubble's clock
		s.inner.feed(to("10.0.0.2", 7))
		s.expect("asked again after a while", []int{1})
		s.dev.Configured(s.keys[1], true)
		s.expect("the other is", nil, 2, 5, 7)
		s.dev.Configured(s.keys[1], true)
		s.expect("said twice", nil)
		s.dev.Configured(s.keys[1], false)
		s.inner.feed(to("10.0.0.2", 8))
		s.expect("removed as idle", []int{1})
		s.dev.Configured(s.keys[1], true)
		s.expect("and back", nil, 8)
		s.dev.Configured(s.keys[5], true) // not in the map
		setMap(t, s.dev, s.keys, all, route{"10.0.0.1/32", 0}, route{"10.0.0.5/32", 5})
		s.inner.feed(to("10.0.0.5", 9), to("10.0.0.1", 10))
		s.expect("a new peer", []int{5}, 10)
		want := Counters{NoPeer: 1, Held: 7, Filter: filter.Counters{Out: [4]uint64{filter.Pass: 9}}, Table: filter.Stats{Flows: 2}}
		if diff := cmp.Diff(want, s.dev.Counters()); diff != "" {
			t.Errorf("counters (-want +got):\n%s", diff)
		}
	})
}

// TestReleaseKeepsOrder: packets that come while those before them are being read queue up behind them.
func TestReleaseKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, ks, wanted := newFakeTUN(), keys(1), 0
		d := Wrap(inner, Config{Wanted: func(key.NodePublic) { wanted++ }})
		defer d.Close()
		setMap(t, d, ks, all, route{"10.0.0.1/32", 0})
		bufs, sizes := buffers(2)
		for i := range 5 {
			copy(bufs[0][room:], to("10.0.0.1", i))
			sizes[0] = len(to("10.0.0.1", i))
			if n := d.outgoing(bufs[:1], sizes, room); n != 0 {
				t.Fatalf("packet %d was not held", i)
			}
			if i == 2 {
				d.Configured(ks[0], true)
			}
		}
		var got []int
		for range 3 {
			n, err := d.Read(bufs, sizes, room)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				got = append(got, numberOf(bufs[i][room:]))
			}
		}
		if diff := cmp.Diff([]int{0, 1, 2, 3, 4}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if wanted != 1 {
			t.Errorf("wanted %d times", wanted)
		}
	})
}

// TestReleasedNoMore: a peer that is removed before what waited for it has been read keeps it until it is back.
func TestReleasedNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, ks := newFakeTUN(), keys(2)
		d := Wrap(inner, Config{})
		setMap(t, d, ks, all, route{"10.0.0.1/32", 0}, route{"10.0.0.2/32", 1})
		for i, dst := range []string{"10.0.0.1", "10.0.0.2"} {
			d.hold(d.peers[ks[i].Raw()], to(dst, i+1), false)
			d.Configured(ks[i], true)
		}
		d.Configured(ks[0], false)
		s := &scene{T: t, inner: inner, dev: d, reads: readAll(d, 4)}
		s.expect("the other's", nil, 2)
		d.Configured(ks[0], true)
		s.expect("when it is back", nil, 1)
		d.Close()
		<-s.reads.err
	})
}

func TestHoldBounds(t *testing.T) {
	play(t, func(s *scene) {
		var list []route
		for i := range s.keys {
			list = append(list, route{fmt.Sprintf("10.0.%d.0/24", i), i})
		}
		setMap(t, s.dev, s.keys, all, list...)
		for n := range 100 {
			s.inner.feed(to("10.0.0.1", n))
		}
		synctest.Wait()
		s.wanted = nil
		s.dev.Configured(s.keys[0], true)
		var last []int
		for n := 100 - maxHeldPeer; n < 100; n++ {
			last = append(last, n)
		}
		s.expect("the newest of one peer", nil, last...)
		// More peers than the total has room for: each newcomer still gets a place.
		for i := 1; i < len(s.keys); i++ {
			for n := range maxHeldPeer {
				s.inner.feed(to(fmt.Sprintf("10.0.%d.1", i), 1000*i+n))
			}
		}
		synctest.Wait()
		s.checkAccounts()
		if s.dev.held != maxHeldTotal {
			t.Errorf("%d packets are held, bound %d", s.dev.held, maxHeldTotal)
		}
		if c := s.dev.Counters(); c.Held-c.HeldDropped-uint64(len(last)) != maxHeldTotal {
			t.Errorf("counters %+v do not add up", c)
		}
		s.dev.Configured(s.keys[19], true)
		synctest.Wait()
		if got := s.reads.numbers(); len(got) == 0 || got[len(got)-1] != 19000+maxHeldPeer-1 || !slices.IsSorted(got) {
			t.Errorf("the last peer got %v", got)
		}
	})
}

func TestHoldBytes(t *testing.T) {
	play(t, func(s *scene) {
		setMap(t, s.dev, s.keys, all, route{"10.0.0.0/24", 0}, route{"10.0.1.0/24", 1}, route{"10.0.2.0/24", 2})
		const size = 50_000
		for n := range 2 * maxHeldBytes / size {
			s.inner.feed(packet(us, fmt.Sprintf("10.0.%d.1", n%2), n, size))
		}
		synctest.Wait()
		s.checkAccounts()
		if got := s.dev.bytes; got <= maxHeldBytes-size {
			t.Errorf("only %d bytes are held", got)
		}
		s.inner.feed(to("10.0.2.1", 7))
		synctest.Wait()
		s.checkAccounts()
		s.wanted = nil
		s.dev.Configured(s.keys[2], true)
		s.expect("a small one for a third peer", nil, 7)
	})
}

// TestNeverWider: a prefix of the map is never served by a wider one that happens to be configured, whatever the map does meanwhile.
func TestNeverWider(t *testing.T) {
	wide, narrow := route{"10.0.0.0/8", 0}, route{"10.1.0.0/16", 1}
	for name, c := range map[string]struct {
		then        []route
		destination string
		dropped     uint64
		numbers     []int
	}{
		"the peer leaves":         {then: []route{wide}, destination: all, dropped: 1},
		"its prefix moves":        {then: []route{{"10.0.0.0/8", 0}, {"10.1.0.0/16", 2}, {"10.2.0.0/16", 1}}, destination: all, dropped: 1},
		"a narrower one comes in": {then: []route{wide, narrow, {"10.1.2.0/24", 2}}, destination: all, dropped: 1},
		"it becomes our address":  {then: []route{wide, {us + "/32", 1}}, destination: all, dropped: 1},
		"no longer allowed":       {then: []route{wide, narrow}, destination: "10.1.9.0/24", dropped: 1},
		"nothing that matters":    {then: []route{wide, narrow, {"10.3.0.0/16", 2}}, destination: all, numbers: []int{2}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, released := range []bool{false, true} {
				play(t, func(s *scene) {
					setMap(t, s.dev, s.keys, all, wide, narrow)
					s.dev.Configured(s.keys[0], true)
					s.inner.feed(to("10.9.0.1", 1), to("10.1.2.3", 2))
					s.expect("the wide one's goes, the narrow one's waits", []int{1}, 1)
					if released { // and cannot be read yet: the map changes between the two
						s.dev.mu.Lock()
						s.dev.peers[s.keys[1].Raw()].configured.Store(true)
						s.dev.release(s.dev.peers[s.keys[1].Raw()])
						s.dev.mu.Unlock()
					}
					setMap(t, s.dev, s.keys, c.destination, c.then...)
					for k := range 3 {
						s.dev.Configured(s.keys[k], true)
					}
					s.inner.feed() // lets Read look again
					s.expect("after the change", nil, c.numbers...)
					if got := s.dev.Counters().HeldDropped; got != c.dropped {
						t.Errorf("%d packets dropped, want %d", got, c.dropped)
					}
				})
			}
		})
	}
}

// TestReadModel plays random packets, maps and configurations: what is read was sent, once, in order, and its peer is configured.
func TestReadModel(t *testing.T) {
	for seed := range uint64(30) {
		play(t, func(s *scene) {
			rng := rand.New(rand.NewPCG(seed, 3))
			const peers = 6
			owner := map[string]int{} // the map: address -> peer
			configured := map[int]bool{}
			last := map[string]int{}
			n, got := 0, 0
			check := func() {
				synctest.Wait()
				s.checkAccounts()
				for len(s.reads.got) > 0 {
					b := <-s.reads.got
					got++
					dst := netip.AddrFrom4([4]byte(b[16:])).String()
					p, ok := owner[dst]
					if !ok || !configured[p] {
						t.Fatalf("seed %d: packet %d for %s was read; peer %d, configured %v", seed, numberOf(b), dst, p, configured)
					}
					if numberOf(b) <= last[dst] {
						t.Fatalf("seed %d: packet %d to %s came after %d", seed, numberOf(b), dst, last[dst])
					}
					last[dst] = numberOf(b)
				}
			}
			for range 300 {
				switch rng.IntN(12) {
				case 0:
					var list []route
					old := owner
					owner = map[string]int{}
					for i := range 10 {
						p := rng.IntN(peers + 3)
						if before, ok := old[fmt.Sprintf("10.0.0.%d", i)]; ok && rng.IntN(4) > 0 {
							p = before
						}
						if p < peers {
							owner[fmt.Sprintf("10.0.0.%d", i)] = p
							list = append(list, route{fmt.Sprintf("10.0.0.%d/32", i), p})
						}
					}
					setMap(t, s.dev, s.keys, all, list...)
					for p := range configured {
						if !slices.ContainsFunc(list, func(r route) bool { return r.peer == p }) {
							delete(configured, p)
						}
					}
				case 1, 2:
					p := rng.IntN(peers)
					on := rng.IntN(3) > 0
					for _, o := range owner {
						if o == p {
							configured[p] = on
						}
					}
					s.dev.Configured(s.keys[p], on)
				default:
					var batch [][]byte
					for range rng.IntN(16) + 1 {
						n++
						batch = append(batch, to(fmt.Sprintf("10.0.0.%d", rng.IntN(10)), n))
					}
					s.inner.feed(batch...)
				}
				check()
			}
			if got < n/20 {
				t.Errorf("seed %d: only %d of %d packets came through: not much of a test", seed, got, n)
			}
		})
	}
}

// TestWithoutMap: before the first map nothing passes.
func TestWithoutMap(t *testing.T) {
	play(t, func(s *scene) {
		s.inner.feed(to("10.0.0.1", 1))
		s.expect("out", nil)
		s.dev.Write([][]byte{append(make([]byte, room), packet("10.0.0.1", us, 1, 0)...)}, room)
		if s.inner.written != nil {
			t.Error("in: written")
		}
	})
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	inner, ks := newFakeTUN(), keys(4)
	d := Wrap(inner, Config{})
	reads := readAll(d, 8)
	list := []route{{"10.0.0.0/24", 0}, {"10.0.1.0/24", 1}, {"10.0.2.0/24", 2}, {"10.0.0.0/8", 3}}
	var group sync.WaitGroup
	group.Go(func() {
		for n := range 300 {
			setMap(t, d, ks, all, list[:1+n%4]...)
		}
	})
	group.Go(func() {
		for n := range 3000 {
			d.Configured(ks[n%4], n%3 > 0)
			d.Counters()
		}
	})
	group.Go(func() {
		for n := range 2000 {
			inner.feed(to(fmt.Sprintf("10.0.%d.1", n%4), n))
			for len(reads.got) > 0 {
				<-reads.got
			}
		}
	})
	group.Go(func() {
		for n := range 2000 {
			b := append(make([]byte, room), packet(fmt.Sprintf("10.0.%d.1", n%4), us, n, 0)...)
			if _, err := d.Write([][]byte{b}, room); err != nil {
				t.Error(err)
			}
		}
	})
	group.Wait()
	d.Close()
	if err := <-reads.err; !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// TestPaused: until it is resumed nothing is read, and then all that has waited; one that is closed before does not block its reader.
func TestPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, ks := newFakeTUN(), keys(1)
		d := Wrap(inner, Config{Paused: true})
		reads := readAll(d, 4)
		go inner.feed(to("10.0.0.1", 1))
		synctest.Wait()
		setMap(t, d, ks, all, route{"10.0.0.1/32", 0})
		d.Configured(ks[0], true)
		synctest.Wait()
		if got := reads.numbers(); len(got) > 0 {
			t.Errorf("packets %v were read before", got)
		}
		d.Resume()
		d.Resume()
		synctest.Wait()
		if got := reads.numbers(); !slices.Equal(got, []int{1}) {
			t.Errorf("packets %v, want the one that has waited", got)
		}
		d.Close()
		<-reads.err
		d = Wrap(newFakeTUN(), Config{Paused: true})
		reads = readAll(d, 4)
		synctest.Wait()
		d.Close()
		if err := <-reads.err; !errors.Is(err, os.ErrClosed) {
			t.Errorf("closed while paused: %v", err)
		}
	})
}
