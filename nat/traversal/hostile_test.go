package traversal

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"warren/nat/candidate"
	"warren/nat/check"
	"warren/nat/path/pathtest"
	"warren/nat/signal"
	"warren/nat/stunmsg"
	"warren/proto/key"
)

// direct gives two devices on a direct path, and the checks that the second sent to the first.
func direct(w *world) (a, b *device, checks [][]byte) {
	a, b = w.add("a", pathtest.Public), w.add("b", pathtest.Public)
	w.meet(a, b)
	w.talk(a, b)
	w.within(time.Second, "direct", both(a, b, Direct))
	checks, _ = b.checksTo(a.host.At)
	return a, b, checks
}

// TestReflection: our own checks and answers, sent back to us from where they went, are nobody's.
func TestReflection(t *testing.T) {
	run(t, func(w *world) {
		a, b, _ := direct(w)
		w.mu.Lock()
		out := slices.Clone(a.out)
		w.mu.Unlock()
		before := a.tr.Stats()
		for _, o := range out {
			a.tr.HandlePacket(a.host.At.Addr(), b.host.At, o.b)
		}
		synctest.Wait()
		after := a.tr.Stats()
		if got := int(after.Refused - before.Refused); got != len(out) || after.Requests != before.Requests || after.Answers != before.Answers {
			t.Errorf("%d of %d were refused; %+v", got, len(out), after)
		}
	})
}

// TestForgedCheck: a USERNAME that somebody saw on the wire is worth nothing without the key.
func TestForgedCheck(t *testing.T) {
	run(t, func(w *world) {
		a, b, checks := direct(w)
		m, err := stunmsg.Parse(checks[0])
		if err != nil {
			t.Fatal(err)
		}
		before := a.tr.Stats()
		for _, k := range [][]byte{nil, m.Username, b.node.Public().Bytes()} {
			a.tr.HandlePacket(a.host.At.Addr(), stranger, stunmsg.NewRequest(stunmsg.NewTxID(), m.Username, k))
		}
		synctest.Wait()
		after := a.tr.Stats()
		if r, n := a.checksTo(stranger); after.Refused-before.Refused != 3 || len(r)+n != 0 {
			t.Errorf("%d of 3 were refused; %d packets went back", after.Refused-before.Refused, len(r)+n)
		}
	})
}

// TestReplayedCheck: a check that somebody recorded and sends from elsewhere, without end, brings that place an answer no larger than itself
// and a bounded number of checks, and changes no path.
func TestReplayedCheck(t *testing.T) {
	run(t, func(w *world) {
		a, b, checks := direct(w)
		told := len(a.told(b))
		const seconds, rate = 30, 50
		for range seconds * rate {
			a.tr.HandlePacket(a.host.At.Addr(), stranger, checks[0])
			pass(time.Second / rate)
		}
		requests, answers := a.checksTo(stranger)
		if answers != seconds*rate {
			t.Errorf("%d answers to %d requests", answers, seconds*rate)
		}
		if most := 10 * (seconds + 2); len(requests) == 0 || len(requests) > most { // nat/path: 10 in a second, and a burst of 10
			t.Errorf("%d checks of the stranger's address; want a few, %d at most", len(requests), most)
		}
		for _, o := range a.out {
			if o.to == stranger && len(o.b) > len(checks[0]) {
				t.Errorf("%d bytes for %d", len(o.b), len(checks[0]))
			}
		}
		if got := a.told(b)[told:]; len(got) != 0 || a.path(b).Remote != b.host.At {
			t.Errorf("the path was moved: %v, now %+v", got, a.path(b))
		}
	})
}

// TestManyStrangers: a recorded check from ever other addresses makes nothing grow and leaves the peer its path.
func TestManyStrangers(t *testing.T) {
	run(t, func(w *world) {
		a, b, checks := direct(w)
		sent := a.tr.Stats().ChecksSent
		const seconds = 20
		for i := range 100 * seconds {
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 1000)
			a.tr.HandlePacket(a.host.At.Addr(), from, checks[0])
			pass(10 * time.Millisecond)
		}
		// 10 in a second to addresses that only a request told of, and the path's own.
		if got := a.tr.Stats().ChecksSent - sent; got > 15*(seconds+2) {
			t.Errorf("%d checks in %d s", got, seconds)
		}
		if !both(a, b, Direct)() || a.path(b).Remote != b.host.At {
			t.Errorf("the path was moved to %+v", a.path(b))
		}
	})
}

