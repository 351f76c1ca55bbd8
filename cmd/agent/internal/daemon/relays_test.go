package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/nat/home"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// fakeRelay is a connection to a relay that does what the test says.
type fakeRelay struct {
	w       *relayWorld
	name    string
	on      relayEvents
	running bool
	resets  int
	late    chan struct{} // unless nil, its end is told only when this is closed
}

func (f *fakeRelay) Run(ctx context.Context) error {
	f.running = true
	<-ctx.Done()
	f.running = false
	if f.late != nil {
		<-f.late
	}
	f.on.state(false, netip.AddrPort{}, ctx.Err())
	return nil
}

func (f *fakeRelay) SendDataBatch(to [key.Size]byte, packets [][]byte) error {
	for _, p := range packets {
		f.w.sent = append(f.w.sent, fmt.Sprintf("%s data %d %s", f.name, to[0], p))
	}
	return nil
}

func (f *fakeRelay) SendSignal(to [key.Size]byte, b []byte) error {
	f.w.sent = append(f.w.sent, fmt.Sprintf("%s signal %d %s", f.name, to[0], b))
	return nil
}

func (f *fakeRelay) Reset() { f.resets++ }

// up has the connection stand, with a round trip.
func (f *fakeRelay) up(rtt time.Duration) {
	f.on.state(true, netip.MustParseAddrPort("192.0.2.1:443"), nil)
	f.on.rtt(rtt)
	synctest.Wait()
}

func (f *fakeRelay) down() {
	f.on.state(false, netip.AddrPort{}, errors.New("lost"))
	synctest.Wait()
}

// relayWorld is relays with connections that are made up, in virtual time.
type relayWorld struct {
	*relays
	t     *testing.T
	fakes map[string]*fakeRelay // the newest of each name
	made  []string
	sent  []string
	heard []string
	home  []string     // as last told
	calls atomic.Int32 // of changed, which connections call too
}

// inRelayWorld runs f; peers 1 to 3 are in the map.
func inRelayWorld(t *testing.T, f func(*relayWorld)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		w := &relayWorld{t: t, fakes: map[string]*fakeRelay{}}
		w.relays = &relays{
			log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1), ctx: ctx,
			changed: func() { w.calls.Add(1) },
			homes: func(ids []home.ID) {
				w.home = nil
				for i := range ids {
					w.home = append(w.home, w.linkOf(ids, i).desc.GetName())
				}
			},
			client: func(r *pb.Relay, on relayEvents) (relayClient, error) {
				if r.GetRegion() == "nowhere" {
					return nil, errors.New("it has no address")
				}
				c := &fakeRelay{w: w, name: r.GetName(), on: on}
				w.fakes[c.name], w.made = c, append(w.made, c.name)
				return c, nil
			},
			on: relayEvents{
				data: func(from [key.Size]byte, packets [][]byte) {
					w.heard = append(w.heard, fmt.Sprintf("data %d %s", from[0], packets))
				},
				signal: func(from [key.Size]byte, b []byte) {
					w.heard = append(w.heard, fmt.Sprintf("signal %d %s", from[0], b))
				},
				gone: func(peer [key.Size]byte) { w.heard = append(w.heard, fmt.Sprintf("gone %d", peer[0])) },
			},
		}
		for peer := range byte(3) {
			w.add([key.Size]byte{peer + 1})
		}
		done := make(chan error, 1)
		go func() { done <- w.run(ctx) }()
		f(w)
		for _, c := range w.fakes {
			if c.late != nil {
				close(c.late)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for name, c := range w.fakes {
			if c.running {
				t.Errorf("%s goes on after the end", name)
			}
		}
	})
}

func relayNamed(name string) *pb.Relay {
	id := home.ID{}
	copy(id[:], name)
	return &pb.Relay{Name: name, RelayKey: id[:], Region: "r-" + name}
}

// have makes the list of relays, by name, and waits.
func (w *relayWorld) have(names ...string) {
	var list []*pb.Relay
	for _, n := range names {
		list = append(list, relayNamed(n))
	}
	w.set(list)
	synctest.Wait()
}

