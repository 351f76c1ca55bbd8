package server

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"warren/coord/domain"
	"warren/coord/policy"
	"warren/coord/policy/compile"
	"warren/coord/store"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// access is who may know of whom and what each may do: the policy in force, compiled for the devices of the network. Sight is mutual. The hub
// calls it with its lock held.
type access struct {
	compiled *compile.Compiler
	members  map[rawKey]*member
	// at is the time up to which windows were opened and closed, next when that is due again; zero: never.
	at, next time.Time
}

// member is a visible device.
type member struct {
	own record.Digest // of its record alone
	// peers sums up the records of its peers, unless it is stale.
	peers record.Digest
	stale bool
	told  *told // nil: to be made
	// device is its newest state.
	device *store.Device
}

// told is what a device's statement says of grants and routes.
type told struct {
	grants []*pb.Grant
	routes []*pb.MapRoute
	// waiting is what the device itself advertises and may not carry yet.
	waiting []*pb.Prefix
	// fit says that a statement can hold them, but for as many of the last routes as are leftOut.
	fit     bool
	leftOut int
	// byPeer says that long lists of prefixes name peers by bits.
	byPeer bool
	// groups are those of the users that the device sees, unless they are too many to be told.
	groups        *compile.GroupSet
	groupsTooMany bool
}

// effect is what a change did to the views of devices.
type effect struct {
	gained, lost []rawKey // peers of the one device that changed
	// changed are devices whose peers or grants changed; for a change of the policy or of time, moves says how the peers did.
	changed []rawKey
	moves   []compile.Move
}

func newAccess(p *policy.Policy, dir compile.Directory, now time.Time) *access {
	a := &access{compiled: compile.New(p, dir, now), members: map[rawKey]*member{}, at: now}
	_, a.next = a.compiled.Advance(now)
	return a
}

// load adds a device while nobody watches.
func (a *access) load(d *store.Device) {
	if d.Visible() {
		a.members[d.Key.Raw()] = &member{own: sumOf(d), stale: true, device: d}
	}
}

func sumOf(d *store.Device) (sum record.Digest) {
	sum.Toggle(d.Key, d.Version)
	return sum
}

// compiledDevice is what a policy can ask about d.
func compiledDevice(d *domain.Device) compile.Device {
	return compile.Device{ID: d.Key.Raw(), Name: d.Name, Addresses: d.Addresses, Tags: d.Tags, Owner: d.Owner, Routes: d.Routes, Facts: factsOf(&d.Host)}
}

// factsOf are what postures can ask, under the names that policy.NodeFacts has; nil for a device that has told nothing.
func factsOf(h *domain.Host) map[string]string {
	os := h.OS
	if os == "darwin" {
		os = "macos" // as policies have it
	}
	var facts map[string]string
	for name, value := range map[string]string{"node:agentVersion": h.AgentVersion, "node:hostname": h.Hostname, "node:os": os, "node:osVersion": h.OSVersion} {
		if value == "" {
			continue
		}
		if facts == nil {
			facts = map[string]string{}
		}
		facts[name] = value
	}
	return facts
}

// put takes a device's next state; one that is not visible is taken out.
func (a *access) put(d *store.Device) effect {
	k := d.Key.Raw()
	self := a.members[k]
	a.reprioritise(self, d)
	var old, now record.Digest
	if self != nil {
		old = self.own
	}
	var u compile.Update
	if d.Visible() {
		u = a.compiled.SetDevice(compiledDevice(&d.Device))
		if self == nil {
			self = &member{}
			a.members[k] = self
		}
		now = sumOf(d)
		self.own, self.stale = now, self.stale || len(u.Gained)+len(u.Lost) > 0
		self.device, self.told = d, nil
	} else {
		u = a.compiled.RemoveDevice(k)
		delete(a.members, k)
	}
	a.resum(k, old, now, u)
	a.forget(u.Changed)
	return effect{gained: u.Gained, lost: u.Lost, changed: u.Changed}
}

// renew takes a state of a device that differs from the one before in nothing that others are told.
func (a *access) renew(d *store.Device) {
	if m := a.members[d.Key.Raw()]; m != nil {
		m.device, m.told = d, nil
	}
}

// reprioritise is for a gateway that carries what it did, with other priorities, of which compiled knows nothing.
func (a *access) reprioritise(self *member, d *store.Device) {
	if self == nil || !slices.ContainsFunc(d.Routes, func(p netip.Prefix) bool { return self.device.Priority(p) != d.Priority(p) }) {
		return
	}
	for p := range a.compiled.Peers(d.Key.Raw()) {
		a.members[p].told = nil
	}
}

// forget drops what was made for statements that changed.
func (a *access) forget(changed []rawKey) {
	for _, k := range changed {
		if m := a.members[k]; m != nil {
			m.told = nil
		}
	}
}

