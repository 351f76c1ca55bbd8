package server

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"warren/coord/reason"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// statementGap is the least time between two statements on one Watch. While many devices come and go, records are sent at once, and one
// statement signs for all of them.
const statementGap = 100 * time.Millisecond

// stream sends one Watch.
type stream struct {
	*Server
	w               *watch
	out             *connect.ServerStream[pb.WatchResponse]
	deadline        func(time.Time)
	epoch, revision uint64
	begun           bool // something was sent by which the watcher has a map
	// owed says that the watcher's statement is out of date; nextStatement fires when it may be sent.
	owed          bool
	nextStatement *time.Timer
	// presence waits for the statement that lets the watcher use the records of those devices.
	presence map[rawKey]bool
}

func (s *stream) run(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	keepAlive := time.NewTicker(s.cfg.KeepAlive)
	defer keepAlive.Stop()
	// Tickets and statements are good for MapMaxAge and are renewed before half of it has passed.
	renew := time.NewTicker(s.cfg.MapMaxAge * 2 / 5)
	defer renew.Stop()
	defer s.stopGap()
	for {
		if err := s.step(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping:
			return s.refuse(connect.CodeUnavailable, reason.Stopping, errors.New("the coordinator is stopping"))
		case <-s.w.wake:
		case <-s.gapOver():
			s.nextStatement = nil
		case <-keepAlive.C:
			if err := s.send(&pb.WatchResponse{Event: &pb.WatchResponse_KeepAlive{KeepAlive: &pb.KeepAlive{ServerTime: timestamp(s.cfg.Now())}}}); err != nil {
				return err
			}
		case <-renew.C:
			s.owed = true
			if err := s.sendTicket(); err != nil {
				return err
			}
		}
	}
}

// step sends what there is to send. Presence is taken first and sent last, so that whoever is online has been summed up by a statement.
func (s *stream) step(ctx context.Context) error {
	if closed := s.w.take(s.presence); closed != nil {
		return closed
	}
	if q := s.w.question(); q != nil {
		if err := s.send(&pb.WatchResponse{Event: &pb.WatchResponse_FlowsWanted{FlowsWanted: q}}); err != nil {
			return err
		}
	}
	if err := s.catchUp(ctx); err != nil {
		return err
	}
	if s.owed {
		return nil
	}
	return s.sendPresence()
}

func (s *stream) gapOver() <-chan time.Time {
	if s.nextStatement == nil {
		return nil
	}
	return s.nextStatement.C
}

func (s *stream) stopGap() {
	if s.nextStatement != nil {
		s.nextStatement.Stop()
	}
}

// send gives up on a watcher that takes nothing for as long as it would wait for us.
func (s *stream) send(m *pb.WatchResponse) error {
	s.deadline(time.Now().Add(s.cfg.KeepAlive * 8 / 3))
	return s.out.Send(m)
}

