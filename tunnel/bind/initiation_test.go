package bind

import (
	"context"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.zx2c4.com/wireguard/conn"

	"warren/internal/udpbatch"
	"warren/proto/key"
)

// door is a Bind without sockets, as seen by who knocks.
type door struct {
	*Bind
	private key.NodePrivate
	calls   []key.NodePublic // OnInitiation
	refused map[[key.Size]byte]bool
}

func newDoor() *door {
	d := &door{private: key.NewNode(), refused: map[[key.Size]byte]bool{}}
	d.Bind = New(Config{
		Private:      d.private,
		OnInitiation: func(k key.NodePublic) { d.calls = append(d.calls, k) },
		Allowed:      func(k key.NodePublic) bool { return !d.refused[k.Raw()] },
	})
	return d
}

// knock sends an initiation and lets it be opened.
func (d *door) knock(t testing.TB, from key.NodePrivate, stamp uint64) {
	t.Helper()
	m := caller{from, d.private.Public()}.initiation(t, stamp)
	d.admit((*[initiationSize]byte)(m))
}

// delivered takes what WireGuard would receive.
func (d *door) delivered() (out []conn.Endpoint) {
	bufs, sizes, eps := packets(repeat(2000, udpbatch.BatchSize)...), make([]int, udpbatch.BatchSize), make([]conn.Endpoint, udpbatch.BatchSize)
	for {
		n := d.inject.pop(bufs, sizes, eps)
		if n == 0 {
			return out
		}
		out = append(out, eps[:n]...)
	}
}

func TestInitiationHeldUntilReleased(t *testing.T) {
	d, peer := newDoor(), key.NewNode()
	d.knock(t, peer, 1)
	if len(d.calls) != 1 || !d.calls[0].Equal(peer.Public()) || len(d.delivered()) != 0 {
		t.Fatalf("an unconfigured peer's call: %d calls told", len(d.calls))
	}
	d.Release(peer.Public())
	got := d.delivered()
	if len(got) != 1 || got[0] != conn.Endpoint(d.endpoints.get(peer.Public())) {
		t.Fatalf("released: %v", got)
	}
	d.knock(t, peer, 2)
	if len(d.calls) != 1 || len(d.delivered()) != 1 {
		t.Error("a configured peer's call is not delivered at once")
	}
	if _, received := d.Traffic(peer.Public()); received.IsZero() {
		t.Error("an initiation does not count as received")
	}
	d.Forget(peer.Public())
	d.knock(t, peer, 3)
	if len(d.calls) != 2 || len(d.delivered()) != 0 {
		t.Error("a forgotten peer's call is not held again")
	}
}

func TestInitiationReplay(t *testing.T) {
	d, peer := newDoor(), key.NewNode()
	d.Release(peer.Public())
	for _, c := range []struct {
		stamp uint64
		want  int
	}{{5, 1}, {5, 0}, {4, 0}, {6, 1}, {6, 0}} {
		d.knock(t, peer, c.stamp)
		if got := len(d.delivered()); got != c.want {
			t.Errorf("timestamp %d: %d delivered, want %d", c.stamp, got, c.want)
		}
	}
	d.Forget(peer.Public()) // idle: removed from the device, still in the map
	d.knock(t, peer, 6)
	if len(d.calls) != 0 {
		t.Error("a replay configures a peer that was removed")
	}
	if got := d.Stats().Replayed; got != 4 {
		t.Errorf("%d replays counted, want 4", got)
	}
}

func TestInitiationOfUnknownPeer(t *testing.T) {
	d, peer := newDoor(), key.NewNode()
	d.refused[peer.Public().Raw()] = true
	d.knock(t, peer, 1)
	if len(d.calls) != 0 || d.Stats().UnknownPeer != 1 || d.endpoints.find(peer.Public()) != nil {
		t.Error("an unknown key leaves a trace")
	}
	d.refused = map[[key.Size]byte]bool{}
	d.knock(t, peer, 2)
	d.Release(peer.Public())
	d.delivered()
	d.refused[peer.Public().Raw()] = true
	d.Forget(peer.Public())
	if d.endpoints.find(peer.Public()) != nil {
		t.Error("a peer that left the map keeps its endpoint")
	}
}

// TestHeldBounds: the newest call of a peer counts, the number of peers is bounded, and a call goes stale.
func TestHeldBounds(t *testing.T) {
	d := newDoor()
	var m [initiationSize]byte
	eps := make([]*endpoint, heldMax+10)
	for i := range eps {
		eps[i] = d.endpoints.get(key.NewNode().Public())
		d.admission.hold(eps[i], &m, int64(i)+1)
		d.admission.hold(eps[i], &m, int64(i)+1)
	}
	if len(d.admission.held) != heldMax {
		t.Errorf("%d held, want %d", len(d.admission.held), heldMax)
	}
	if _, ok := d.admission.release(eps[0], 20); ok {
		t.Error("the oldest call was not the one to go")
	}
	if _, ok := d.admission.release(eps[heldMax], heldMax+20); !ok {
		t.Error("a newer call was lost")
	}
	if _, ok := d.admission.release(eps[heldMax+1], heldMax+2+heldFor); ok {
		t.Error("a stale call was delivered")
	}
	m[20] = 1
	d.admission.hold(eps[heldMax+2], &m, heldMax+30)
	if got, ok := d.admission.release(eps[heldMax+2], heldMax+31); !ok || got != m {
		t.Error("not the newest call of a peer was delivered")
	}
}

