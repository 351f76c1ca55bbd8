package traversal

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"warren/nat/path"
	"warren/nat/signal"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// historyMax is how many changes of a peer's path are kept.
const historyMax = 20

// askersMax is how many calls of Ask may wait for one peer.
const askersMax = 16

// tellEvery is how often a peer that asks is told: it may ask as often as it likes.
const tellEvery = 500 * time.Millisecond

// ErrUnknownPeer says that a node key is nobody's in the map.
var ErrUnknownPeer = errors.New("not a peer of this network")

// Change is one change of a peer's path. The fields are those of Path.
type Change struct {
	At            time.Time
	Kind          Kind
	Local, Remote netip.AddrPort
	Relay         string
	MTU           int
	Cause         path.Cause
	Reason        string // for a person
}

// Explanation is what is known of one peer, for people.
type Explanation struct {
	path.Explanation
	// Path is the published one, with the relay's name.
	Path Path
	// History holds the last changes of the path, oldest first.
	History []Change
	// Own is our view of our network and of the path to the peer. Theirs is the peer's word about its own, as of TheirsAt; that is zero if it
	// never told.
	Own, Theirs signal.View
	TheirsAt    time.Time
}

// SetView tells what is known of this device's network, which goes along with each signal. Its path and MTU are ignored.
func (t *Traversal) SetView(v signal.View) { t.tell(func(o *owner) { o.view = v }) }

// Explain asks Run what is known of a peer. It waits until Run answers or ctx ends.
func (t *Traversal) Explain(ctx context.Context, node key.NodePublic) (Explanation, error) {
	type outcome struct {
		e  Explanation
		ok bool
	}
	done := make(chan outcome, 1)
	t.tell(func(o *owner) {
		e, ok := o.explain(node)
		done <- outcome{e, ok}
	})
	select {
	case r := <-done:
		if !r.ok {
			return Explanation{}, fmt.Errorf("%s: %w", node.Short(), ErrUnknownPeer)
		}
		return r.e, nil
	case <-ctx.Done():
		return Explanation{}, context.Cause(ctx)
	}
}

// Ask has a peer tell its view, and waits until it did or ctx ends. It reports whether it told.
func (t *Traversal) Ask(ctx context.Context, node key.NodePublic) bool {
	told := make(chan bool, 1)
	t.tell(func(o *owner) { o.ask(node, told) })
	select {
	case ok := <-told:
		return ok
	case <-ctx.Done():
		return false
	}
}

// Histories are the last changes of all paths, by node key, each oldest first.
func (t *Traversal) Histories() map[[key.Size]byte][]Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[[key.Size]byte][]Change, len(t.histories))
	for node, h := range t.histories {
		out[node] = slices.Clone(h)
	}
	return out
}

func (o *owner) explain(node key.NodePublic) (e Explanation, ok bool) {
	id, ok := o.byNode[node.Raw()]
	if !ok {
		return e, false
	}
	p := o.peers[id]
	e.Explanation = o.core.Explain(id)
	o.t.mu.Lock()
	defer o.t.mu.Unlock()
	e.Path, e.History = o.t.paths[p.Node.Raw()], slices.Clone(o.t.histories[p.Node.Raw()])
	e.Own, e.Theirs, e.TheirsAt = o.viewOf(e.Path), p.theirs, p.theirsAt
	return e, true
}

// viewOf is our view with a peer's path.
func (o *owner) viewOf(p Path) signal.View {
	v := o.view
	switch p.Kind {
	case Direct:
		v.Path = pb.PathKind_PATH_KIND_DIRECT
	case Relay:
		v.Path = pb.PathKind_PATH_KIND_RELAY
	default:
		v.Path = pb.PathKind_PATH_KIND_NONE
	}
	v.MTU = uint16(min(max(p.MTU, 0), 1<<16-1))
	return v
}

func (o *owner) viewFor(p *peer) signal.View {
	o.t.mu.Lock()
	defer o.t.mu.Unlock()
	return o.viewOf(o.t.paths[p.Node.Raw()])
}

// ask sends a question and remembers who waits for its answer.
func (o *owner) ask(node key.NodePublic, told chan<- bool) {
	id, ok := o.byNode[node.Raw()]
	if !ok || len(o.peers[id].askers) >= askersMax {
		told <- false
		return
	}
	p := o.peers[id]
	if !o.seal(id, p, signal.Signal{Talk: pb.Talk_TALK_ASK, View: o.viewFor(p)}) {
		told <- false
		return
	}
	p.askers = append(p.askers, told)
}

// talk takes what an authentic signal of a peer says about its view. It reports whether that is all the signal is for.
func (o *owner) talk(id path.ID, p *peer, s signal.Signal) bool {
	if s.View != (signal.View{}) {
		p.theirs, p.theirsAt = s.View, time.Now()
	}
	switch s.Talk {
	case pb.Talk_TALK_ASK:
		if now := time.Now(); now.Sub(p.toldAt) >= tellEvery {
			p.toldAt = now
			o.seal(id, p, signal.Signal{Talk: pb.Talk_TALK_TELL, View: o.viewFor(p)})
		}
		return true
	case pb.Talk_TALK_TELL:
		for _, told := range p.askers {
			told <- true
		}
		p.askers = nil
		return true
	case pb.Talk_TALK_AGAIN:
		if len(p.askers) > 0 {
			o.seal(id, p, signal.Signal{Talk: pb.Talk_TALK_ASK, View: o.viewFor(p)})
		}
		o.handle(path.Again{Peer: id})
		return true
	}
	return false
}

// note adds to a peer's history what differs from the last entry. The caller does not hold t.mu.
func (t *Traversal) note(node [key.Size]byte, p Path, cause path.Cause, reason string) {
	c := Change{time.Now(), p.Kind, p.Local, p.Remote, p.Relay, p.MTU, cause, reason}
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.histories[node]
	if n := len(h); n > 0 && h[n-1].Kind == c.Kind && h[n-1].Local == c.Local && h[n-1].Remote == c.Remote && h[n-1].Relay == c.Relay && h[n-1].MTU == c.MTU {
		return
	}
	if len(h) == historyMax {
		h = slices.Delete(h, 0, 1)
	}
	t.histories[node] = append(h, c)
}