// begin greets, and brings a watcher that cannot resume up to date by a snapshot.
func (s *stream) begin(ctx context.Context) error {
	revision := s.hub.newest() // what comes later is queued, for the watch has joined
	hello := &pb.Hello{
		Epoch: s.network.Epoch, Revision: revision, SigningCertificate: s.certificate,
		ServerTime: timestamp(s.cfg.Now()), KeepAliveSeconds: uint32(max(1, s.cfg.KeepAlive/time.Second)),
		ReturnWithinMilliseconds: uint32(s.hub.returnWithin().Milliseconds()),
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
	s.begun = true
	s.owed = true // endpoints, relays and dates may have changed without a new revision
	return s.readLog(ctx, revision)
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
	v := s.hub.snapshot(s.w, s.begun)
	s.begun = true
	begin := &pb.SnapshotBegin{Epoch: s.network.Epoch, Revision: v.revision}
	if err := s.send(&pb.WatchResponse{Event: &pb.WatchResponse_SnapshotBegin{SnapshotBegin: begin}}); err != nil {
		return err
	}
	for _, d := range v.devices {
		c := store.Change{Revision: v.revision, Kind: pb.Kind_KIND_DEVICE, ID: d.Key.Bytes(), Body: d.Signed}
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

// catchUp sends what was published since the last time and, once that is all and a statement is due, the statement for it.
func (s *stream) catchUp(ctx context.Context) error {
	for {
		v := s.hub.take(s.w)
		if v.behind {
			if err := s.readLog(ctx, v.revision); err != nil {
				return err
			}
			continue
		}
		if err := s.sendChanges(v.changes); err != nil {
			return err
		}
		s.revision = max(s.revision, v.revision)
		if len(v.changes) > 0 {
			continue // sending took time; there may be more
		}
		if !s.owed || s.nextStatement != nil {
			return nil
		}
		return s.sendStatement(v)
	}
}

// sendChanges sends what was queued. A snapshot has all that was queued behind it.
func (s *stream) sendChanges(changes []store.Change) error {
	for _, c := range changes {
		if c.Kind == store.KindResnapshot {
			return s.snapshot()
		}
		if err := s.sendChange(c); err != nil {
			return err
		}
	}
	return nil
}

// readLog sends the changes up to a revision that the store has and that were not kept in memory for this watcher.
func (s *stream) readLog(ctx context.Context, upTo uint64) error {
	const page = 512
	for s.revision < upTo {
		var changes []store.Change
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			changes, err = tx.Changes(s.revision, s.w.device, page)
			return err
		})
		if err != nil {
			return s.internal("watch", err)
		}
		for _, c := range changes {
			switch {
			case c.Revision > upTo:
				s.revision = upTo // the rest is in the queue
				return nil
			case c.Kind == store.KindResnapshot:
				return s.snapshot()
			case !s.hub.concerns(s.w, c):
			default:
				if err := s.sendChange(c); err != nil {
					return err
				}
			}
			s.revision = c.Revision
		}
		if len(changes) < page {
			s.revision = max(s.revision, upTo) // the newest rows may be gone, replaced or pruned
		}
	}
	return nil
}

// sendChange sends c in the form that the watcher's role wants.
func (s *stream) sendChange(c store.Change) error {
	relay := s.w.role == pb.Role_ROLE_RELAY
	s.owed = s.owed || !relay && c.Kind != pb.Kind_KIND_BLOCKED
	if c.Kind != pb.Kind_KIND_DEVICE && (c.Kind != pb.Kind_KIND_BLOCKED || !relay) {
		return nil
	}
	m := &pb.Change{Epoch: s.network.Epoch, Revision: c.Revision, Kind: c.Kind, Id: c.ID}
	body := c.Body
	if relay {
		d, err := key.DevicePublicFromBytes(c.ID)
		if err != nil {
			return s.internal("watch", err)
		}
		m.Kind, body = pb.Kind_KIND_BLOCKED, nil
		if dev := s.hub.device(d); dev != nil && !dev.Visible() {
			body = dev.Signed
		}
	}
	if body != nil {
		m.Content = &pb.Change_Body{Body: body}
	} else {
		m.Content = &pb.Change_Unseen{Unseen: &pb.Unseen{}}
	}
	return s.send(&pb.WatchResponse{Event: &pb.WatchResponse_Change{Change: m}})
}

// sendStatement signs for the moment v, all changes of which have been sent.
func (s *stream) sendStatement(v view) error {
	s.owed = false
	if s.w.role != pb.Role_ROLE_DEVICE {
		return nil
	}
	signed, err := s.statement(s.w.device, v)
	if err != nil {
		return s.internal("watch", err)
	}
	s.stopGap()
	s.nextStatement = time.NewTimer(statementGap)
	return s.send(&pb.WatchResponse{Event: &pb.WatchResponse_Change{Change: &pb.Change{
		Epoch: s.network.Epoch, Revision: v.revision, Kind: pb.Kind_KIND_STATEMENT, Content: &pb.Change_Body{Body: signed},
	}}})
}

func (s *stream) sendTicket() error {
	if s.w.role != pb.Role_ROLE_DEVICE {
		return nil
	}
	now := s.cfg.Now()
	t, err := record.SignTicket(s.id.Signing, s.network.ID, s.w.device, now, now.Add(s.cfg.MapMaxAge))
	if err != nil {
		return s.internal("watch", err)
	}
	return s.send(&pb.WatchResponse{Event: &pb.WatchResponse_Ticket{Ticket: t}})
}

func (s *stream) sendPresence() error {
	s.hub.keepSeen(s.w, s.presence)
	for k, online := range s.presence {
		err := s.send(&pb.WatchResponse{Event: &pb.WatchResponse_Presence{Presence: &pb.Presence{DeviceKey: k[:], Online: online}}})
		if err != nil {
			return err
		}
	}
	clear(s.presence)
	return nil
}