// three is a world in which a, b and c are up, and a is home, b standby.
func (w *relayWorld) three() (a, b, c *fakeRelay) {
	w.have("a", "b", "c")
	for i, name := range []string{"a", "b", "c"} {
		w.fakes[name].up(time.Duration(i+1) * 20 * time.Millisecond)
	}
	if !slices.Equal(w.home, []string{"a", "b"}) {
		w.t.Fatalf("reached at %v", w.home)
	}
	w.use(w.find(home.ID{'c'}), time.Now()) // so that it is not left
	synctest.Wait()
	w.made = nil
	return w.fakes["a"], w.fakes["b"], w.fakes["c"]
}

func ids(names ...string) (out []home.ID) {
	for _, n := range names {
		id := home.ID{}
		copy(id[:], n)
		out = append(out, id)
	}
	return out
}

// TestHomeByRoundTrip: all relays are tried, the nearest is told as home, and what is named in status follows it.
func TestHomeByRoundTrip(t *testing.T) {
	inRelayWorld(t, func(w *relayWorld) {
		if _, _, ok := w.first(); ok {
			t.Error("a relay is connected before there is one")
		}
		w.have("far", "near", "mid")
		if got := slices.Sorted(slices.Values(w.made)); !slices.Equal(got, []string{"far", "mid", "near"}) {
			t.Fatalf("connected to %v", got)
		}
		w.fakes["far"].up(200 * time.Millisecond)
		w.fakes["mid"].up(80 * time.Millisecond)
		w.fakes["near"].up(10 * time.Millisecond)
		if name, _, ok := w.first(); !slices.Equal(w.home, []string{"near", "mid"}) || !ok || name != "near" {
			t.Errorf("reached at %v, status names %q", w.home, name)
		}
		calls := w.calls.Load()
		w.fakes["near"].down()
		if name, _, _ := w.first(); w.home[0] != "mid" || name != "mid" || w.calls.Load() == calls {
			t.Errorf("after the home's death: reached at %v, status names %q, told %d times", w.home, name, w.calls.Load()-calls)
		}
	})
}

// TestPick: by which relay a packet goes, of a, b and c, of which this device's home is a and its standby b.
func TestPick(t *testing.T) {
	peer := [key.Size]byte{1}
	for name, tc := range map[string]struct {
		homes []home.ID // what the peer says
		heard string    // where it was last heard
		gone  string    // which relays say that it is not there
		left  string    // which say so after it was heard
		down  string    // which are not connected
		want  string
	}{
		"nothing known":                    {want: "a"},
		"peer's home":                      {homes: ids("c", "b"), want: "c"},
		"peer's home before where heard":   {homes: ids("c", "b"), heard: "b", want: "c"},
		"peer's home is down":              {homes: ids("c", "b"), down: "c", want: "b"},
		"and it was heard elsewhere":       {homes: ids("c", "b"), down: "c", heard: "a", want: "a"},
		"peer is not at its home":          {homes: ids("c", "b"), gone: "c", want: "b"},
		"nor at its standby":               {homes: ids("c", "b"), gone: "cb", want: "a"},
		"heard, no word of a home":         {heard: "c", want: "c"},
		"heard where it is down now":       {heard: "c", down: "c", want: "a"},
		"own home is down":                 {down: "a", want: "b"},
		"own home says it is not there":    {gone: "a", want: "b"},
		"nowhere":                          {gone: "abc", want: "a"},
		"its homes are no relays of ours":  {homes: ids("x", "y"), want: "a"},
		"homes without end":                {homes: append(ids("x", "y", "z", "x", "y"), ids("c")...), want: "c"},
		"nothing connected":                {homes: ids("c"), heard: "b", down: "abc", want: ""},
		"heard again where it had gone":    {gone: "c", heard: "c", want: "c"},
		"gone after it was heard":          {heard: "c", left: "c", want: "a"},
		"only the farthest is left":        {homes: ids("a"), down: "ab", want: "c"},
		"home down, standby says not here": {homes: ids("c", "b"), down: "c", gone: "b", want: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			inRelayWorld(t, func(w *relayWorld) {
				w.three()
				w.reachedAt(peer, tc.homes)
				for _, c := range tc.gone {
					w.fakes[string(c)].on.gone(peer)
				}
				if tc.heard != "" {
					w.fakes[tc.heard].on.data(peer, [][]byte{{1}})
				}
				for _, c := range tc.left {
					w.fakes[string(c)].on.gone(peer)
				}
				for _, c := range tc.down {
					w.fakes[string(c)].down()
				}
				err := w.sendData(peer, [][]byte{[]byte("x")})
				got, _, _ := strings.Cut(strings.Join(w.sent, ","), " ")
				if got != tc.want || (err == nil) != (tc.want != "") {
					t.Errorf("sent %v, %v; want it by %q", w.sent, err, tc.want)
				}
			})
		})
	}
}

