package mapsync

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// mark is a moment of the world.
type mark struct{ epoch, revision uint64 }

// logged is one change of the world; a nil body: out of sight.
type logged struct {
	revision uint64
	device   key.DevicePublic
	body     *pb.Signed
}

// member is a device of the world.
type member struct {
	record.Device
	hidden bool
	signed *pb.Signed
}

func (m *member) visible() bool { return !m.Removed && !m.hidden }

// world is a naive coordinator: it remembers what every moment looked like.
type world struct {
	*testing.T
	network     record.NetworkID
	authority   key.AuthorityPrivate
	signing     key.SigningPrivate
	certificate *pb.Signed
	self        key.DevicePublic
	now         time.Time

	mark
	generation uint64
	members    []*member // the first is self
	log        []logged
	history    map[mark][]string
	grants     []*pb.Grant
}

func newWorld(t *testing.T) *world {
	w := &world{
		T: t, network: record.NetworkID{7}, authority: key.NewAuthority(), signing: key.NewSigning(), now: time.Unix(1_800_000_000, 0),
		mark: mark{epoch: 1}, generation: 1, history: map[mark][]string{},
	}
	var err error
	if w.certificate, err = record.Certify(w.authority, w.network, w.signing.Public(), w.now); err != nil {
		t.Fatal(err)
	}
	w.add("self")
	w.self = w.members[0].Key
	return w
}

func (w *world) core() *Core {
	return New(Config{Network: w.network, Authority: w.authority.Public(), Device: w.self})
}

func (w *world) add(name string) *member {
	n := byte(len(w.members) + 1)
	m := &member{Device: record.Device{
		Network: w.network, Key: key.NewDevice().Public(), Name: name, NodeKey: key.NewNode().Public(),
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, n})}, Version: record.Version{Generation: w.generation},
	}}
	w.members = append(w.members, m)
	w.put(m)
	return m
}

// put signs the next version of m and logs it.
func (w *world) put(m *member) {
	m.Version.Generation = w.generation
	m.Version.Counter++
	var err error
	if m.signed, err = record.SignDevice(w.authority, &m.Device); err != nil {
		w.Fatal(err)
	}
	w.revision++
	l := logged{w.revision, m.Key, m.signed}
	if m.hidden && !m.Removed {
		l.body = nil
	}
	w.log = append(w.log, l)
	w.remember()
}

// remember writes down which peers should be seen at this moment.
func (w *world) remember() {
	all := []string{}
	for _, m := range w.members[1:] {
		if m.visible() {
			all = append(all, describe(&m.Device))
		}
	}
	slices.Sort(all)
	w.history[w.mark] = all
}

func describe(d *record.Device) string {
	return fmt.Sprintf("%s %s %v", d.Name, d.Key.Short(), d.Version)
}

// restore goes back to an empty log in a new generation and epoch, as after a backup was restored; some of the members come back as they
// had been before they were removed.
func (w *world) restore(back bool) {
	w.generation++
	w.epoch, w.revision, w.log = w.epoch+1, 0, nil
	for _, m := range w.members {
		m.Removed = m.Removed && !back
		w.put(m)
	}
}

// step changes something.
func (w *world) step(pick func(int) int) {
	w.now = w.now.Add(time.Second)
	m := w.members[pick(len(w.members))]
	switch op := pick(20); {
	case op < 6 && len(w.members) < 12:
		w.add(fmt.Sprintf("d%d", len(w.members)))
	case op < 11 && !m.Removed:
		m.Name = fmt.Sprintf("n%d", w.revision)
		w.put(m)
	case op < 14 && m != w.members[0] && !m.Removed:
		m.Removed = true
		w.put(m)
	case op < 18 && m != w.members[0]:
		m.hidden = !m.hidden
		w.put(m)
	case op == 19:
		w.restore(pick(2) == 0)
	}
}

func (w *world) statement() *pb.Signed {
	var d record.Digest
	for _, m := range w.members[1:] {
		if m.visible() {
			d.Toggle(m.Key, m.Version)
		}
	}
	s, err := record.SignStatement(w.signing, &pb.MapStatement{
		NetworkId: w.network[:], DeviceKey: w.self.Bytes(), Epoch: w.epoch, Revision: w.revision,
		IssuedAt: timestamppb.New(w.now), GoodUntil: timestamppb.New(w.now.Add(time.Hour)), Digest: d[:], Grants: w.grants,
	})
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *world) hello() *pb.WatchResponse {
	return &pb.WatchResponse{Event: &pb.WatchResponse_Hello{Hello: &pb.Hello{Epoch: w.epoch, SigningCertificate: w.certificate}}}
}

func (w *world) ticket() *pb.WatchResponse {
	s, err := record.SignTicket(w.signing, w.network, w.self, w.now, w.now.Add(time.Hour))
	if err != nil {
		w.Fatal(err)
	}
	return &pb.WatchResponse{Event: &pb.WatchResponse_Ticket{Ticket: s}}
}

func (w *world) change(m *pb.Change) *pb.WatchResponse {
	m.Epoch = w.epoch
	return &pb.WatchResponse{Event: &pb.WatchResponse_Change{Change: m}}
}

func (w *world) deviceChange(revision uint64, k key.DevicePublic, body *pb.Signed) *pb.WatchResponse {
	m := &pb.Change{Revision: revision, Kind: pb.Kind_KIND_DEVICE, Id: k.Bytes(), Content: &pb.Change_Unseen{Unseen: &pb.Unseen{}}}
	if body != nil {
		m.Content = &pb.Change_Body{Body: body}
	}
	return w.change(m)
}

func (w *world) statementChange() *pb.WatchResponse {
	return w.change(&pb.Change{Revision: w.revision, Kind: pb.Kind_KIND_STATEMENT, Content: &pb.Change_Body{Body: w.statement()}})
}

// since gives what a watcher at a revision of this epoch is sent.
func (w *world) since(revision uint64) (out []*pb.WatchResponse) {
	for _, l := range w.log {
		if l.revision > revision {
			out = append(out, w.deviceChange(l.revision, l.device, l.body))
		}
	}
	return append(out, w.statementChange())
}

func (w *world) snapshot() []*pb.WatchResponse {
	out := []*pb.WatchResponse{begin(w.mark)}
	for _, m := range w.members {
		if m.visible() {
			out = append(out, w.deviceChange(w.revision, m.Key, m.signed))
		}
	}
	return append(out, w.statementChange(), end(w.mark))
}

func begin(m mark) *pb.WatchResponse {
	return &pb.WatchResponse{Event: &pb.WatchResponse_SnapshotBegin{SnapshotBegin: &pb.SnapshotBegin{Epoch: m.epoch, Revision: m.revision}}}
}

func end(m mark) *pb.WatchResponse {
	return &pb.WatchResponse{Event: &pb.WatchResponse_SnapshotEnd{SnapshotEnd: &pb.SnapshotEnd{Epoch: m.epoch, Revision: m.revision}}}
}

// stream is what a Watch from here on begins with.
func (w *world) stream(epoch, revision uint64) []*pb.WatchResponse {
	out := []*pb.WatchResponse{w.hello(), w.ticket()}
	if epoch == w.epoch && revision > 0 && revision <= w.revision {
		return append(out, w.since(revision)...)
	}
	return append(out, w.snapshot()...)
}
