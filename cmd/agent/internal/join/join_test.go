package join

import (
	"math/rand/v2"
	"testing"
	"time"
)

var start = time.Unix(1_800_000_000, 0)

func newCore() *Core { return &Core{Jitter: func(n int64) int64 { return n - 1 }} }

func file(text string) Seen { return Seen{Token: TokenOf(text), Removable: true} }

func (s Seen) member() Seen   { s.Member, s.SameNetwork = true, true; return s }
func (s Seen) rejected() Seen { s = s.member(); s.Rejected = true; return s }
func (s Seen) kept() Seen     { s.Removable = false; return s }
func (s Seen) other() Seen    { s = s.member(); s.SameNetwork = false; return s }
func (s Seen) damaged() Seen  { s.Malformed = true; return s }

func TestNext(t *testing.T) {
	type step struct {
		after time.Duration
		seen  Seen
		want  Action
		done  Outcome // after Enrol
	}
	none, a, b := Seen{}, file("a"), file("b")
	for name, steps := range map[string][]step{
		"no token":                {{0, none, Wait, 0}, {0, none.other(), Wait, 0}},
		"at once, then removed":   {{0, a, Enrol, Joined}, {0, a.member(), Remove, 0}, {0, a.member(), Wait, 0}, {LookEvery, none.member(), Wait, 0}},
		"it comes later":          {{0, none, Wait, 0}, {LookEvery, a, Enrol, Joined}},
		"killed before removal":   {{0, a.member(), Remove, 0}, {0, a.member(), Wait, 0}},
		"not to be removed":       {{0, a.kept(), Enrol, Joined}, {0, a.kept().member(), Wait, 0}, {LookEvery, a.kept().member(), Wait, 0}},
		"another network's":       {{0, a.other(), TellOtherNetwork, 0}, {0, a.other(), Wait, 0}, {LookEvery, a.other(), Wait, 0}, {0, b.other(), TellOtherNetwork, 0}},
		"damaged, then mended":    {{0, a.damaged(), TellMalformed, 0}, {LookEvery, a.damaged(), Wait, 0}, {0, b, Enrol, Joined}},
		"left by hand":            {{0, a.kept(), Enrol, Joined}, {0, a.kept().member(), Wait, 0}, {time.Hour, a.kept(), TellUsed, 0}, {time.Hour, a.kept(), Wait, 0}, {0, b.kept(), Enrol, Joined}},
		"member, left by hand":    {{0, a.kept().member(), Wait, 0}, {time.Hour, a.kept(), TellUsed, 0}},
		"removed there":           {{0, a.kept().rejected(), TellRejected, 0}, {time.Hour, a.kept().rejected(), Wait, 0}, {0, b.rejected(), Enrol, Joined}, {0, b.member(), Remove, 0}},
		"nobody answers":          {{0, a, Enrol, Away}, {0, a, Wait, 0}, {time.Second, a, Enrol, Away}, {time.Second, a, Wait, 0}, {time.Second, a, Enrol, Away}},
		"refused":                 {{0, a, Enrol, Refused}, {time.Minute, a, Wait, 0}, {refusedPause, a, Enrol, Refused}},
		"refused, then another":   {{0, a, Enrol, Refused}, {time.Second, b, Enrol, Joined}},
		"a token comes back":      {{0, a, Enrol, Refused}, {0, none, Wait, 0}, {0, a, Enrol, Joined}},
		"answers, after a while":  {{0, a, Enrol, Away}, {time.Second, a, Enrol, Away}, {2 * time.Second, a, Enrol, Joined}, {0, a.member(), Remove, 0}},
		"another network, leaves": {{0, a.other(), TellOtherNetwork, 0}, {0, a, Enrol, Joined}},
	} {
		c, now := newCore(), start
		for i, s := range steps {
			now = now.Add(s.after)
			got, next := c.Next(now, s.seen)
			if got != s.want || !next.After(now) || next.After(now.Add(LookEvery)) {
				t.Errorf("%s, step %d: %s, and again after %s; want %s", name, i, got, next.Sub(now), s.want)
			}
			if got == Enrol {
				c.Done(now, s.done)
			}
		}
	}
}

