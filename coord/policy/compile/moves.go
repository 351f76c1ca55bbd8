package compile

import (
	"slices"
	"time"

	"warren/coord/policy"
)

// Move is how the peers of one device changed with the policy or with time.
type Move struct {
	ID           ID
	Gained, Lost []ID
	// Many says that there are more than was asked for, and that the lists are empty.
	Many bool
}

// SetPolicyMoves is SetPolicy, and tells how the peers of each device changed; of devices with more than most changes, only that.
func (c *Compiler) SetPolicyMoves(p *policy.Policy, now time.Time, most int) (Update, []Move) {
	before := *c // SetPolicy makes a program and member sets of its own
	u := c.SetPolicy(p, now)
	return u, c.moves(&before, u, most)
}

// AdvanceMoves is Advance, and tells the same as SetPolicyMoves.
func (c *Compiler) AdvanceMoves(now time.Time, most int) (Update, []Move, time.Time) {
	before, program := *c, *c.program
	before.program = &program
	program.rules = make([]*rule, len(c.program.rules))
	for i, r := range c.program.rules {
		was := *r
		program.rules[i] = &was
	}
	u, next := c.Advance(now)
	return u, c.moves(&before, u, most), next
}

// moves compares the peers of the devices in u.
func (c *Compiler) moves(before *Compiler, u Update, most int) (out []Move) {
	for _, id := range u.Changed {
		slot := c.slots[id]
		was, is := before.peers(slot), c.peers(slot)
		gained, lost := is.without(was), was.without(is)
		n := gained.count() + lost.count()
		switch {
		case n > most:
			out = append(out, Move{ID: id, Many: true})
		case n > 0:
			out = append(out, Move{ID: id, Gained: slices.Collect(c.ids(gained)), Lost: slices.Collect(c.ids(lost))})
		}
	}
	return out
}
