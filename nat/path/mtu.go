package path

import (
	"fmt"
	"slices"
	"time"
)

// The largest packet that a direct path carries is found by padded checks (RFC 8899 calls this DPLPMTUD). The checks by which consent is kept
// are as long as the largest packet that may be sent: if they alone go unanswered while short ones come back, the path has become a black
// hole for long packets, and all sizes are tried at once.

const (
	// overhead is what WireGuard adds to a packet: type, receiver, counter and tag.
	overhead = 32
	// DefaultMTU is the interface's until SetMTU tells another.
	DefaultMTU = 1420
	// safeMTU is what is used while the sizes are being tried: IPv6 allows no less (RFC 8200 section 5).
	safeMTU = 1280

	smallest  = 576 // RFC 791: every host takes that
	longTries = 3   // padded checks of one size
	longMax   = 64  // padded checks of one pair that are remembered
	longLost  = 2   // so many unanswered, with short ones answered since, make a black hole
)

// sizes gives the packet sizes that are tried, largest first. Those below the interface's MTU are multiples of 16, since WireGuard pads to them.
func sizes(full int) []int {
	out := []int{full}
	for _, n := range [...]int{8896, 4000, 1408, 1392, 1376, 1360, 1344, 1328, 1312, 1296, safeMTU, 1200, 1008, smallest} {
		if n < full {
			out = append(out, n)
		}
	}
	return out
}

// long is what is known of long packets on a pair.
type long struct {
	mtu    int // largest packet known to get through; 0: not known
	limit  int // what is used now: the interface's MTU until something smaller is proven
	trying bool
	tries  int
	next   time.Time // of the tries
	missed int       // padded checks lost while short ones were answered
	unsure bool      // one got no answer, and no short one has been answered since
	sent   []longProbe
}

type longProbe struct {
	at   time.Time
	size int
}

// MTU is the largest packet for the path in use; 0 for a relay.
func (s *session) mtu() int {
	if s.current == nil {
		return 0
	}
	if l := s.current.long.limit; l > 0 {
		return min(l, s.c.mtu)
	}
	return s.c.mtu
}

// wantsLong says how long the next check of the path in use is to be; 0: as short as it is. After an unanswered check short ones
// take turns with padded ones, so that a fault is told from a black hole.
func (s *session) wantsLong(p *pair) int {
	if len(p.missed)%2 == 1 || p.long.trying || p.long.unsure {
		return 0
	}
	return s.mtu()
}

// noteLong remembers a padded check.
func (p *pair) noteLong(at time.Time, size int) {
	if len(p.long.sent) == longMax {
		p.long.sent = slices.Delete(p.long.sent, 0, 1)
	}
	p.long.sent = append(p.long.sent, longProbe{at, size})
}

// answeredLong takes the answer to a padded check.
func (s *session) answeredLong(p *pair, size int, sent time.Time) {
	p.long.missed = 0
	p.long.sent = slices.DeleteFunc(p.long.sent, func(l longProbe) bool { return l.size <= size && !l.at.After(sent) })
	if size <= p.long.mtu {
		return
	}
	p.long.mtu = size
	if !p.long.trying || p.long.limit < size {
		p.long.limit = size
	}
	if size >= s.c.mtu {
		p.long.trying, p.long.limit = false, 0
	}
	if p == s.current {
		s.announceMTU()
	}
}

// superviseLong counts the padded checks that got lost, sends the tries of all sizes, and says when it wants to look again.
func (s *session) superviseLong(p *pair) time.Time {
	now, l := s.c.now, &p.long
	var due time.Time
	l.unsure = false
	l.sent = slices.DeleteFunc(l.sent, func(o longProbe) bool {
		if late := o.at.Add(p.timeout()); late.After(now) {
			due = earlier(due, late)
			return false
		}
		lost := p.lastAnswer.After(o.at) // else the whole path may be down
		switch {
		case o.size != s.mtu() || l.trying:
			return true
		case lost:
			l.missed++
		default:
			l.unsure = true
		}
		return lost
	})
	if l.missed >= longLost && !l.trying {
		*l = long{trying: true, next: now, limit: min(safeMTU, s.c.mtu)}
		s.announceMTU()
	}
	if !l.trying {
		return due
	}
	if !l.next.After(now) {
		s.tryLong(p)
	}
	return earlier(due, l.next)
}

// tryLong sends one padded check of each size that may still get through, or ends the tries with what has been found.
func (s *session) tryLong(p *pair) {
	l := &p.long
	if l.tries++; l.tries > longTries {
		l.trying, l.next = false, time.Time{}
		l.limit = max(l.mtu, smallest)
		s.announceMTU()
		return
	}
	l.next = s.c.now.Add(p.timeout())
	for _, size := range sizes(s.c.mtu) {
		if size > l.mtu {
			s.sendCheck(p, size)
		}
	}
}

// growLong tries once whether a path that carried less has come to carry all.
func (s *session) growLong() {
	if p := s.current; p != nil && !p.long.trying && p.long.limit > 0 && p.long.limit < s.c.mtu {
		s.sendCheck(p, s.c.mtu)
	}
}

func (s *session) announceMTU() {
	m := s.mtu()
	if s.current == nil || s.published.Kind != Direct || m == s.published.MTU {
		return
	}
	s.published.MTU = m
	s.c.emit(SetMTU{Peer: s.id, MTU: m, Reason: fmt.Sprintf("packets of %d bytes are the longest that get through", m)})
}

// apply takes the interface's MTU.
func (e InterfaceMTU) apply(c *Core) {
	mtu := e.MTU &^ 3 // a STUN message has whole words
	if mtu == c.mtu || mtu < safeMTU {
		return
	}
	c.mtu = mtu
	c.each(func(s *session) {
		for _, p := range s.pairs {
			p.long = long{}
		}
		s.announceMTU()
	})
}
