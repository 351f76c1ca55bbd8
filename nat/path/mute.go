package path

import (
	"net/netip"
	"time"
)

// A peer can name any address, and so have us send checks to a third party. The rate of one peer's checks bounds how many come at once; mute
// bounds how many an address gets in all while it never answers, however often the peer calls and whatever ports it names. An honest peer behind
// NATs that only a relay gets through needs some 60 in a minute at most, once rounds are backed off.
const (
	muteBurst = 512 // checks to an address that has not answered
	muteRate  = 2   // ... and more in a second
	muteMax   = 64  // addresses of one peer that are told apart; those beyond share one allowance
)

// mute is what may still be sent to addresses that have not answered. The zero Addr stands for those beyond muteMax.
type mute map[netip.Addr]*bucket

// allows takes one check from an address's allowance, if there is one left.
func (m mute) allows(to netip.Addr, now time.Time) bool {
	b := m.of(to, now)
	if b.wait(now) > 0 {
		return false
	}
	b.take()
	return true
}

func (m mute) of(to netip.Addr, now time.Time) *bucket {
	b := m[to]
	if b == nil && len(m) >= muteMax {
		for a, old := range m { // whatever order: all that are full go
			if old.fill(now); old.tokens >= old.burst {
				delete(m, a)
			}
		}
		if len(m) >= muteMax {
			to = netip.Addr{}
			b = m[to]
		}
	}
	if b == nil {
		fresh := newBucket(muteRate, muteBurst, now)
		b = &fresh
		m[to] = b
	}
	return b
}

// heard forgets what was sent to an address: it answers.
func (m mute) heard(from netip.Addr) { delete(m, from) }

// kept is what outlives a session, so that a peer whose session ends and begins anew has no more sent to others than one whose session stays.
type kept struct {
	mute      mute
	huntAfter time.Time
	failed    int
}

// keep is for a session that ends. Of those that ended before, a few that have become worthless make room.
func (c *Core) keep(s *session) {
	looked := 0
	for id, k := range c.kept { // whatever order
		if !k.huntAfter.After(c.now) && k.mute.full(c.now) {
			delete(c.kept, id)
		}
		if looked++; looked == 4 {
			break
		}
	}
	if s.huntAfter.After(c.now) || !s.mute.full(c.now) {
		c.kept[s.id] = kept{s.mute, s.huntAfter, s.huntFailed}
	}
}

// resume gives a new session what was kept of the peer's last one.
func (c *Core) resume(s *session) {
	if k, ok := c.kept[s.id]; ok {
		s.mute, s.huntAfter, s.huntFailed = k.mute, k.huntAfter, k.failed
		delete(c.kept, s.id)
	}
}

// full reports whether every address has its whole allowance.
func (m mute) full(now time.Time) bool {
	for _, b := range m {
		if b.fill(now); b.tokens < b.burst {
			return false
		}
	}
	return true
}
