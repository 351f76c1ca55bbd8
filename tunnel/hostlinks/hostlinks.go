// Package hostlinks tells which networks the host is connected to: what package routeplan weighs routes against. Read gives them as they are now.
package hostlinks

import (
	"errors"
	"slices"

	"warren/tunnel/routeplan"
)

// ErrUnsupported says that this system's links cannot be read yet; no route is then weighed against them.
var ErrUnsupported = errors.New("connected networks cannot be read on this system yet")

// Reader keeps what is needed to tell whether a link still leads where it did. It is not safe for concurrent use.
type Reader struct {
	// Ignore is the tunnel's own interface.
	Ignore string

	known map[string]seen
	next  uint64
}

// seen is how a link was.
type seen struct {
	generation uint64
	link       string // what must stay as it is for the link to lead to the same place
}

// generation gives a link's, which is another one when its description is.
func (r *Reader) generation(name, description string) uint64 {
	if s, ok := r.known[name]; ok && s.link == description {
		return s.generation
	}
	if r.known == nil {
		r.known = map[string]seen{}
	}
	r.next++
	r.known[name] = seen{r.next, description}
	return r.next
}

// Forget has every link be taken for another: the host has slept, and may be elsewhere.
func (r *Reader) Forget() { r.known = nil }

// keep forgets links that are gone.
func (r *Reader) keep(links []routeplan.Link) {
	for name := range r.known {
		if !slices.ContainsFunc(links, func(l routeplan.Link) bool { return l.Interface == name }) {
			delete(r.known, name)
		}
	}
}
