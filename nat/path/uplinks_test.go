package path_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"warren/nat/candidate"
	"warren/nat/path"
	"warren/nat/stunmsg"
)

// uplinks is one core on a host with two uplinks, and a peer that answers after a time for each.
type uplinks struct {
	core      *path.Core
	now, next time.Time
	rtt       map[netip.Addr]time.Duration
	busy      int                  // so many answers more come late
	noise     func() time.Duration // by which an answer comes later
	pending   []answerDue
	paths     []string
}

type answerDue struct {
	at time.Time
	ev path.Answer
}

func (u *uplinks) handle(ev path.Event) {
	actions, next := u.core.Handle(u.now, ev)
	u.next = next
	for _, a := range actions {
		switch a := a.(type) {
		case path.SendCheck:
			rtt, ok := u.rtt[a.Pair.Local]
			if !ok {
				continue
			}
			if u.busy > 0 {
				u.busy, rtt = u.busy-1, rtt+9*time.Millisecond
			}
			if u.noise != nil {
				rtt += u.noise()
			}
			u.pending = append(u.pending, answerDue{u.now.Add(rtt), path.Answer{Peer: a.Peer, Tx: a.Tx, Pair: a.Pair}})
		case path.SetPath:
			u.paths = append(u.paths, fmt.Sprintf("%d %s", a.Path.Kind, a.Path.Local))
		}
	}
}

func (u *uplinks) run(d time.Duration) {
	for end := u.now.Add(d); u.now.Before(end); u.now = u.now.Add(100 * time.Microsecond) {
		for i := slices.IndexFunc(u.pending, func(a answerDue) bool { return !a.at.After(u.now) }); i >= 0; i = -1 {
			ev := u.pending[i].ev
			u.pending = slices.Delete(u.pending, i, i+1)
			u.handle(ev)
		}
		if !u.next.IsZero() && !u.next.After(u.now) {
			u.handle(nil)
		}
	}
}

// comesBack has the peer reached over the second uplink for a second, and then, for another, over both. It gives the path at the end.
func (u *uplinks) comesBack(first, second netip.Addr, firstTakes, secondTakes time.Duration) path.Path {
	u.now, u.rtt = time.Unix(1e9, 0), map[netip.Addr]time.Duration{second: secondTakes}
	var txs byte
	newTx := func() stunmsg.TxID { txs++; return stunmsg.TxID{txs} }
	traffic := func(path.ID) path.Traffic { return path.Traffic{Sent: u.now, Received: u.now, Direct: u.now} }
	u.core = path.New(u.now, path.Config{Traffic: traffic, NewTx: newTx, Rand: rand.New(rand.NewPCG(1, 2))})
	locals := func(at ...netip.Addr) (out []candidate.Candidate) {
		for _, a := range at {
			out = append(out, candidate.Candidate{Kind: host, Addr: netip.AddrPortFrom(a, 1)})
		}
		return out
	}
	peer := path.ID{1}
	u.handle(path.SetRelay{Up: true})
	u.handle(path.SetLocal{Candidates: locals(second)})
	u.handle(path.Activate{Peer: peer})
	u.handle(path.Signal{Peer: peer, Candidates: locals(netip.MustParseAddr("203.0.113.5"))})
	u.run(time.Second)
	u.rtt[first] = firstTakes
	u.handle(path.SetLocal{Candidates: locals(first, second)})
	u.run(time.Second)
	return u.core.Explain(peer).Path
}

// TestNoise: on a host that is so busy that most answers come some milliseconds late, an uplink that comes back does not seem better than one
// that is as fast.
func TestNoise(t *testing.T) {
	first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.7")
	moved := 0
	for seed := range uint64(1000) {
		random := rand.New(rand.NewPCG(seed, 0))
		u := &uplinks{noise: func() time.Duration { return time.Duration(random.ExpFloat64() * float64(6*time.Millisecond)) }}
		if got := u.comesBack(first, second, time.Millisecond, time.Millisecond); got.Local != second {
			moved++
		}
	}
	if moved > 10 { // 56 when a gain of 2 ms was enough, and two answers
		t.Errorf("%d of 1000 moved", moved)
	}
}

// TestBusyWhenFound: the first answers over an uplink came late, for the host was busy with the loss of the other. When that is back, the two are
// compared by what they take now: nothing moves while they are alike, and a better one is still taken.
func TestBusyWhenFound(t *testing.T) {
	first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.7")
	for name, tc := range map[string]struct {
		rtt  time.Duration // of the uplink that comes back; the other takes 20 ms
		want netip.Addr
	}{
		"alike":  {19 * time.Millisecond, second},
		"better": {10 * time.Millisecond, first},
	} {
		t.Run(name, func(t *testing.T) {
			u := &uplinks{busy: 3}
			got := u.comesBack(first, second, tc.rtt, 20*time.Millisecond)
			if got.Kind != path.Direct || got.Local != tc.want {
				t.Errorf("path %v, want over %s; it went %v", got, tc.want, u.paths)
			}
		})
	}
}