// TestReplayedAnswer: an answer counts once, and only to a check that is under way.
func TestReplayedAnswer(t *testing.T) {
	run(t, func(w *world) {
		a, b, _ := direct(w)
		w.mu.Lock()
		var answers [][]byte
		for _, o := range b.out {
			if m, err := stunmsg.Parse(o.b); err == nil && m.Class == stunmsg.Success {
				answers = append(answers, o.b)
			}
		}
		w.mu.Unlock()
		before := a.tr.Stats()
		for _, o := range answers {
			a.tr.HandlePacket(a.host.At.Addr(), b.host.At, o)
			a.tr.HandlePacket(a.host.At.Addr(), stranger, o)
		}
		synctest.Wait()
		if after := a.tr.Stats(); len(answers) == 0 || after.Answers != before.Answers || int(after.Refused-before.Refused) != 2*len(answers) {
			t.Errorf("%d answers played again: %+v after %+v", len(answers), after, before)
		}
	})
}

// TestMovedAnswer: an answer that comes from elsewhere than its check went to is refused, is no word of where this device was seen, and does not
// keep the true one from counting.
func TestMovedAnswer(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Public), w.add("b", pathtest.Public)
		from := map[netip.Addr]int{}
		a.stop()
		a.start(func(cfg *Config) {
			cfg.OnSeen = func(_ key.NodePublic, remote, seen netip.Addr) {
				if from[remote]++; seen != a.host.At.Addr() {
					t.Errorf("seen at %s", seen)
				}
			}
		})
		w.meet(a, b)
		defer w.talk(a, b)()
		moved, looked := 0, 0
		for range 2000 {
			pass(time.Millisecond) // an answer takes longer
			w.mu.Lock()
			sent := slices.Clone(b.out[looked:])
			looked += len(sent)
			w.mu.Unlock()
			before := a.tr.Stats()
			for _, o := range sent {
				if m, err := stunmsg.Parse(o.b); err != nil || m.Class != stunmsg.Success {
					continue
				}
				a.tr.HandlePacket(a.host.At.Addr(), stranger, o.b)
				synctest.Wait()
				if after := a.tr.Stats(); after.Refused == before.Refused {
					t.Errorf("not refused: %+v", after)
				}
				moved++
			}
		}
		pass(time.Second)
		if moved == 0 || from[stranger.Addr()] > 0 || from[b.host.At.Addr()] < moved || a.tr.Stats().Answers < uint64(moved) {
			t.Errorf("%d answers came from elsewhere first: %v, %+v", moved, from, a.tr.Stats())
		}
	})
}

// TestHostileSignals: replayed, damaged and oversized signals, and those of nobody known, are refused and send nothing.
func TestHostileSignals(t *testing.T) {
	run(t, func(w *world) {
		a, b, _ := direct(w)
		pass(time.Second)
		w.mu.Lock()
		recorded := slices.Clone(w.signals)
		w.mu.Unlock()
		damaged := slices.Clone(recorded[0])
		damaged[len(damaged)-1] ^= 1
		hostile := append(recorded, damaged, nil, []byte{1}, make([]byte, signal.MaxSize), make([]byte, signal.MaxSize+1), make([]byte, 60000))
		before := a.tr.Stats()
		for _, s := range hostile {
			a.tr.HandleSignal(b.id.Public().Raw(), s)
			a.tr.HandleSignal([key.Size]byte{66}, s)
		}
		synctest.Wait()
		after := a.tr.Stats()
		if got := int(after.Refused - before.Refused); got != 2*len(hostile) || after.SignalsSent != before.SignalsSent {
			t.Errorf("%d of %d were refused; %+v", got, 2*len(hostile), after)
		}
	})
}

