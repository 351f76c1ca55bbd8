package engine

import (
	"bytes"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"warren/proto/key"
)

// What the roster needs of the WireGuard device, the Bind and the TUN wrapper.
type (
	peerDevice interface {
		// apply takes lines of WireGuard's configuration protocol.
		apply(lines string) error
		peers() (map[[key.Size]byte]counters, error)
	}
	peerBind interface {
		Release(peer key.NodePublic) (called bool)
		Forget(peer key.NodePublic)
		Traffic(peer key.NodePublic) (lastSent, lastReceived time.Time)
	}
	peerTUN interface {
		Configured(peer key.NodePublic, configured bool)
	}
)

// counters is what the device counts for a peer while it is configured.
type counters struct {
	handshake time.Time
	rx, tx    uint64
}

func (c counters) plus(o counters) counters {
	if o.handshake.After(c.handshake) {
		c.handshake = o.handshake
	}
	return counters{handshake: c.handshake, rx: c.rx + o.rx, tx: c.tx + o.tx}
}

// member is one device of the map. It is known to the TUN wrapper by its current key, and to WireGuard and the Bind by the key that
// it uses: the next one once it has called with that.
type member struct {
	Peer
	active  key.NodePublic // the key under which it is configured; zero if it is not
	as      key.NodePublic // the current key that was told when it was
	since   time.Time      // when it was configured
	leaving bool           // is to be taken out of the device
	seen    bool           // configured at least once
	past    counters       // of the times that it was configured before
}

func (m *member) configured() bool { return !m.active.IsZero() }

type event struct {
	peer   key.NodePublic
	active bool
}

// roster decides which peers are configured. It is not safe for concurrent use and knows no clock: callers pass the time.
type roster struct {
	dev       peerDevice
	bind      peerBind
	tun       peerTUN
	log       *slog.Logger
	idleAfter time.Duration
	max       int

	members    map[[key.Size]byte]*member // by Peer.id
	byKey      map[[key.Size]byte]*member // current and next keys
	configured map[*member]struct{}
	events     []event
}

func newRoster(dev peerDevice, bind peerBind, tun peerTUN, log *slog.Logger, idleAfter time.Duration, most int) *roster {
	return &roster{
		dev: dev, bind: bind, tun: tun, log: log, idleAfter: idleAfter, max: most,
		members: map[[key.Size]byte]*member{}, byKey: map[[key.Size]byte]*member{}, configured: map[*member]struct{}{},
	}
}

func (r *roster) takeEvents() []event {
	ev := r.events
	r.events = nil
	return ev
}

func (r *roster) tell(peer key.NodePublic, active bool) {
	r.events = append(r.events, event{peer: peer, active: active})
}

// want configures the member with this key, unless it is configured. A member is moved to its next key when that one is wanted, which
// only an authentic initiation does, and stays there.
func (r *roster) want(k key.NodePublic, now time.Time) {
	m := r.byKey[k.Raw()]
	switch {
	case m == nil:
		return
	case m.configured() && (m.active.Equal(k) || k.Equal(m.NodeKey)):
		r.bind.Release(m.active)
		r.tun.Configured(m.NodeKey, true)
		return
	case m.configured():
		r.remove([]*member{m})
	}
	if len(r.configured) >= r.max {
		r.evict(now)
	}
	r.configure(m, k, now)
}

func (r *roster) configure(m *member, k key.NodePublic, now time.Time) {
	var lines strings.Builder
	writePeer(&lines, k, m.Prefixes, true)
	if err := r.dev.apply(lines.String()); err != nil {
		r.log.Warn("peer not configured", "peer", k.Short(), "err", err)
		return
	}
	m.active, m.as, m.since, m.seen = k, m.NodeKey, now, true
	r.configured[m] = struct{}{}
	r.tun.Configured(m.NodeKey, true) // before the peer's call is let in: the TUN wrapper takes nothing from peers that are not configured
	called := r.bind.Release(k)
	r.tell(m.NodeKey, true)
	if !called {
		r.handshake(k)
	}
}

// handshake makes the device call a peer. Packets that the TUN wrapper held do so as well, and the device calls only once; but a peer may
// be wanted because it holds on to a session that we have lost. Switching keepalives on sends one, which needs a session.
func (r *roster) handshake(k key.NodePublic) {
	for _, interval := range []string{"1", "0"} {
		var lines strings.Builder
		writeKey(&lines, "public_key", k.Bytes())
		lines.WriteString("update_only=true\npersistent_keepalive_interval=" + interval + "\n")
		if err := r.dev.apply(lines.String()); err != nil {
			r.log.Warn("peer not called", "peer", k.Short(), "err", err)
		}
	}
}

