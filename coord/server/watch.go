package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"connectrpc.com/connect"

	"warren/coord/reason"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// watch is one open Watch stream. The hub pokes it, its own goroutine sends.
type watch struct {
	device key.DevicePublic
	role   pb.Role
	me     instance
	wake   chan struct{}

	mu       sync.Mutex
	presence map[rawKey]bool // not sent yet; one entry a peer at most
	closed   error
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

// close ends the stream for this reason.
func (w *watch) close(why error) {
	w.mu.Lock()
	if w.closed == nil {
		w.closed = why
	}
	w.mu.Unlock()
	w.poke()
}

// take gives what was queued.
func (w *watch) take() (presence map[rawKey]bool, closed error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.presence) > 0 {
		presence, w.presence = w.presence, map[rawKey]bool{}
	}
	return presence, w.closed
}

// closeError finds the reason that belongs to why a stream was closed.
func (s *Server) closeError(w *watch, why error) *connect.Error {
	if d := s.hub.device(w.device); d != nil && w.role == pb.Role_ROLE_DEVICE {
		switch {
		case d.Removed:
			return s.refuse(connect.CodePermissionDenied, reason.Removed, why)
		case !visible(d):
			return s.refuse(connect.CodePermissionDenied, reason.Expired, why)
		}
	}
	if r := s.hub.relay(w.device); r != nil && r.Removed {
		return s.refuse(connect.CodePermissionDenied, reason.Removed, why)
	}
	return s.refuse(connect.CodeAborted, reason.Superseded, why)
}

// Watch implements CoordinatorService.
func (a *agents) Watch(ctx context.Context, req *connect.Request[pb.WatchRequest], out *connect.ServerStream[pb.WatchResponse]) error {
	v, err := a.openSession(req.Msg.GetSessionToken())
	if err != nil {
		return connect.NewError(connect.CodeUnauthenticated, err)
	}
	now := a.cfg.Now()
	v.me.remote, v.me.at = remoteOf(req), now
	w := &watch{device: v.device, role: v.role, me: v.me, wake: make(chan struct{}, 1), presence: map[rawKey]bool{}}
	a.hub.join(w)
	defer a.leave(w, v)
	a.seen(ctx, v)
	// The stream may have been cut, or the device removed, between Login and now.
	if d := a.hub.device(w.device); w.role == pb.Role_ROLE_DEVICE && (d == nil || !visible(d)) {
		return a.closeError(w, errRemoved())
	}
	a.metrics.watches.Inc()
	defer a.metrics.watches.Dec()
	st := &stream{Server: a.Server, w: w, out: out, epoch: req.Msg.GetEpoch(), revision: req.Msg.GetRevision()}
	return st.run(ctx)
}

// seen notes in the store that a device was here; a failure is no reason to refuse it.
func (s *Server) seen(ctx context.Context, v session) {
	now := s.cfg.Now()
	if v.role != pb.Role_ROLE_DEVICE {
		return
	}
	s.hub.seen(v.device, now, v.me.hostname, v.os, v.version)
	err := s.store.Update(ctx, func(tx store.Tx) error { return tx.Seen(v.device, now, v.me.hostname, v.os, v.version) })
	if err != nil && ctx.Err() == nil {
		s.log.Warn("last contact not stored", "key", v.device.Short(), "err", err)
	}
}

func (s *Server) leave(w *watch, v session) {
	s.hub.leave(w)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s.seen(ctx, v)
}

// stream sends one Watch.
type stream struct {
	*Server
	w               *watch
	out             *connect.ServerStream[pb.WatchResponse]
	epoch, revision uint64
}

func (s *stream) run(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	keepAlive := time.NewTicker(s.cfg.KeepAlive)
	defer keepAlive.Stop()
	// Tickets and statements are good for MapMaxAge and are renewed at half of it.
	renew := time.NewTicker(s.cfg.MapMaxAge / 2)
	defer renew.Stop()
	for {
		presence, closed := s.w.take()
		if closed != nil {
			return s.closeError(s.w, closed)
		}
		if err := s.catchUp(ctx); err != nil {
			return err
		}
		if err := s.sendPresence(presence); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping:
			return s.refuse(connect.CodeUnavailable, reason.Stopping, errors.New("the coordinator is stopping"))
		case <-s.w.wake:
		case <-keepAlive.C:
			if err := s.send(&pb.WatchResponse{Event: &pb.WatchResponse_KeepAlive{KeepAlive: &pb.KeepAlive{ServerTime: timestamp(s.cfg.Now())}}}); err != nil {
				return err
			}
		case <-renew.C:
			if err := s.renew(); err != nil {
				return err
			}
		}
	}
}

func (s *stream) send(m *pb.WatchResponse) error { return s.out.Send(m) }

// begin greets, and brings a watcher that cannot resume up to date by a snapshot.
func (s *stream) begin(ctx context.Context) error {
	_, _, revision := s.hub.counts()
	hello := &pb.Hello{
		Epoch: s.network.Epoch, Revision: revision, SigningCertificate: s.certificate,
		ServerTime: timestamp(s.cfg.Now()), KeepAliveSeconds: uint32(max(1, s.cfg.KeepAlive/time.Second)),
	}
	if err := s.send(&pb.WatchResponse{Event: &pb.WatchResponse_Hello{Hello: hello}}); err != nil {
		return err
	}
	if err := s.sendTicket(); err != nil {
		return err
	}
	resumable, err := s.resumable(ctx, revision)
	if err != nil {
		return s.internal("watch", err)
	}
	if !resumable {
		return s.snapshot()
	}
	if err := s.catchUp(ctx); err != nil {
		return err
	}
	// Endpoints, relays and dates may have changed without a new revision.
	return s.sendStatement(s.hub.look(s.w.device, s.revision, false))
}