// TestLyingCandidates: a peer that names a third party as its own address, again and again, makes us send no more than the bounded checks
// there, and no data.
func TestLyingCandidates(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Public), w.add("b", pathtest.Blocked)
		var lies []candidate.Candidate
		for i := range candidate.Max {
			lies = append(lies, candidate.Candidate{Addr: netip.AddrPortFrom(stranger.Addr(), uint16(7000+i))})
		}
		b.tr.SetCandidates(lies, nil)
		w.meet(a, b)
		w.talk(a, b)
		const seconds = 60
		for i := range seconds {
			b.tr.SetCandidates(lies[i%8:], nil) // so that b tells of them again
			pass(time.Second)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		n := 0
		for _, o := range a.out {
			if o.to.Addr() == stranger.Addr() {
				n++
			}
		}
		if n == 0 || n > 64+40*seconds { // nat/path: a burst of 64, then 40 in a second
			t.Errorf("%d checks in %d s to somebody who has nothing to do with it", n, seconds)
		}
		if p := a.paths[b.raw()]; p.Kind != Relay {
			t.Errorf("the path is %+v", p)
		}
	})
}

// TestFlood: what comes faster than it can be looked at is dropped and counted; nothing grows.
func TestFlood(t *testing.T) {
	run(t, func(w *world) {
		peer := key.NewDevice().Public()
		t2 := New(Config{Self: key.NewNode(), Send: func(netip.Addr, netip.AddrPort, []byte) error { return nil }})
		const more = 5000
		garbage := make([]byte, maxPacket)
		for range more {
			t2.HandlePacket(netip.Addr{}, stranger, garbage)
			t2.HandleSignal([key.Size]byte{1}, garbage[:signal.MaxSize])
			t2.PeerGone(peer)
		}
		want := uint64(3*more - packetQueue - signalQueue - goneQueue)
		if s := t2.Stats(); s.Dropped != want || s.Refused != 0 {
			t.Errorf("%d dropped, want %d; %d refused", s.Dropped, want, s.Refused)
		}
		if len(t2.control) > goneQueue {
			t.Errorf("%d words of relays wait", len(t2.control))
		}
		t2.HandlePacket(netip.Addr{}, stranger, make([]byte, maxPacket+1))
		t2.HandleSignal([key.Size]byte{1}, make([]byte, signal.MaxSize+1))
		if s := t2.Stats(); s.Refused != 2 {
			t.Errorf("an oversized datagram and signal were not refused at once: %+v", s)
		}
		ctx, cancel := context.WithCancel(w.t.Context())
		done := make(chan error, 1)
		go func() { done <- t2.Run(ctx) }()
		synctest.Wait()
		if s := t2.Stats(); s.Refused != 2+packetQueue+signalQueue {
			t.Errorf("of what waited %d were looked at, want %d", s.Refused-2, packetQueue+signalQueue)
		}
		t2.PeerGone(peer)
		synctest.Wait()
		if s := t2.Stats(); s.Dropped != want {
			t.Error("the queue did not empty")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestFloodDuringUse: a shower of garbage costs a session neither its path nor its life.
func TestFloodDuringUse(t *testing.T) {
	run(t, func(w *world) {
		a, b, _ := direct(w)
		told := len(a.told(b))
		garbage := stunmsg.NewRequest(stunmsg.TxID{}, []byte("0123456789abcdef"), []byte("a key of nobody's"))
		for range 100 {
			for range 300 {
				a.tr.HandlePacket(a.host.At.Addr(), stranger, garbage)
			}
			pass(50 * time.Millisecond)
		}
		if got := a.told(b)[told:]; len(got) != 0 || !both(a, b, Direct)() {
			t.Errorf("the path suffered: %v", got)
		}
		if r, n := a.checksTo(stranger); len(r)+n != 0 {
			t.Errorf("%d packets to the stranger", len(r)+n)
		}
	})
}

// TestNothingBlocks: while Run is stuck in a callback every method returns; in this fake time one that waited would be a deadlock. All that
// was told is done afterwards, in order.
func TestNothingBlocks(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		a.stop()
		release, stuck := make(chan struct{}), false
		a.start(func(c *Config) {
			c.OnPath = func(peer key.NodePublic, p Path) {
				if !stuck {
					stuck = true
					<-release
				}
				a.onPath(peer, p)
			}
		})
		w.meet(a, b)
		a.tr.Active(b.node.Public())
		synctest.Wait()
		if !stuck {
			t.Fatal("Run is not stuck, so this test shows nothing")
		}
		for range 2000 {
			a.tr.HandlePacket(a.host.At.Addr(), b.host.At, []byte("garbage"))
			a.tr.HandleSignal(b.id.Public().Raw(), []byte("garbage"))
			a.tr.PeerGone(b.id.Public())
			a.tr.NetworkChanged()
		}
		a.tr.SetCandidates(nil, nil)
		a.tr.SetOverlay(nil)
		a.tr.SetRelay(false, "", netip.AddrPort{})
		a.tr.Idle(b.node.Public())
		a.tr.SetPeers(nil)
		a.tr.SetPeers([]Peer{b.peer()})
		a.tr.Paths()
		a.tr.Stats()
		close(release)
		a.tr.SetCandidates(a.candidates(), nil)
		a.tr.SetRelay(true, "home", relayAddr)
		w.talk(a, b)
		w.within(5*time.Second, "direct in the end", both(a, b, Direct))
	})
}

// TestCallbacksMayCall: a callback may call any method.
func TestCallbacksMayCall(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		a.stop()
		all := func() {
			a.tr.Paths()
			a.tr.Stats()
			a.tr.NetworkChanged()
			a.tr.HandlePacket(a.host.At.Addr(), stranger, nil)
			a.tr.HandleSignal(b.id.Public().Raw(), nil)
		}
		a.start(func(c *Config) {
			path, send, wanted := c.OnPath, c.SendSignal, c.Wanted
			c.OnPath = func(peer key.NodePublic, p Path) { a.tr.Paths(); a.tr.Stats(); path(peer, p) }
			c.SendSignal = func(to [key.Size]byte, b []byte) error { a.tr.Paths(); a.tr.Stats(); return send(to, b) }
			c.Wanted = func(peer key.NodePublic) { all(); a.tr.Active(peer); wanted(peer) }
		})
		w.meet(a, b)
		b.tr.Active(a.node.Public())
		w.within(time.Second, "Wanted is called", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(a.wanted) > 0
		})
		w.talk(b, a)
		w.within(5*time.Second, "direct", both(a, b, Direct))
	})
}

