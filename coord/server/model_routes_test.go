package server

import (
	"fmt"
	"slices"
	"strings"
)

// worldRoutes are what gateways of a world offer; the policy may approve the first.
var worldRoutes = []string{"10.1.0.0/16", "10.2.0.0/16", "fd01::/48"}

// worldGateway is what a device offers to carry, and what a person said of each: "approved" or "revoked".
type worldGateway struct {
	offers   []string
	said     map[string]string
	priority int
}

// approves reports whether the policy lets d carry p by itself.
func (w *world) approves(d *worldDevice, p string) bool {
	return p == worldRoutes[0] && slices.ContainsFunc(w.approvers, d.is)
}

// carries gives the routes of d in order, and those that wait.
func (w *world) carries(d *worldDevice) (routes, waiting []string) {
	for _, p := range d.offers {
		if said := d.said[p]; said == "approved" || said == "" && w.approves(d, p) {
			routes = append(routes, p)
		} else {
			waiting = append(waiting, p)
		}
	}
	return routes, waiting
}

func (w *world) siblings(a, b *worldDevice) bool {
	if a == b || !a.member() || !b.member() {
		return false
	}
	x, _ := w.carries(a)
	y, _ := w.carries(b)
	return slices.ContainsFunc(x, func(p string) bool { return slices.Contains(y, p) })
}

// lacksRoutes tells in what the routes that d knows differ from what the world says.
func (w *world) lacksRoutes(d *worldDevice, f *follower) string {
	var want []string
	mine, waiting := w.carries(d)
	if got := f.waiting(); got != strings.Join(waiting, " ") {
		return fmt.Sprintf("the routes that wait: %q, want %q", got, waiting)
	}
	for _, o := range w.devices {
		if o != d && !w.sees(d, o) {
			continue
		}
		routes, _ := w.carries(o)
		if got := fmt.Sprint(f.peers[o.key.Public().Raw()].Routes); got != fmt.Sprint(routes) {
			return fmt.Sprintf("the routes in the record of %s: %s, want %s", o.hostname, got, routes)
		}
		for _, p := range routes {
			if o != d && (slices.Contains(mine, p) || w.reachesBehind(d, o)) {
				want = append(want, fmt.Sprintf("%s %s %d", p, f.peers[o.key.Public().Raw()].Name, o.priority))
			}
		}
	}
	got := strings.Split(f.mapRoutes(), "; ")
	slices.Sort(got)
	slices.Sort(want)
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		return fmt.Sprintf("the right routes: has %s, want %s", got, want)
	}
	return ""
}

// reachesBehind reports whether a grant is about d and what lies behind o.
func (w *world) reachesBehind(d, o *worldDevice) bool {
	return d.member() && o.member() && slices.ContainsFunc(w.grants, func(g worldGrant) bool {
		return g.open(w.now()) && (g.dst == "*" && d.is(g.src) || g.src == "*" && g.dst != "autogroup:self" && d.is(g.dst))
	})
}

// advertiseSomething has a device offer some of worldRoutes.
func (w *world) advertiseSomething() bool {
	d := w.pick((*worldDevice).member)
	if d == nil {
		return false
	}
	before := d.offers
	d.offers, d.priority = nil, 1+w.rng.IntN(2)
	again := w.rng.IntN(2) == 0
	var texts []string
	for _, p := range worldRoutes {
		if again && slices.Contains(before, p) || !again && w.rng.IntN(2) == 0 {
			d.offers = append(d.offers, p)
			texts = append(texts, fmt.Sprintf("%d@%s", d.priority, p))
		}
	}
	w.rng.Shuffle(len(texts), func(i, j int) { texts[i], texts[j] = texts[j], texts[i] })
	d.advertise(texts...)
	return true
}

// ruleSomething has an administrator approve or revoke.
func (w *world) ruleSomething() bool {
	d := w.pick(func(d *worldDevice) bool { return d.member() && len(d.offers) > 0 })
	if d == nil {
		return false
	}
	p, name := d.offers[w.rng.IntN(len(d.offers))], w.srv.hub.device(d.key.Public()).Name
	if d.said == nil {
		d.said = map[string]string{}
	}
	if w.rng.IntN(3) > 0 {
		w.approveRoutes(name, p)
		d.said[p] = "approved"
		return true
	}
	w.revokeRoutes(name, p)
	d.said[p] = "revoked"
	return true
}
