package server

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// follower is a naive client of Watch: it folds what comes into a map and checks each statement's digest against it.
type follower struct {
	d               *device
	events          chan *pb.WatchResponse
	ended           chan error
	cancel          context.CancelFunc
	hello           *pb.Hello
	signing         key.SigningPublic
	epoch, revision uint64
	peers           map[rawKey]*record.Device
	blocked         map[rawKey]bool
	online          map[rawKey]bool
	usable          map[rawKey]bool // devices that the last statement summed up
	statement       *record.Statement
	tickets         int
	statements      int
	keepAlives      int
	snapshots       int
	changes         int             // records and removals outside a snapshot
	question        *pb.FlowsWanted // not seen to yet
	within          bool
	mayKnow         func(rawKey) bool // nil: all devices
	named           int               // peers that the last statement named by bits
}

// watch logs in and follows from a position; 0, 0 asks for a snapshot.
func (d *device) watch(epoch, revision uint64) *follower {
	d.c.Helper()
	session, err := d.login()
	d.c.must(err)
	return d.follow(session.GetSessionToken(), epoch, revision)
}

func (d *device) follow(session string, epoch, revision uint64) *follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{
		d: d, events: make(chan *pb.WatchResponse), ended: make(chan error, 1), cancel: cancel, epoch: epoch, revision: revision,
		peers: map[rawKey]*record.Device{}, blocked: map[rawKey]bool{}, online: map[rawKey]bool{},
	}
	stream, err := d.c.calls.Watch(ctx, connect.NewRequest(&pb.WatchRequest{SessionToken: session, Epoch: epoch, Revision: revision, KnowsGrantPeers: d.grantPeers}))
	d.c.must(err)
	go func() {
		defer stream.Close()
		for stream.Receive() {
			select {
			case f.events <- stream.Msg():
			case <-ctx.Done():
			}
		}
		f.ended <- stream.Err()
	}()
	d.c.Cleanup(cancel)
	return f
}

// resume follows on from where f stands, with what f has.
func (f *follower) resume() *follower {
	f.d.c.Helper()
	next := f.d.watch(f.epoch, f.revision)
	next.peers, next.blocked, next.statement, next.usable, next.mayKnow = f.peers, f.blocked, f.statement, f.usable, f.mayKnow
	return next
}

// until handles events until ok holds.
func (f *follower) until(what string, ok func() bool) {
	f.d.c.Helper()
	timeout := time.After(patience)
	for !ok() {
		select {
		case m := <-f.events:
			if err := f.handle(m); err != nil {
				f.d.c.Fatalf("%s, waiting for %s: %v", f.d.hostname, what, err)
			}
		case err := <-f.ended:
			f.d.c.Fatalf("%s, waiting for %s: the stream ended: %v", f.d.hostname, what, err)
		case <-timeout:
			f.d.c.Fatalf("%s: still not %s; peers %v, revision %d", f.d.hostname, what, f.names(), f.revision)
		}
	}
}

// end waits for the stream's end.
func (f *follower) end() error {
	f.d.c.Helper()
	timeout := time.After(patience)
	for {
		select {
		case m := <-f.events:
			if err := f.handle(m); err != nil {
				f.d.c.Fatalf("%s: %v", f.d.hostname, err)
			}
		case err := <-f.ended:
			return err
		case <-timeout:
			f.d.c.Fatalf("%s: the stream goes on", f.d.hostname)
		}
	}
}

// close goes away and waits until the coordinator has noticed.
func (f *follower) close() {
	f.d.c.Helper()
	f.cancel()
	f.end()
	k := f.d.key.Public()
	for deadline := time.Now().Add(patience); f.d.c.srv.online(k); {
		changed := f.d.c.srv.hub.changed.Next()
		if !f.d.c.srv.online(k) {
			break
		}
		if time.Now().After(deadline) {
			f.d.c.Fatalf("%s is online still", f.d.hostname)
		}
		select {
		case <-changed:
		case <-time.After(time.Millisecond):
		}
	}
}