// TestPauses: attempts that nobody answers come ever more rarely, up to a bound, and never all devices at one moment.
func TestPauses(t *testing.T) {
	for _, jitter := range []func(int64) int64{func(n int64) int64 { return 0 }, func(n int64) int64 { return n - 1 }} {
		c, now := &Core{Jitter: jitter}, start
		var last time.Duration
		for i := range 40 {
			began := now
			for {
				action, next := c.Next(now, file("a"))
				if action == Enrol {
					break
				}
				now = next
			}
			pause := now.Sub(began)
			want := min(firstPause<<min(max(i-1, 0), 10), longestPause)
			if i > 0 && (pause < want/2 || pause > want || pause < last) {
				t.Errorf("pause %d is %s, want %s to %s, not less than %s before", i, pause, want/2, want, last)
			}
			last = pause
			c.Done(now, Away)
		}
	}
}

// world is a device, its coordinator and its token in the naive: what must hold whatever happens.
type world struct {
	seen     Seen
	asked    map[Token]time.Time
	refusing map[Token]bool
}

// TestWhateverHappens: a device that is a member and wanted does not enrol; a refused token is asked about once in a quarter of an hour, any other not twice
// in half a second; a file is removed only of a member; once a good token is there the device becomes a member.
func TestWhateverHappens(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 6))
		c := &Core{Jitter: r.Int64N}
		w := world{asked: map[Token]time.Time{}, refusing: map[Token]bool{}}
		now := start
		for range 400 {
			w.happen(r)
			action, next := c.Next(now, w.seen)
			if next.Before(now) {
				t.Fatalf("seed %d: look again before now", seed)
			}
			switch action {
			case Enrol:
				w.enrol(t, seed, r, c, now)
			case Remove:
				clear(w.asked)
				if !w.seen.Member || !w.seen.SameNetwork || !w.seen.Removable || w.seen.Rejected {
					t.Fatalf("seed %d: removes the token of %+v", seed, w.seen)
				}
				w.seen.Token = Token{}
			case Wait:
				now = next
			}
		}
	}
}

func (w *world) happen(r *rand.Rand) {
	switch r.IntN(40) {
	case 0: // what was known of a token is forgotten with it
		clear(w.asked)
		clear(w.refusing)
		w.seen = Seen{Member: w.seen.Member, Rejected: w.seen.Rejected, Token: TokenOf(string(rune('a' + r.IntN(3)))), Removable: r.IntN(2) == 0, SameNetwork: r.IntN(4) > 0}
	case 1:
		w.seen.Rejected = w.seen.Member && r.IntN(2) == 0
	case 2:
		w.seen.Member, w.seen.Rejected = false, false
	case 3:
		w.seen.Malformed = r.IntN(2) == 0
	}
}

func (w *world) enrol(t *testing.T, seed uint64, r *rand.Rand, c *Core, now time.Time) {
	t.Helper()
	s := w.seen
	if s.Token == (Token{}) || s.Malformed || s.Member && (!s.Rejected || !s.SameNetwork || !s.Removable) {
		t.Fatalf("seed %d: enrols though %+v", seed, s)
	}
	pause := firstPause / 2
	if w.refusing[s.Token] {
		pause = refusedPause
	}
	if at, before := w.asked[s.Token]; before && now.Sub(at) < pause {
		t.Fatalf("seed %d: asks again after %s", seed, now.Sub(at))
	}
	w.asked[s.Token] = now
	o := Outcome(r.IntN(3))
	w.refusing[s.Token] = o == Refused
	if o == Joined {
		delete(w.asked, s.Token)
		w.seen.Member, w.seen.Rejected, w.seen.SameNetwork = true, false, true
	}
	c.Done(now, o)
}
