package server

import (
	"context"
	"maps"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"warren/coord/domain"
	"warren/coord/store"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// watch is one open Watch stream. The hub pokes it, its own goroutine sends.
type watch struct {
	device key.DevicePublic
	role   pb.Role
	me     instance
	wake   chan struct{}
	gone   chan struct{} // closed when the stream has ended

	host       domain.Host
	grantPeers bool // it knows grants that name peers by bits

	// The hub's mu guards these.
	queue  []store.Change // published, not taken
	behind bool           // queue was too short

	mu       sync.Mutex
	presence map[rawKey]bool // not sent yet; one entry a peer at most
	wanted   *pb.FlowsWanted // not sent yet
	closed   *connect.Error
}

func newWatch(v session) *watch {
	return &watch{
		device: v.device, role: v.role, me: v.me, host: v.host,
		wake: make(chan struct{}, 1), gone: make(chan struct{}), presence: map[rawKey]bool{},
	}
}

// poke makes the stream look at the hub.
func (w *watch) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// tell queues a peer's presence.
func (w *watch) tell(peer key.DevicePublic, online bool) {
	w.mu.Lock()
	w.presence[peer.Raw()] = online
	w.mu.Unlock()
	w.poke()
}

// forget takes back what was queued of a peer's presence.
func (w *watch) forget(peer key.DevicePublic) {
	w.mu.Lock()
	delete(w.presence, peer.Raw())
	w.mu.Unlock()
}

// ask queues a question, in place of one that was not sent yet.
func (w *watch) ask(m *pb.FlowsWanted) {
	w.mu.Lock()
	w.wanted = m
	w.mu.Unlock()
	w.poke()
}

// question gives what was queued by ask, or nil.
func (w *watch) question() *pb.FlowsWanted {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.wanted
	w.wanted = nil
	return m
}

// close ends the stream for this reason.
func (w *watch) close(why *connect.Error) {
	w.mu.Lock()
	if w.closed == nil {
		w.closed = why
	}
	w.mu.Unlock()
	w.poke()
}

// take moves what was queued into presence.
func (w *watch) take(presence map[rawKey]bool) (closed *connect.Error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.Copy(presence, w.presence)
	clear(w.presence)
	return w.closed
}

// Watch implements CoordinatorService.
func (a *agents) Watch(ctx context.Context, req *connect.Request[pb.WatchRequest], out *connect.ServerStream[pb.WatchResponse]) error {
	v, err := a.openSession(req.Msg.GetSessionToken())
	if err != nil {
		return a.refuse(connect.CodeUnauthenticated, whySession, err)
	}
	v.me.remote = remoteOf(req)
	w := newWatch(v)
	w.grantPeers = req.Msg.GetKnowsGrantPeers()
	defer close(w.gone)
	if refused := a.hub.join(w, a.cfg.Now()); refused != nil {
		return refused
	}
	defer func() { a.hub.leave(w, a.cfg.Now()) }()
	a.metrics.watches.Inc()
	defer a.metrics.watches.Dec()
	st := &stream{
		Server: a.Server, w: w, out: out, deadline: deadlineOf(ctx), epoch: req.Msg.GetEpoch(), revision: req.Msg.GetRevision(),
		presence: map[rawKey]bool{},
	}
	defer st.deadline(time.Time{}) // the connection may serve other calls
	return st.run(ctx)
}

type deadlineKey struct{}

// withDeadlines lets handlers bound how long a single write may block: a peer that is gone without a word, or does not read, must not
// hold a stream for ever.
func withDeadlines(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		set := http.NewResponseController(w).SetWriteDeadline
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), deadlineKey{}, set)))
	})
}

// deadlineOf gives the function that withDeadlines left.
func deadlineOf(ctx context.Context) func(time.Time) {
	set, _ := ctx.Value(deadlineKey{}).(func(time.Time) error)
	return func(t time.Time) {
		if set != nil {
			_ = set(t) // a server that knows no deadlines does without
		}
	}
}
