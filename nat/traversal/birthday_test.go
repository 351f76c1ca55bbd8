package traversal

import (
	"net/netip"
	"testing"
	"time"

	"warren/nat/path"
	"warren/nat/path/pathtest"
	pb "warren/proto/warrenv1"
)

// TestBirthday: two devices that know how their NATs map agree over the relay, open sockets, and find a direct path. An attempt is in vain once in 75
// times, and hits the tunnel's own socket once in 257; three in a row, never in practice.
func TestBirthday(t *testing.T) {
	for range 3 {
		met := false
		run(t, func(w *world) { met = w.meetByBirthday() })
		if met {
			return
		}
	}
	t.Error("three attempts of three failed")
}

func (w *world) meetByBirthday() bool {
	a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Hard)
	for _, d := range w.devices {
		d.stop()
		d.start(func(c *Config) { c.Extra = d })
	}
	a.tr.SetMapping(MappingIndependent, netip.AddrPort{})
	b.tr.SetMapping(MappingDependent, netip.AddrPort{})
	w.meet(a, b)
	w.talk(a, b)
	w.within(100*time.Millisecond, "through the relay", func() bool { return a.path(b).Kind == Relay && b.path(a).Kind == Relay })
	pass(15 * time.Second)
	if !both(a, b, Direct)() || b.path(a).Socket == 0 {
		w.t.Logf("paths %+v and %+v", a.path(b), b.path(a))
		return false
	}
	w.mu.Lock()
	open := len(b.host.Extra)
	w.mu.Unlock()
	if open != 1 {
		w.t.Errorf("%d extra sockets are open, want the path's", open)
	}
	pass(2 * time.Minute)
	if !both(a, b, Direct)() {
		w.t.Errorf("paths %+v and %+v", a.path(b), b.path(a))
	}
	return true
}

// A step that this version does not know counts as none, whatever it would be cut down to.
func TestUnknownStep(t *testing.T) {
	for s, want := range map[pb.HardNAT_Step]path.Step{
		-1: path.StepNone, 0: path.StepNone, pb.HardNAT_STEP_WISH: path.StepWish, pb.HardNAT_STEP_AGREED: path.StepAgreed,
		pb.HardNAT_STEP_READY: path.StepReady, pb.HardNAT_STEP_TRYING: path.StepTrying, 5: path.StepNone, 257: path.StepNone,
	} {
		if got := stepOf(s); got != want {
			t.Errorf("step %d is taken for %d", s, got)
		}
	}
}
