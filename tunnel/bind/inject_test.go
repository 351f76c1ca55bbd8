package bind

import (
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"warren/internal/udpbatch"
	"warren/proto/key"
)

// TestInjectDropsOldest and uses its buffers again.
func TestInjectDropsOldest(t *testing.T) {
	var q injectQueue
	q.init()
	e := new(endpoint)
	for i := range injectMax + 5 {
		b := make([]byte, 8)
		binary.BigEndian.PutUint64(b, uint64(i))
		if dropped := q.force(e, b); dropped != (i >= injectMax) {
			t.Fatalf("packet %d: dropped %v", i, dropped)
		}
	}
	bufs, sizes, eps := packets(repeat(100, udpbatch.BatchSize)...), make([]int, udpbatch.BatchSize), make([]conn.Endpoint, udpbatch.BatchSize)
	next := uint64(5)
	for {
		n := q.pop(bufs, sizes, eps)
		if n == 0 {
			break
		}
		for i := range n {
			if got := binary.BigEndian.Uint64(bufs[i][:sizes[i]]); got != next || eps[i] != conn.Endpoint(e) {
				t.Fatalf("packet %d, want %d", got, next)
			}
			next++
		}
	}
	if next != injectMax+5 {
		t.Errorf("packets up to %d came", next)
	}
	b := make([]byte, 1400)
	q.force(e, b)
	q.pop(bufs[:1], sizes, eps)
	allocs := testing.AllocsPerRun(5*injectMax, func() {
		q.force(e, b)
		q.pop(bufs[:1], sizes, eps)
	})
	if allocs > 0.5 { // the first round fills the slots' buffers
		t.Errorf("%v allocations a packet", allocs)
	}
}

// numbered makes a data packet for index 7 that holds a number.
func numbered(n int) []byte {
	m := transport(7, 100)[0]
	binary.BigEndian.PutUint64(m[len(m)-8:], uint64(n))
	return m
}

// relayedTo is a Bind that knows a session of a peer's with index 7, and the receive function for what a relay brings; close ends that.
func relayedTo(peer key.NodePublic) (d *door, receive conn.ReceiveFunc, end func()) {
	d = newDoor()
	d.index.learn(7, d.endpoints.get(peer), 1)
	closed := make(chan struct{})
	return d, d.receiveInjected(closed), func() { close(closed) }
}

// TestInjectHoldsBack: packets that come faster than WireGuard takes them wait, in order, and none is lost.
func TestInjectHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := key.NewNode().Public()
		d, receive, end := relayedTo(peer)
		const total = 5 * injectMax
		go func() {
			for n := 0; n < total; n += 40 {
				var train [][]byte
				for i := range 40 {
					train = append(train, numbered(n+i))
				}
				d.InjectRelay(peer, train)
			}
		}()
		bufs, sizes, eps := packets(repeat(2000, udpbatch.BatchSize)...), make([]int, udpbatch.BatchSize), make([]conn.Endpoint, udpbatch.BatchSize)
		next := uint64(0)
		for next < total {
			synctest.Wait() // the other has filled the queue
			n, err := receive(bufs, sizes, eps)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				if got := binary.BigEndian.Uint64(bufs[i][sizes[i]-8 : sizes[i]]); got != next || eps[i] != conn.Endpoint(d.endpoints.find(peer)) {
					t.Fatalf("packet %d, want %d", got, next)
				}
				next++
			}
		}
		end()
		if _, err := receive(bufs, sizes, eps); !errors.Is(err, net.ErrClosed) || d.Stats().InjectDropped != 0 {
			t.Errorf("%v, %d dropped", err, d.Stats().InjectDropped)
		}
	})
}

// TestInjectDoesNotWaitForEver: a WireGuard that takes nothing holds nobody back for long, and the newest packets are kept.
func TestInjectDoesNotWaitForEver(t *testing.T) {
	for name, tc := range map[string]struct {
		open bool
		want time.Duration
	}{"open": {true, injectPatience}, "closed": {false, 0}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer := key.NewNode().Public()
				d, _, end := relayedTo(peer)
				if !tc.open {
					end()
				}
				began := time.Now()
				for n := range injectMax {
					d.InjectRelay(peer, [][]byte{numbered(n)})
				}
				d.InjectRelay(peer, [][]byte{numbered(injectMax), numbered(injectMax + 1)})
				if took := time.Since(began); took != tc.want || d.Stats().InjectDropped != 2 {
					t.Errorf("held back for %s, want %s; %d dropped", took, tc.want, d.Stats().InjectDropped)
				}
				if got := len(d.delivered()); got != injectMax {
					t.Errorf("%d are left, want %d", got, injectMax)
				}
				if tc.open {
					end()
				}
			})
		})
	}
}

// TestInjectSortsEach: a batch of which some packets are for no session loses those alone.
func TestInjectSortsEach(t *testing.T) {
	peer, other := key.NewNode().Public(), key.NewNode().Public()
	d, _, end := relayedTo(peer)
	defer end()
	d.index.learn(8, d.endpoints.get(other), 1)
	stray := transport(9, 100)[0]
	d.InjectRelay(peer, [][]byte{stray, numbered(1), numbered(2), []byte("hello"), nil, numbered(3), transport(8, 100)[0], stray, numbered(4), stray})
	a, b := conn.Endpoint(d.endpoints.find(peer)), conn.Endpoint(d.endpoints.find(other))
	want := []conn.Endpoint{a, a, a, b, a}
	got := d.delivered()
	if len(got) != len(want) {
		t.Fatalf("%d delivered, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("packet %d went to another peer", i)
		}
	}
	if s := d.Stats(); s.UnknownIndex != 3 || s.RelayOther != 2 {
		t.Errorf("%+v", s)
	}
}