// callAgain calls those of peers anew who have not answered since they were configured: an initiation or its answer may have been lost, and the device
// itself waits for Rekey-Timeout, 5 s. It waits so with a peer, and not with a new one of the same key. It gives those that it has called.
func (r *roster) callAgain(keys []key.NodePublic) (called []key.NodePublic) {
	counts, err := r.dev.peers()
	if err != nil {
		r.log.Warn("it cannot be told which peers have answered", "err", err)
		return nil
	}
	for _, k := range keys {
		m := r.byKey[k.Raw()]
		if m == nil || !m.active.Equal(k) || !counts[k.Raw()].handshake.IsZero() {
			continue
		}
		m.past = m.past.plus(counts[k.Raw()])
		var lines strings.Builder
		writeRemoval(&lines, k)
		writePeer(&lines, k, m.Prefixes, true)
		if err := r.dev.apply(lines.String()); err != nil {
			r.log.Error("peer not called again", "peer", k.Short(), "err", err)
			continue
		}
		r.handshake(k)
		called = append(called, k)
	}
	return called
}

// recall has the device look for packets that wait for a session with a peer, for which it calls: it does so whenever a peer is set.
func (r *roster) recall(keys []key.NodePublic) {
	for _, k := range keys {
		if m := r.byKey[k.Raw()]; m == nil || !m.active.Equal(k) {
			continue
		}
		var lines strings.Builder
		writeKey(&lines, "public_key", k.Bytes())
		lines.WriteString("update_only=true\n")
		if err := r.dev.apply(lines.String()); err != nil {
			r.log.Warn("peer not called", "peer", k.Short(), "err", err)
		}
	}
}

