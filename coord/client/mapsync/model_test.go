package mapsync

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// run is one agent through good and bad times.
type run struct {
	*world
	pick func(int) int
	c    *Core
	sent []*pb.WatchResponse       // everything that a carrier has seen
	best map[rawKey]record.Version // of what was published
}

// contents describes the map that the core gives.
func (r *run) contents() (at mark, all []string) {
	m := r.c.Map(r.now)
	if m == nil {
		return mark{}, nil
	}
	all = []string{}
	for _, p := range m.Peers {
		all = append(all, describe(p))
	}
	slices.Sort(all)
	return mark{m.Epoch, m.Revision}, all
}

// handle gives one message to the core. What the core shows must be a moment of the world, never an older one than before, and the same
// as before if it says that nothing changed or that the message was no good. It reports whether the stream goes on.
func (r *run) handle(m *pb.WatchResponse) bool {
	r.Helper()
	before, was := r.contents()
	res, err := r.c.Handle(r.now, m)
	if err != nil || res.Resnapshot {
		r.c.Restart()
	}
	after, is := r.contents()
	if r.c.statement != nil {
		after.epoch = r.c.statement.GetEpoch() // Restart has taken the other
		if diff := cmp.Diff(r.history[after], is); diff != "" {
			r.Fatalf("the map is not the world at %v, after %v: %s", after, m, diff)
		}
	}
	if changed := !slices.Equal(was, is); changed && (err != nil || res.Resnapshot || !res.Publish || !res.Store) {
		r.Fatalf("the map changed from %v %v to %v %v, by %v: %+v, %v", before, was, after, is, m, res, err)
	}
	if res.Publish {
		r.published()
	}
	return err == nil && !res.Resnapshot
}

// published checks that no device went back, and that the own record, which no digest covers, stays once it came.
func (r *run) published() {
	m := r.c.Map(r.now)
	all := m.Peers
	if m.Self != nil {
		all = append(slices.Clone(all), m.Self)
	} else if r.best[r.self.Raw()] != (record.Version{}) {
		r.Fatal("the own record is gone")
	}
	for _, d := range all {
		k := d.Key.Raw()
		if d.Version.Compare(r.best[k]) < 0 {
			r.Fatalf("%s went back from %v", describe(d), r.best[k])
		}
		r.best[k] = d.Version
	}
}

// session follows one Watch. A bad carrier cuts it, leaves messages out, repeats them and plays old ones.
func (r *run) session(bad bool) (whole bool) {
	r.c.Begin()
	queue := r.stream(r.c.Position())
	for rounds := 1 + r.pick(4); ; rounds-- {
		for _, m := range queue {
			r.sent = append(r.sent, m)
			fault := 99
			if bad {
				fault = r.pick(30)
			}
			switch fault {
			case 0:
				return false
			case 1:
				continue
			case 2:
				if !r.handle(m) {
					return false
				}
			case 3, 4:
				if !r.handle(r.sent[r.pick(len(r.sent))]) {
					return false
				}
			}
			if !r.handle(m) {
				return false
			}
		}
		if rounds == 0 {
			return true
		}
		at := r.mark
		for range r.pick(4) {
			r.step(r.pick)
		}
		if r.epoch != at.epoch {
			return true // a coordinator that was restored has started anew
		}
		queue = r.since(at.revision)
	}
}

// reboot is an agent that starts from its disk.
func (r *run) reboot() {
	b, err := r.c.Save()
	if err != nil {
		r.Fatal(err)
	}
	_, was := r.contents()
	r.c = r.core()
	if b == nil {
		return
	}
	if err := r.c.Load(r.now, b); err != nil {
		r.Fatalf("its own map: %v", err)
	}
	if _, is := r.contents(); !slices.Equal(was, is) {
		r.Fatalf("saved %v, loaded %v", was, is)
	}
}

// settle ends bad times: after one Watch that finds the drift, if there is one, the map is the world.
func (r *run) settle() {
	for range 3 {
		if r.session(false) {
			break
		}
	}
	for i := range 2 {
		if r.c.Begin(); i == 1 {
			r.c.Restart() // the own record's drift shows in a snapshot only
		}
		for _, m := range r.stream(r.c.Position()) {
			if !r.handle(m) {
				r.Fatalf("an honest stream is refused at %v", m)
			}
		}
	}
	if at, is := r.contents(); at != r.mark || !slices.Equal(is, r.history[r.mark]) {
		r.Fatalf("at %v with %v, and the world is at %v with %v", at, is, r.mark, r.history[r.mark])
	}
	if got, want := describe(r.c.Map(r.now).Self), describe(&r.members[0].Device); got != want {
		r.Fatalf("own record %s, want %s", got, want)
	}
}

func play(t *testing.T, pick func(int) int, rounds int) {
	r := &run{world: newWorld(t), pick: pick, best: map[rawKey]record.Version{}}
	r.c = r.core()
	for range rounds {
		for range pick(6) {
			r.step(pick)
		}
		switch pick(8) {
		case 0:
			r.reboot()
		case 1:
			r.settle()
		default:
			r.session(true)
		}
	}
	r.settle()
}

// TestModel plays random lives against the naive world.
func TestModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		play(t, rng.IntN, 40)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// FuzzModel has the fuzzer choose the life.
func FuzzModel(f *testing.F) {
	for seed := range uint64(4) {
		b := make([]byte, 200)
		rng := rand.New(rand.NewPCG(seed, 2))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		play(t, func(n int) int {
			if len(b) == 0 {
				return n - 1
			}
			v := int(b[0]) % n
			b = b[1:]
			return v
		}, min(len(b)/20+1, 20))
	})
}