func (f *follower) handle(m *pb.WatchResponse) (err error) {
	c := f.d.c
	switch e := m.GetEvent().(type) {
	case *pb.WatchResponse_Hello:
		if f.hello != nil {
			return fmt.Errorf("a second hello")
		}
		f.hello = e.Hello
		f.signing, err = record.OpenCertificate(c.srv.Authority(), c.srv.Network(), e.Hello.GetSigningCertificate())
	case *pb.WatchResponse_SnapshotBegin:
		f.peers, f.blocked, f.within = map[rawKey]*record.Device{}, map[rawKey]bool{}, true
		f.epoch, f.revision = e.SnapshotBegin.GetEpoch(), 0
	case *pb.WatchResponse_SnapshotEnd:
		f.within = false
		f.snapshots++
		f.revision = e.SnapshotEnd.GetRevision()
	case *pb.WatchResponse_Change:
		return f.change(e.Change)
	case *pb.WatchResponse_KeepAlive:
		f.keepAlives++
	case *pb.WatchResponse_Presence:
		k := rawKey(e.Presence.GetDeviceKey())
		if e.Presence.GetOnline() && !f.usable[k] {
			return fmt.Errorf("%x is online, and no statement has vouched for its record", k[:4])
		}
		f.online[k] = e.Presence.GetOnline()
	case *pb.WatchResponse_FlowsWanted:
		f.question = e.FlowsWanted
	case *pb.WatchResponse_Ticket:
		f.tickets++
		_, err = record.OpenTicket(f.signing, c.srv.Network(), c.now(), e.Ticket)
	}
	return err
}

func (f *follower) change(m *pb.Change) error {
	if f.hello == nil || m.GetEpoch() != f.epoch {
		return fmt.Errorf("change of epoch %d before hello or in epoch %d", m.GetEpoch(), f.epoch)
	}
	if m.GetKind() == pb.Kind_KIND_STATEMENT {
		return f.newStatement(m)
	}
	if !f.within {
		if m.GetRevision() <= f.revision {
			return fmt.Errorf("revision %d after %d", m.GetRevision(), f.revision)
		}
		f.revision = m.GetRevision()
		f.changes++
	}
	k := rawKey(m.GetId())
	if m.GetBody() == nil {
		delete(f.peers, k)
		delete(f.blocked, k)
		return nil
	}
	d, err := record.OpenDevice(f.d.c.srv.Authority(), f.d.c.srv.Network(), m.GetBody())
	switch {
	case err != nil:
		return err
	case f.mayKnow != nil && !d.Removed && !f.mayKnow(k):
		return fmt.Errorf("was told of %s, which is none of its peers", d.Name)
	case m.GetKind() == pb.Kind_KIND_BLOCKED:
		if !d.Removed && !d.Expired(f.d.c.now()) {
			return fmt.Errorf("%s is no reason to block", d.Name)
		}
		f.blocked[k] = true
	case d.Removed:
		delete(f.peers, k)
	default:
		f.peers[k] = d
	}
	return nil
}

func (f *follower) newStatement(m *pb.Change) error {
	st, err := record.OpenStatement(f.signing, f.d.c.srv.Network(), f.d.key.Public(), m.GetBody())
	if err != nil {
		return err
	}
	var have record.Digest
	for k, d := range f.peers {
		if k != f.d.key.Public().Raw() {
			have.Toggle(d.Key, d.Version)
		}
	}
	if record.Digest(st.GetDigest()) != have {
		return fmt.Errorf("the statement of revision %d does not sum up %v", st.GetRevision(), f.names())
	}
	f.named = record.NamedPeers(st.GetGrants())
	if err := st.SpellPeers(f.peerAddresses()); err != nil {
		return err
	}
	if st.GetRevision() < f.revision || st.GetRevision() != m.GetRevision() || st.GetEpoch() != f.epoch {
		return fmt.Errorf("statement of %d/%d at %d/%d", st.GetEpoch(), st.GetRevision(), f.epoch, f.revision)
	}
	for k := range f.online { // whom it does not know it forgets
		if f.peers[k] == nil {
			delete(f.online, k)
		}
	}
	f.statement, f.revision = st, st.GetRevision()
	f.usable = map[rawKey]bool{}
	for k := range f.peers {
		f.usable[k] = true
	}
	f.statements++
	return nil
}

// peerAddresses are in order of the peers' keys.
func (f *follower) peerAddresses() (out [][]netip.Addr) {
	for _, k := range slices.SortedFunc(maps.Keys(f.peers), func(a, b rawKey) int { return bytes.Compare(a[:], b[:]) }) {
		if k != f.d.key.Public().Raw() {
			out = append(out, f.peers[k].Addresses)
		}
	}
	return out
}

// names gives the devices that the follower knows, itself too.
func (f *follower) names() []string {
	return slices.Sorted(func(yield func(string) bool) {
		for d := range maps.Values(f.peers) {
			if !yield(d.Name) {
				return
			}
		}
	})
}

// sees waits until the follower knows exactly these devices, by a statement.
func (f *follower) sees(names ...string) {
	f.d.c.Helper()
	want := strings.Join(names, " ")
	f.until("seeing "+want, func() bool {
		return f.statement != nil && f.statement.GetRevision() == f.revision && strings.Join(f.names(), " ") == want
	})
}