// TestTimestampsBounded: what is kept of peers that left the map does not add up.
func TestTimestampsBounded(t *testing.T) {
	d := newDoor()
	stay := d.endpoints.get(key.NewNode().Public())
	inMap := func(k key.NodePublic) bool { return k.Equal(stay.key) }
	d.admission.accept(stay, timestamp{7: 9}, inMap)
	for i := range uint32(5 * stampsMin) {
		var raw [key.Size]byte
		binary.BigEndian.PutUint32(raw[:], i+1)
		k, err := key.NodePublicFromBytes(raw[:])
		if err != nil {
			t.Fatal(err)
		}
		d.admission.accept(&endpoint{key: k, raw: raw}, timestamp{1}, inMap)
		if len(d.admission.last) > 2*stampsMin {
			t.Fatalf("%d timestamps kept", len(d.admission.last))
		}
	}
	if d.admission.accept(stay, timestamp{7: 9}, inMap) {
		t.Error("a peer in the map lost its timestamp")
	}
}

// TestQueueInitiation: mac1 and the rate limit come before anything is opened, and nobody blocks.
func TestQueueInitiation(t *testing.T) {
	d, peer := newDoor(), key.NewNode()
	from := addrSource(netip.MustParseAddr("192.0.2.1"))
	d.queueInitiation(from, message(1, initiationSize))
	if len(d.admission.calls) != 0 || d.Stats().BadInitiation != 1 {
		t.Error("an initiation without mac1 is queued")
	}
	m := caller{peer, d.private.Public()}.initiation(t, 1)
	for range 2 * sourceBurst {
		d.queueInitiation(from, m)
	}
	if got := len(d.admission.calls); got < sourceBurst || got >= 2*sourceBurst {
		t.Errorf("%d initiations of one source queued, want about %d", got, sourceBurst)
	}
	for i := range 2 * callsMax {
		d.queueInitiation(many(i), m)
	}
	if got := len(d.admission.calls); got != callsMax {
		t.Errorf("%d initiations queued, want %d", got, callsMax)
	}
}

func TestInjectRelay(t *testing.T) {
	d, peer := newDoor(), key.NewNode()
	e := d.endpoints.get(peer.Public())
	response := message(2, responseSize)
	binary.LittleEndian.PutUint32(response[4:], 99) // the sender's index, not ours
	binary.LittleEndian.PutUint32(response[8:], 7)
	cookie, data := message(3, cookieReplySize), message(4, 1000)
	for _, m := range [][]byte{cookie, data} {
		binary.LittleEndian.PutUint32(m[4:], 7)
	}
	d.InjectRelay(peer.Public(), [][]byte{response, cookie, data})
	if len(d.delivered()) != 0 || d.Stats().UnknownIndex != 3 {
		t.Error("messages for an unknown index are delivered")
	}
	d.index.learn(7, e, 1)
	d.InjectRelay(peer.Public(), [][]byte{response, cookie, data, []byte("hello"), nil})
	got := d.delivered()
	if len(got) != 3 || d.Stats().RelayOther != 2 {
		t.Errorf("%d delivered, %d others", len(got), d.Stats().RelayOther)
	}
	d.InjectRelay(peer.Public(), [][]byte{caller{peer, d.private.Public()}.initiation(t, 1)})
	if len(d.admission.calls) != 1 {
		t.Error("a relayed initiation is not queued")
	}
}

// TestStray: a peer that goes on in a session we have lost is as good as one that calls.
func TestStray(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, peer := newDoor(), key.NewNode().Public()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		stray := func(want int) {
			t.Helper()
			d.InjectRelay(peer, transport(7, 100))
			synctest.Wait()
			if len(d.calls) != want {
				t.Errorf("%d calls told, want %d", len(d.calls), want)
			}
		}
		stray(1)
		for range 5 * sourceBurst {
			d.InjectRelay(peer, transport(7, 100))
		}
		synctest.Wait()
		if got := len(d.calls); got > sourceBurst {
			t.Errorf("%d calls told of one peer", got)
		}
		d.calls = nil
		d.Release(peer)
		stray(0)
		d.Forget(peer)
		d.refused[peer.Raw()] = true
		stray(0)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// FuzzDatagram: whatever comes from a socket or a relay, nothing panics, and WireGuard gets only whole messages for a session of ours.
func FuzzDatagram(f *testing.F) {
	d, peer := newDoor(), key.NewNode()
	e := d.endpoints.get(peer.Public())
	d.index.learn(7, e, 1)
	for kind := range byte(6) {
		for _, size := range []int{0, 20, 32, 64, 92, 148, 1500} {
			m := message(kind, size+12)[:size]
			if size > 12 {
				m[4], m[8] = 7, 7
			}
			f.Add(m)
		}
	}
	f.Add(stockInitiation(f, peer, d.private.Public()))
	slot := new(atomic.Pointer[udpbatch.Conn])
	r := newReceiver(d.Bind, slot, new(udpbatch.Conn), nil)
	f.Fuzz(func(t *testing.T, m []byte) {
		r.next = 1
		if got := r.sort(m, 1); got != nil && (got != e || shapeOf(m) == shapeInitiation || receiverIndex(shapeOf(m), m) != 7) {
			t.Fatalf("% x was attributed to a peer", m)
		}
		d.InjectRelay(peer.Public(), [][]byte{m})
		for range d.delivered() {
			if shapeOf(m) == shapeOther || receiverIndex(shapeOf(m), m) != 7 {
				t.Fatalf("% x was delivered", m)
			}
		}
		for len(d.admission.calls) > 0 {
			c := <-d.admission.calls
			d.admit(&c)
		}
	})
}
