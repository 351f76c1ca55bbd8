package server

import (
	"fmt"
	"slices"
	"time"
)

// instance is one start of an agent.
type instance struct {
	id       [16]byte
	hostname string
	remote   string
}

func (i instance) String() string { return fmt.Sprintf("host %q (%s)", i.hostname, i.remote) }

const (
	maxSuperseded = 8
	// supersededLife is how long a superseded instance is remembered.
	supersededLife = 24 * time.Hour
	// duplicateLife is how long the device list tells of a duplicate after it was last noticed.
	duplicateLife = 10 * time.Minute
)

// starts is what is remembered of the starts of one device's agent, to notice one key on two machines: an instance that comes back
// after another one took over shows that both are running, for a start that ended never comes back.
type starts struct {
	last       instance
	superseded []superseded // oldest first
	duplicate  string       // for a person
	noticedAt  time.Time
}

type superseded struct {
	instance
	at time.Time
}

// refuses decides whether me must not open a Watch, because another machine has one open with the same key.
func (p *starts) refuses(me instance, online bool, now time.Time) bool {
	p.superseded = slices.DeleteFunc(p.superseded, func(s superseded) bool { return now.Sub(s.at) > supersededLife })
	if me.id == p.last.id || !slices.ContainsFunc(p.superseded, func(s superseded) bool { return s.id == me.id }) {
		return false
	}
	p.duplicate = fmt.Sprintf("its key is in use on two machines: %s and %s", p.last, me)
	p.noticedAt = now
	return online
}

// take makes me the last instance.
func (p *starts) take(me instance, now time.Time) {
	if p.last.id != me.id && p.last != (instance{}) {
		p.superseded = append(p.superseded, superseded{p.last, now})
		if extra := len(p.superseded) - maxSuperseded; extra > 0 {
			p.superseded = slices.Delete(p.superseded, 0, extra)
		}
	}
	p.superseded = slices.DeleteFunc(p.superseded, func(s superseded) bool { return s.id == me.id })
	p.last = me
}

// warning tells of a duplicate noticed lately.
func (p *starts) warning(now time.Time) string {
	if p == nil || now.Sub(p.noticedAt) >= duplicateLife {
		return ""
	}
	return p.duplicate
}
