package path_test

import (
	"testing"
	"time"

	"warren/nat/path"
)

// A NAT that maps anew lets its own side's packets through and loses the other's, which is told by nothing but the checks that come from a new
// address.
func TestMappedAnew(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.add(hard), s.add(none)
	s.run(time.Second)
	a.flow(b, 20*time.Millisecond, false)
	b.flow(a, 20*time.Millisecond, false)
	s.run(5 * time.Second)
	if kinds(a, b) != bothDirect {
		t.Fatalf("paths %v", kinds(a, b))
	}
	before := b.link(a.id).path.Remote
	a.host.Box.Forget()
	took := s.until("b sends to the new mapping", func() bool {
		p := b.link(a.id).path
		return p.Kind == path.Direct && p.Remote != before
	})
	if took > time.Second {
		t.Errorf("b went on sending to the old mapping for %s", took)
	}
}