// TestWantedIsConnected: a peer's home to which there is no connection is connected because packets want to go there.
func TestWantedIsConnected(t *testing.T) {
	inRelayWorld(t, func(w *relayWorld) {
		w.three()
		w.advance(2 * time.Minute) // a third relay is left when nobody needs it
		if w.fakes["c"].running {
			t.Fatal("an idle relay is kept")
		}
		peer := [key.Size]byte{1}
		w.reachedAt(peer, ids("c"))
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		must(w.sendData(peer, [][]byte{[]byte("first")}))
		synctest.Wait()
		if !w.fakes["c"].running {
			t.Fatal("the peer's home is not connected")
		}
		w.fakes["c"].up(time.Millisecond)
		must(w.sendData(peer, [][]byte{[]byte("second")}))
		want := []string{"a data 1 first", "c data 1 second"}
		if diff := cmp.Diff(want, w.sent); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// advance lets time pass, of which the relays that stand hear by pings.
func (w *relayWorld) advance(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
	synctest.Wait()
}

// TestGone: a peer counts as gone when every relay that is connected says so, for as long as that word is young; then the other relays are asked,
// now and then.
func TestGone(t *testing.T) {
	inRelayWorld(t, func(w *relayWorld) {
		a, b, c := w.three()
		w.have("a", "b", "c", "d")
		w.fakes["d"].down() // it is tried, and not there
		peer := [key.Size]byte{2}
		a.on.gone(peer)
		b.on.gone(peer)
		if len(w.heard) != 0 {
			t.Fatalf("%v while c has not been asked", w.heard)
		}
		c.on.gone(peer)
		if !slices.Equal(w.heard, []string{"gone 2"}) {
			t.Fatalf("%v", w.heard)
		}
		w.advance(goneFor)
		if c.on.gone(peer); len(w.heard) != 1 {
			t.Error("old words of a and b count")
		}
		b.on.gone(peer)
		if a.on.gone(peer); len(w.heard) != 2 {
			t.Error("new ones do not")
		}
		c.on.signal(peer, []byte("here"))
		b.on.gone(peer)
		if a.on.gone(peer); len(w.heard) != 3 {
			t.Error("a peer counts as gone that c has just brought a signal of")
		}
	})
}

// TestStrangers: what a relay says of devices that are not in the map is not remembered, and reaches nobody's route.
func TestStrangers(t *testing.T) {
	inRelayWorld(t, func(w *relayWorld) {
		a, _, _ := w.three()
		count := func() (n int) {
			w.routes.Range(func(any, any) bool { n++; return true })
			return n
		}
		before := count()
		for i := range 1000 {
			stranger := [key.Size]byte{200, byte(i), byte(i >> 8)}
			a.on.data(stranger, [][]byte{{1}})
			a.on.signal(stranger, []byte("call"))
			a.on.gone(stranger)
			w.reachedAt(stranger, ids("c"))
			if err := w.sendData(stranger, [][]byte{{1}}); err != nil {
				t.Fatal(err)
			}
		}
		if count() != before {
			t.Errorf("%d routes, before %d", count(), before)
		}
		if slices.ContainsFunc(w.heard, func(s string) bool { return strings.HasPrefix(s, "gone") }) {
			t.Error("a stranger's absence is told")
		}
		w.forget([key.Size]byte{1})
		if a.on.data([key.Size]byte{1}, [][]byte{{1}}); count() != before-1 {
			t.Error("a peer that has left the map is remembered")
		}
	})
}

// TestLyingAboutWhere: a relay that brings packets which claim to be a peer's draws that peer's packets only while its home is not connected.
func TestLyingAboutWhere(t *testing.T) {
	inRelayWorld(t, func(w *relayWorld) {
		_, b, c := w.three()
		peer := [key.Size]byte{1}
		w.reachedAt(peer, ids("b"))
		c.on.data(peer, [][]byte{[]byte("forged")})
		if l := w.pick(peer); l.desc.GetName() != "b" {
			t.Errorf("its packets go by %s", l.desc.GetName())
		}
		b.down()
		if l := w.pick(peer); l.desc.GetName() != "c" {
			t.Errorf("its packets go by %s while its home is down", l.desc.GetName())
		}
		b.up(20 * time.Millisecond)
		if l := w.pick(peer); l.desc.GetName() != "b" {
			t.Errorf("its packets go by %s when its home is back", l.desc.GetName())
		}
	})
}

// TestSignals go where the peer is surely, or everywhere.
func TestSignals(t *testing.T) {
	inRelayWorld(t, func(w *relayWorld) {
		_, b, c := w.three()
		peer := [key.Size]byte{1}
		send := func(want ...string) {
			t.Helper()
			w.sent = nil
			if err := w.sendSignal(peer, []byte("s")); (err == nil) != (len(want) > 0) {
				t.Error(err)
			}
			for i := range want {
				want[i] += " signal 1 s"
			}
			if diff := cmp.Diff(want, w.sent); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		send("a", "b", "c")
		c.on.signal(peer, []byte("hello"))
		send("c")
		w.reachedAt(peer, ids("b")) // it has moved; where it was heard is old
		send("a", "b", "c")
		b.on.signal(peer, []byte("hello"))
		send("b")
		for _, f := range w.fakes {
			f.down()
		}
		send()
	})
}

// TestSetRelays: relays that stay keep their connection, those that go lose it, those that are described anew get a new one, and what an old
// connection says at its end does not count for the new.
func TestSetRelays(t *testing.T) {
	inRelayWorld(t, func(w *relayWorld) {
		a, b, c := w.three()
		a.late = make(chan struct{})
		changed := relayNamed("a")
		changed.Urls = []string{"https://elsewhere.example"}
		w.set([]*pb.Relay{changed, relayNamed("b"), {Name: "broken", RelayKey: []byte("short")}, {Name: "bad", RelayKey: relayNamed("bad").RelayKey, Region: "nowhere"}})
		synctest.Wait()
		if b.running != true || a.running || c.running {
			t.Errorf("running: a %v, b %v, c %v", a.running, b.running, c.running)
		}
		again := w.fakes["a"]
		if again == a || !again.running {
			t.Fatal("the relay that is described anew has no new connection")
		}
		again.up(time.Millisecond)
		w.advance(time.Minute)
		if !slices.Contains(w.home, "a") {
			t.Fatalf("reached at %v", w.home)
		}
		close(a.late) // its last word
		a.late = nil
		synctest.Wait()
		if name, _, _ := w.first(); !slices.Contains(w.home, "a") || name != w.home[0] {
			t.Errorf("after the old connection's end: reached at %v, status names %q", w.home, name)
		}
		w.reset()
		if again.resets != 1 || b.resets != 1 || a.resets != 0 {
			t.Errorf("resets: %d, %d, %d", again.resets, b.resets, a.resets)
		}
		w.have()
		if again.running || b.running {
			t.Error("relays that are no longer in the map are kept")
		}
		if err := w.sendData([key.Size]byte{1}, [][]byte{{1}}); !errors.Is(err, errNoRelay) {
			t.Error(err)
		}
	})
}
