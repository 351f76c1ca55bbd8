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
