package traversal

import (
	"testing"
	"time"

	"warren/nat/path/pathtest"
)

// TestBirthday: two devices that know how their NATs map open sockets, agree over the relay, and find a direct path.
func TestBirthday(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Hard)
		for _, d := range w.devices {
			d.stop()
			d.start(func(c *Config) { c.Extra = d })
		}
		a.tr.SetMapping(MappingIndependent)
		b.tr.SetMapping(MappingDependent)
		w.meet(a, b)
		w.talk(a, b)
		w.within(100*time.Millisecond, "through the relay", func() bool { return a.path(b).Kind == Relay && b.path(a).Kind == Relay })
		w.within(15*time.Second, "direct", both(a, b, Direct))
		pass(time.Second)
		if p := b.path(a); p.Socket == 0 {
			t.Errorf("the hard side's path is %+v, want an extra socket", p)
		}
		w.mu.Lock()
		open := len(b.host.Extra)
		w.mu.Unlock()
		if open != 1 {
			t.Errorf("%d extra sockets are open, want the path's", open)
		}
		pass(2 * time.Minute)
		if !both(a, b, Direct)() {
			t.Errorf("paths %+v and %+v", a.path(b), b.path(a))
		}
	})
}