// resum brings the digests of those who see k, or saw it, into line.
func (a *access) resum(k rawKey, old, now record.Digest, u compile.Update) {
	for _, p := range u.Lost {
		a.members[p].toggle(old)
	}
	renewed := old
	renewed.Join(now)
	gained := map[rawKey]bool{}
	if old != (record.Digest{}) {
		for _, p := range u.Gained {
			gained[p] = true
		}
	} else {
		renewed = now
	}
	for p := range a.compiled.Peers(k) {
		if gained[p] {
			a.members[p].toggle(now)
		} else {
			a.members[p].toggle(renewed)
		}
	}
}

func (m *member) toggle(sum record.Digest) {
	if !m.stale {
		m.peers.Join(sum)
	}
}

// setPolicy puts another policy into force. Of devices whose peers change more than most times, no more than that is told.
func (a *access) setPolicy(p *policy.Policy, now time.Time, most int) effect {
	u, moves := a.compiled.SetPolicyMoves(p, now, most)
	a.at = now
	_, a.next = a.compiled.Advance(now)
	return a.moved(u, moves)
}

// advance opens and closes time windows.
func (a *access) advance(now time.Time, most int) effect {
	u, moves, next := a.compiled.AdvanceMoves(now, most)
	a.at, a.next = now, next
	return a.moved(u, moves)
}

func (a *access) moved(u compile.Update, moves []compile.Move) effect {
	a.forget(u.Changed)
	for _, m := range moves {
		a.members[m.ID].stale = true
	}
	return effect{changed: u.Changed, moves: moves}
}

func (a *access) sees(x, y rawKey) bool { return a.compiled.Sees(x, y) }

// peers gives the devices that k sees, in no particular order.
func (a *access) peers(k rawKey) iter.Seq[rawKey] { return a.compiled.Peers(k) }

// digest sums up the records of k's peers.
func (a *access) digest(k rawKey) record.Digest {
	m := a.members[k]
	if m == nil {
		return record.Digest{}
	}
	if m.stale {
		m.peers, m.stale = record.Digest{}, false
		for p := range a.compiled.Peers(k) {
			m.peers.Join(a.members[p].own)
		}
	}
	return m.peers
}

// tell gives the grants and routes of k's statement; byPeer is for an agent that knows what it means.
func (a *access) tell(k rawKey, byPeer bool) *told {
	m := a.members[k]
	if m == nil {
		return &told{fit: true}
	}
	if m.told != nil && m.told.byPeer == byPeer {
		return m.told
	}
	view := a.compiled.View
	if byPeer {
		view = a.compiled.ViewByPeer
	}
	m.told = toldBy(view(k), a.priority)
	m.told.byPeer, m.told.waiting = byPeer, record.PrefixesToProto(m.device.WaitingRoutes())
	m.told.setGroups(a.compiled.Groups(k))
	return m.told
}

// priority is that with which a gateway carries a CIDR.
func (a *access) priority(gateway rawKey, p netip.Prefix) uint8 {
	m := a.members[gateway]
	if m == nil {
		return 0
	}
	return m.device.Priority(p)
}

// anyPriority is for views that are only to be measured.
func anyPriority(rawKey, netip.Prefix) uint8 { return record.DefaultPriority }

// toldBy makes a view ready for a statement, with the priorities that gateways have.
func toldBy(v compile.View, priority func(rawKey, netip.Prefix) uint8) *told {
	t := &told{grants: v.Grants}
	size := t.size()
	t.fit = len(t.grants) <= record.MaxGrants && size <= maxTold && record.NamedPeers(t.grants) <= record.MaxNamedPeers
	for i, r := range v.Routes {
		m := &pb.MapRoute{
			Prefix: record.PrefixToProto(r.Prefix), GatewayKey: slices.Clone(r.Gateway[:]),
			Priority: uint32(priority(r.Gateway, r.Prefix)),
		}
		if size += proto.Size(&pb.MapStatement{Routes: []*pb.MapRoute{m}}); i == record.MaxMapRoutes || size > maxTold {
			t.leftOut = len(v.Routes) - i
			break
		}
		t.routes = append(t.routes, m)
	}
	return t
}

// setGroups adds the groups of users, all or none: nobody is to take a part of them for the whole.
func (t *told) setGroups(set *compile.GroupSet) {
	t.groups = set
	many := func(u *pb.UserGroups) bool { return len(u.GetGroups()) > record.MaxUserGroups }
	if len(set.Users) > record.MaxGroupUsers || slices.ContainsFunc(set.Users, many) || t.fit && t.size() > maxTold {
		t.groups, t.groupsTooMany = new(compile.GroupSet), true
	}
}

// maxTold bounds what grants, routes and groups take in a map statement, in bytes. The rest is for relays, endpoints and routes that wait.
const maxTold = record.MaxPayload - 64<<10

// users are those whose groups are told.
func (t *told) users() []*pb.UserGroups {
	if t.groups == nil {
		return nil
	}
	return t.groups.Users
}

func (t *told) size() int {
	return proto.Size(&pb.MapStatement{Grants: t.grants, Routes: t.routes, WaitingRoutes: t.waiting, Groups: t.users()})
}
