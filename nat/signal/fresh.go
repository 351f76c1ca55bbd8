package signal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
)

// A signal must be new: whoever carries signals may keep them, and bring old ones again. Clocks are no help, since they may be set, and a device
// remembers nothing of its peers across a restart. So each Box draws a number by which its signals are told from those of other starts, and a
// challenge; it counts its signals, and echoes the peer's last challenge in each:
//
//   - Of the start that is known, a signal is accepted if it counts more than the last.
//   - Another start is accepted if it echoes our challenge. Then we draw another one, so that nothing that was ever sent before can be accepted as a
//     start again. If it does not, we ask for it again, echoing its own challenge, so that the answer is accepted whatever the peer knows.
//   - While no start is known, because it is we that have begun anew, any is accepted, so that a first call costs no question. What it says may be
//     old: a start is not proven until it echoes our challenge, and until then only candidates, call, view and relays of its signals count.
//
// After a restart of either side that costs a round trip by the relay at most, and nothing otherwise.
type freshness struct {
	self, sent uint64
	challenge  uint64

	peer, received uint64 // the start that is known, 0 for none, and its last count
	proven         bool
	theirs         uint64 // the peer's last challenge
	asked          uint64 // the challenge of a signal that was not accepted, for the next of ours; 0 for none
}

// stamp is what a signal carries for that.
type stamp struct{ start, sequence, challenge, echo uint64 }

// Errors of Box.Open for authentic signals.
var (
	ErrReplay = errors.New("signal is not newer than the last")
	// ErrStart asks for a signal in return, of pb.Talk_TALK_AGAIN, upon which the peer says again what it has to say.
	ErrStart = errors.New("signal is of another start of the peer, or a replay of one")
)

func newFreshness() freshness { return freshness{self: draw(), challenge: draw()} }

// draw gives a number that was never drawn before. It is not 0.
func draw() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return max(binary.NativeEndian.Uint64(b[:]), 1)
}

// next is the stamp of the next signal.
func (f *freshness) next() stamp {
	f.sent++
	echo := f.theirs
	if f.asked != 0 {
		echo, f.asked = f.asked, 0
	}
	return stamp{f.self, f.sent, f.challenge, echo}
}

// check says whether a signal is new. It changes nothing but what the next of ours echoes.
func (f *freshness) check(s stamp) error {
	switch {
	case s.start == 0 || s.sequence == 0 || s.challenge == 0:
		return fmt.Errorf("%w: it has no stamp", ErrFormat)
	case s.start == f.peer:
		if s.sequence <= f.received {
			return fmt.Errorf("%w: %d after %d", ErrReplay, s.sequence, f.received)
		}
	case f.peer != 0 && s.echo != f.challenge:
		f.asked = s.challenge
		return ErrStart
	}
	return nil
}

// accept takes a signal that check has found new, and reports whether it is proven.
func (f *freshness) accept(s stamp) (proven bool) {
	echoed := s.echo == f.challenge
	f.proven = f.proven || echoed // another start than the one that is known has echoed
	if s.start != f.peer && echoed {
		f.challenge = draw()
	}
	f.peer, f.received, f.theirs, f.asked = s.start, s.sequence, s.challenge, 0
	return f.proven
}