// resumable tells whether the log still has everything after the watcher's revision.
func (s *stream) resumable(ctx context.Context, newest uint64) (bool, error) {
	if s.epoch != s.network.Epoch || s.revision == 0 || s.revision > newest {
		return false, nil
	}
	var floor uint64
	err := s.store.View(ctx, func(tx store.Tx) (err error) {
		floor, err = tx.Floor()
		return err
	})
	return s.revision >= floor, err
}

func (s *stream) snapshot() error {
	v := s.hub.look(s.w.device, 0, true)
	begin := &pb.SnapshotBegin{Epoch: s.network.Epoch, Revision: v.revision}
	if err := s.send(&pb.WatchResponse{Event: &pb.WatchResponse_SnapshotBegin{SnapshotBegin: begin}}); err != nil {
		return err
	}
	for _, d := range v.devices {
		c := store.Change{Revision: v.revision, Kind: pb.Kind_KIND_DEVICE, ID: d.Key.Bytes(), Body: d.Signed}
		if visible(d) != (s.w.role == pb.Role_ROLE_DEVICE) {
			continue // a relay wants to know of the others only
		}
		if !visible(d) && !d.Removed {
			c.Body = nil
		}
		if err := s.sendChange(c); err != nil {
			return err
		}
	}
	s.revision = v.revision
	if err := s.sendStatement(v); err != nil {
		return err
	}
	end := &pb.SnapshotEnd{Epoch: s.network.Epoch, Revision: v.revision}
	return s.send(&pb.WatchResponse{Event: &pb.WatchResponse_SnapshotEnd{SnapshotEnd: end}})
}

// catchUp sends what was published since the last time, and the statement that goes with it.
func (s *stream) catchUp(ctx context.Context) error {
	v := s.hub.look(s.w.device, s.revision, false)
	if v.revision == s.revision {
		return nil
	}
	if v.behind {
		if err := s.readLog(ctx, v.revision); err != nil {
			return err
		}
		return s.sendStatement(v)
	}
	for _, c := range v.changes {
		if err := s.sendChange(c); err != nil {
			return err
		}
		s.revision = c.Revision
	}
	s.revision = v.revision
	return s.sendStatement(v)
}

// readLog sends changes up to revision from the store.
func (s *stream) readLog(ctx context.Context, revision uint64) error {
	const page = 512
	for s.revision < revision {
		var changes []store.Change
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			changes, err = tx.Changes(s.revision, page)
			return err
		})
		if err != nil {
			return s.internal("watch", err)
		}
		for _, c := range changes {
			if c.Revision > revision {
				break
			}
			if err := s.sendChange(c); err != nil {
				return err
			}
			s.revision = c.Revision
		}
		if len(changes) < page {
			s.revision = revision
		}
	}
	return nil
}

// sendChange sends c if it concerns the watcher, in the form that its role wants.
func (s *stream) sendChange(c store.Change) error {
	if c.Kind != pb.Kind_KIND_DEVICE || (!c.Audience.IsZero() && !c.Audience.Equal(s.w.device)) {
		return nil
	}
	m := &pb.Change{Epoch: s.network.Epoch, Revision: c.Revision, Kind: c.Kind, Id: c.ID}
	if s.w.role == pb.Role_ROLE_RELAY {
		m.Kind = pb.Kind_KIND_BLOCKED
		d, err := key.DevicePublicFromBytes(c.ID)
		if err != nil {
			return s.internal("watch", err)
		}
		if dev := s.hub.device(d); dev == nil || visible(dev) {
			m.Content = &pb.Change_Unseen{Unseen: &pb.Unseen{}}
		} else {
			m.Content = &pb.Change_Body{Body: dev.Signed}
		}
	} else if c.Body != nil {
		m.Content = &pb.Change_Body{Body: c.Body}
	} else {
		m.Content = &pb.Change_Unseen{Unseen: &pb.Unseen{}}
	}
	return s.send(&pb.WatchResponse{Event: &pb.WatchResponse_Change{Change: m}})
}

func (s *stream) sendStatement(v view) error {
	if s.w.role != pb.Role_ROLE_DEVICE {
		return nil
	}
	signed, err := s.statement(s.w.device, v)
	if err != nil {
		return s.internal("watch", err)
	}
	return s.send(&pb.WatchResponse{Event: &pb.WatchResponse_Change{Change: &pb.Change{
		Epoch: s.network.Epoch, Revision: v.revision, Kind: pb.Kind_KIND_STATEMENT, Content: &pb.Change_Body{Body: signed},
	}}})
}

func (s *stream) sendTicket() error {
	if s.w.role != pb.Role_ROLE_DEVICE {
		return nil
	}
	now := s.cfg.Now()
	t, err := record.SignTicket(s.id.signing, s.network.ID, s.w.device, now, now.Add(s.cfg.MapMaxAge))
	if err != nil {
		return s.internal("watch", err)
	}
	return s.send(&pb.WatchResponse{Event: &pb.WatchResponse_Ticket{Ticket: t}})
}

func (s *stream) renew() error {
	if err := s.sendTicket(); err != nil {
		return err
	}
	v := s.hub.look(s.w.device, s.revision, false)
	if v.revision != s.revision {
		return nil // a new statement is on its way anyway
	}
	return s.sendStatement(v)
}

func (s *stream) sendPresence(presence map[rawKey]bool) error {
	for k, online := range presence {
		err := s.send(&pb.WatchResponse{Event: &pb.WatchResponse_Presence{Presence: &pb.Presence{DeviceKey: k[:], Online: online}}})
		if err != nil {
			return err
		}
	}
	return nil
}