// lastUse is when anything last went to or came from a configured member.
func (r *roster) lastUse(m *member) time.Time {
	sent, received := r.bind.Traffic(m.active)
	last := m.since
	for _, t := range []time.Time{sent, received} {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// sweep removes members that have been idle.
func (r *roster) sweep(now time.Time) {
	var idle []*member
	for m := range r.configured {
		if now.Sub(r.lastUse(m)) >= r.idleAfter {
			idle = append(idle, m)
		}
	}
	r.remove(idle)
}

// use is when a configured member was last used.
type use struct {
	m    *member
	last time.Time
}

// uses tells of all configured members, the least recently used first.
func (r *roster) uses() []use {
	all := make([]use, 0, len(r.configured))
	for m := range r.configured {
		all = append(all, use{m, r.lastUse(m)})
	}
	slices.SortFunc(all, func(a, b use) int { return a.last.Compare(b.last) })
	return all
}

// active gives the keys of those that were used since a time, the last used first.
func (r *roster) active(since time.Time) (out []key.NodePublic) {
	for _, u := range slices.Backward(r.uses()) {
		if u.last.Before(since) {
			break
		}
		out = append(out, u.m.active)
	}
	return out
}

// evict makes room by removing the least recently used sixteenth: reading the device's counters costs in proportion to all peers.
func (r *roster) evict(now time.Time) {
	all := r.uses()
	var out []*member
	for _, u := range all[:min(len(all), max(1, r.max/16))] {
		out = append(out, u.m)
	}
	r.log.Warn("too many peers in use; the least recently used are removed", "bound", r.max, "removed", len(out))
	r.remove(out)
}

// remove takes members that stay in the map out of the device and keeps their counts.
func (r *roster) remove(gone []*member) {
	if len(gone) == 0 {
		return
	}
	if counts, err := r.dev.peers(); err != nil {
		r.log.Warn("counters of removed peers are lost", "err", err)
	} else {
		for _, m := range gone {
			m.past = m.past.plus(counts[m.active.Raw()])
		}
	}
	r.unconfigure(gone)
}

// unconfigure takes members out of the device, the Bind and the TUN wrapper.
func (r *roster) unconfigure(gone []*member) {
	var lines strings.Builder
	for _, m := range gone {
		writeRemoval(&lines, m.active)
		r.tun.Configured(m.as, false)
	}
	if err := r.dev.apply(lines.String()); err != nil {
		r.log.Error("peers not removed from the device", "err", err)
	}
	for _, m := range gone {
		r.bind.Forget(m.active)
		delete(r.configured, m)
		r.tell(m.as, false)
		m.active, m.as, m.leaving = key.NodePublic{}, key.NodePublic{}, false
	}
}

// diff says what change makes the members those of a whole map: who has left, by id, and who is new or changed.
func (r *roster) diff(peers []Peer) (gone [][key.Size]byte, put []Peer) {
	stays := make(map[[key.Size]byte]struct{}, len(peers))
	for _, p := range peers {
		id := p.id()
		stays[id] = struct{}{}
		if m := r.members[id]; m == nil || !m.same(&p) {
			put = append(put, p)
		}
	}
	for id := range r.members {
		if _, ok := stays[id]; !ok {
			gone = append(gone, id)
		}
	}
	return gone, put
}

func (p *Peer) same(o *Peer) bool {
	return p.NodeKey.Equal(o.NodeKey) && p.NextNodeKey.Equal(o.NextNodeKey) && slices.Equal(p.Prefixes, o.Prefixes) && slices.Equal(p.Addresses, o.Addresses)
}

// change takes what changed in the map: the ids of members that have left, and then those that are new or changed. Members stay configured if
// the key in use is still theirs. It gives the keys that are nobody's any more.
func (r *roster) change(gone [][key.Size]byte, put []Peer) (nobodys []key.NodePublic) {
	var c changes
	for _, id := range gone {
		if m := r.members[id]; m != nil {
			delete(r.members, id)
			c.leave(m)
			r.unname(&c, m)
		}
	}
	for _, p := range put {
		r.put(&c, p)
	}
	if len(c.stray) > 0 {
		r.unconfigure(c.stray)
	}
	r.rewrite(&c)
	for _, k := range c.unnamed {
		if r.byKey[k.Raw()] == nil {
			r.bind.Forget(k)
			nobodys = append(nobodys, k)
		}
	}
	return nobodys
}

// changes is what a change of the map has to do with configured members.
type changes struct {
	stray   []*member // to be taken out of the device
	lines   strings.Builder
	rotated []*member
	unnamed []key.NodePublic // keys that were a member's
}

func (c *changes) leave(m *member) {
	if m.configured() && !m.leaving {
		m.leaving = true
		c.stray = append(c.stray, m)
	}
}

// put takes a member as it is now.
func (r *roster) put(c *changes, p Peer) {
	id := p.id()
	m := r.members[id]
	if m == nil {
		m = &member{}
		r.members[id] = m
	}
	moved := !slices.Equal(m.Prefixes, p.Prefixes)
	r.unname(c, m)
	m.Peer = p
	r.name(c, m)
	if !m.configured() {
		return
	}
	if !m.owns(m.active) {
		c.leave(m)
		return
	}
	if moved {
		writePeer(&c.lines, m.active, p.Prefixes, false)
	}
	if !m.as.Equal(p.NodeKey) {
		c.rotated = append(c.rotated, m)
	}
}

// name has a member be found by its keys. If one was another's, that one has it no more.
func (r *roster) name(c *changes, m *member) {
	for _, k := range []key.NodePublic{m.NodeKey, m.NextNodeKey} {
		if k.IsZero() {
			continue
		}
		if o := r.byKey[k.Raw()]; o != nil && o != m && o.active.Equal(k) {
			c.leave(o)
		}
		r.byKey[k.Raw()] = m
	}
}

func (r *roster) unname(c *changes, m *member) {
	for _, k := range []key.NodePublic{m.NodeKey, m.NextNodeKey} {
		if !k.IsZero() && r.byKey[k.Raw()] == m {
			delete(r.byKey, k.Raw())
			c.unnamed = append(c.unnamed, k)
		}
	}
}

func (m *member) owns(k key.NodePublic) bool { return k.Equal(m.NodeKey) || k.Equal(m.NextNodeKey) }

// rewrite tells device and TUN wrapper of members that stay configured.
func (r *roster) rewrite(c *changes) {
	for _, m := range c.rotated {
		r.tun.Configured(m.as, false)
		r.tell(m.as, false)
	}
	for _, m := range c.rotated {
		m.as = m.NodeKey
		r.tun.Configured(m.as, true)
		r.tell(m.as, true)
	}
	if c.lines.Len() == 0 {
		return
	}
	if err := r.dev.apply(c.lines.String()); err != nil {
		r.log.Error("prefixes of peers not changed in the device", "err", err)
	}
}

// stats tells of every member that was ever configured, in order of their keys.
func (r *roster) stats() []PeerStats {
	counts, err := r.dev.peers()
	if err != nil {
		r.log.Warn("the device's counters cannot be read", "err", err)
	}
	var out []PeerStats
	for _, m := range r.members {
		if !m.seen {
			continue
		}
		c := m.past
		if m.configured() {
			c = c.plus(counts[m.active.Raw()])
		}
		out = append(out, PeerStats{
			NodeKey: m.NodeKey, LastHandshake: c.handshake, RxBytes: c.rx, TxBytes: c.tx, Configured: m.configured(),
		})
	}
	slices.SortFunc(out, func(a, b PeerStats) int { return bytes.Compare(a.NodeKey.Bytes(), b.NodeKey.Bytes()) })
	return out
}

// writePeer writes the configuration of one peer. Its endpoint is the virtual one of its key.
func writePeer(w *strings.Builder, k key.NodePublic, prefixes []netip.Prefix, create bool) {
	writeKey(w, "public_key", k.Bytes())
	if create {
		w.WriteString("endpoint=" + k.String() + "\n")
	} else {
		w.WriteString("update_only=true\n")
	}
	w.WriteString("replace_allowed_ips=true\n")
	for _, p := range prefixes {
		w.WriteString("allowed_ip=" + p.String() + "\n")
	}
}

func writeRemoval(w *strings.Builder, k key.NodePublic) {
	writeKey(w, "public_key", k.Bytes())
	w.WriteString("remove=true\n")
}