// FuzzInput hands datagrams and signals from anywhere to the owner: nothing but what the peer made is answered or changes anything.
func FuzzInput(f *testing.F) {
	self, peer, device := key.NewNode(), key.NewNode(), key.NewDevice().Public()
	ours, err := check.NewKeys(self, peer.Public())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ours.Request(stunmsg.TxID{1}), uint16(1))
	f.Add(ours.Success(stunmsg.TxID{1}, stranger), uint16(2))
	f.Add(stunmsg.NewRequest(stunmsg.TxID{1}, ours.Username(), nil), uint16(3))
	f.Add([]byte{1}, uint16(0))
	f.Fuzz(func(t *testing.T, b []byte, port uint16) {
		tr := New(Config{
			Self:       self,
			Send:       func(netip.Addr, netip.AddrPort, []byte) error { t.Error("something was sent"); return nil },
			SendSignal: func([key.Size]byte, []byte) error { t.Error("a signal was sent"); return nil },
		})
		o := newOwner(tr)
		o.setPeers([]Peer{{Device: device, Node: peer.Public()}})
		o.deriveSome()
		o.packet(packet{0, netip.MustParseAddr("10.0.0.2"), netip.AddrPortFrom(stranger.Addr(), port), b})
		o.signal(sealed{device.Raw(), b})
		if s := tr.Stats(); s.Refused != 2 || len(tr.Paths()) != 0 || o.core.Sessions() != 0 {
			t.Errorf("%+v, %d sessions", s, o.core.Sessions())
		}
	})
}
