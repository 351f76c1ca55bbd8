package sim

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"warren/nat/candidate"
	"warren/nat/path"
	"warren/nat/stunmsg"
	pb "warren/proto/warrenv1"
)

const (
	hostKind      = pb.CandidateKind_CANDIDATE_KIND_HOST
	reflexiveKind = pb.CandidateKind_CANDIDATE_KIND_SERVER_REFLEXIVE

	gatherEvery = 20 * time.Second // STUN keeps the mappings, as nat/gather does
	stunTime    = 20 * time.Millisecond
	openTime    = 10 * time.Millisecond // to open extra sockets
)

// iface is one uplink of a device.
type iface struct {
	box    *box
	v4, v6 netip.Addr // v6 may be zero
}

// device is a host with its core.
type device struct {
	w      *world
	index  int
	name   string
	id     path.ID
	port   uint16
	ifaces []iface // the first is the default
	noV4   bool    // only IPv6 is used
	down   bool    // off or asleep
	liar   bool    // tells others addresses of third parties

	core    *path.Core
	starts  int
	resets  int // starts and changes of network: what is known of peers' addresses begins anew
	resumes int
	resume  func() // ends a restart or sleep; nil while the device runs
	gathers int
	next    time.Time
	local   []candidate.Candidate
	nat     path.NAT
	links   map[path.ID]*link
	extra   map[uint16]uint16 // socket -> port
	sockets uint16            // opened so far
	txs     uint64

	home      *relay // nil while not connected
	good      bool   // home is there and can be reached, in truth
	goodSince time.Time
	upSince   time.Time

	count count
}

// link is what a device knows of a peer, and what really became of it.
type link struct {
	peer                   *device
	path                   path.Path
	sent, received, direct time.Time
	configured             bool
	lostSince, longLost    time.Time               // the first packet of an unbroken row that a fault, or its length, has lost
	verified               map[path.Pair]time.Time // when the peer last answered there
	flaps                  []time.Time             // changes of path in a calm world
	better                 int                     // ... and how many for a better one
}

// addDevice makes a device on the networks behind boxes and starts it.
func (w *world) addDevice(at ...*box) *device {
	i := len(w.devices)
	d := &device{w: w, index: i, name: string(rune('a' + i)), id: path.ID{byte(i + 1)}, port: 4000 + uint16(i), upSince: w.now, goodSince: w.now}
	w.devices = append(w.devices, d)
	for n, b := range at {
		d.join(b, n)
	}
	d.start()
	return d
}

// join connects a device to the network behind a box.
func (d *device) join(b *box, n int) {
	host := byte(2 + d.index + 10*n)
	at := iface{box: b, v4: netip.AddrFrom4([4]byte{192, 168, b.private, host})}
	if !b.maps() {
		at.v4 = netip.AddrFrom4([4]byte{203, 1, b.private, host})
	}
	if b.v6 != nil {
		at.v6 = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, b.private, 15: host})
	}
	d.ifaces = append(d.ifaces, at)
	d.w.attach(d, at)
}

// leave takes all uplinks away.
func (d *device) leave() {
	for _, at := range d.ifaces {
		d.w.detach(at)
	}
	d.ifaces = nil
}

// start makes the core, as a start of the daemon does.
func (d *device) start() {
	w := d.w
	d.starts++
	d.resets++
	d.core = path.New(w.now, path.Config{Traffic: d.traffic, NewTx: d.newTx, Rand: rand.New(rand.NewPCG(w.rand.Uint64(), uint64(d.index)))})
	d.links, d.extra, d.local, d.nat = map[path.ID]*link{}, map[uint16]uint16{}, nil, path.NAT{}
	d.next, d.home, d.upSince = time.Time{}, nil, w.now
	d.gather()
	d.settleRelay()
}

// gather tells the core the host's addresses now, and those that STUN servers see a little later, and then every so often.
func (d *device) gather() {
	d.gathers++
	gathers := d.gathers
	d.tellLocal(nil)
	var ask func()
	ask = func() {
		if d.gathers != gathers {
			return
		}
		if !d.down {
			d.askSTUN()
		}
		d.w.after(gatherEvery, ask)
	}
	d.w.after(stunTime, ask)
}

func (d *device) tellLocal(more []candidate.Candidate) {
	var local []candidate.Candidate
	for _, at := range d.ifaces {
		if !d.noV4 {
			local = append(local, candidate.Candidate{Kind: hostKind, Addr: netip.AddrPortFrom(at.v4, d.port)})
		}
		if at.v6.IsValid() {
			local = append(local, candidate.Candidate{Kind: hostKind, Addr: netip.AddrPortFrom(at.v6, d.port)})
		}
	}
	d.local = append(local, more...)
	d.handle(path.SetLocal{Candidates: d.local})
}

// askSTUN learns the reflexive addresses, and how the NAT before the default uplink maps.
func (d *device) askSTUN() {
	var more []candidate.Candidate
	var nat path.NAT
	for n, at := range d.ifaces {
		if d.noV4 {
			break
		}
		var seen [len(stunServers)]netip.AddrPort
		ok := true
		for i, server := range stunServers {
			if seen[i], ok = d.w.mapped(at.box, netip.AddrPortFrom(at.v4, d.port), server); !ok {
				break
			}
		}
		if !ok {
			continue
		}
		if seen[0].Addr() != at.v4 {
			more = append(more, candidate.Candidate{Kind: reflexiveKind, Addr: seen[0]})
		}
		if n == 0 {
			nat = path.NAT{Mapping: mappingOf(seen), External: seen[0]}
		}
	}
	if nat != d.nat {
		d.nat = nat
		d.handle(path.SetMapping{NAT: nat})
	}
	d.tellLocal(more)
}

func mappingOf(seen [2]netip.AddrPort) path.Mapping {
	switch gap := int(seen[1].Port()) - int(seen[0].Port()); {
	case gap == 0:
		return path.MappingIndependent
	case gap > 0 && gap < 4:
		return path.MappingSequential
	}
	return path.MappingDependent
}

func (d *device) link(peer *device) *link {
	l := d.links[peer.id]
	if l == nil {
		l = &link{peer: peer, verified: map[path.Pair]time.Time{}}
		d.links[peer.id] = l
	}
	return l
}

func (w *world) device(id path.ID) *device { return w.devices[id[0]-1] }

func (d *device) traffic(id path.ID) path.Traffic {
	l := d.link(d.w.device(id))
	return path.Traffic{Sent: l.sent, Received: l.received, Direct: l.direct}
}

func (d *device) newTx() (tx stunmsg.TxID) {
	d.txs++
	tx[0] = d.id[0]
	binary.BigEndian.PutUint64(tx[4:], d.txs)
	return tx
}

// handle passes an event to the core and does what it says.
func (d *device) handle(ev path.Event) {
	w := d.w
	if d.down || w.failure != nil {
		return
	}
	d.countRun(ev)
	actions, next := d.core.Handle(w.now, ev)
	if !next.IsZero() && !next.After(w.now) {
		w.fail("%s's deadline is not after now", d.name)
	}
	d.next = next
	for _, a := range actions {
		d.do(a)
	}
}

func (d *device) do(a path.Action) {
	w := d.w
	switch a := a.(type) {
	case path.SendCheck:
		d.countCheck(a)
		d.send(a.Pair, a.Size, "check", func(to *device, socket uint16, p *packet) {
			if to == w.device(a.Peer) { // nobody else has the keys
				to.request(d, socket, p, a.Tx)
			}
		}, nil)
	case path.SendSignal:
		d.signal(a)
	case path.SetPath:
		d.setPath(a)
	case path.SetMTU:
		d.link(w.device(a.Peer)).path.MTU = a.MTU
		w.note(d, "%s MTU %d", w.device(a.Peer).name, a.MTU)
	case path.SetRTT:
		d.link(w.device(a.Peer)).path.RTT = a.RTT
	case path.OpenSockets:
		d.open(a)
	case path.CloseSockets:
		for _, s := range a.Sockets {
			delete(d.extra, s)
		}
	case path.Wanted:
		w.after(time.Millisecond, func() { d.activate(w.device(a.Peer)) })
	case path.Ended:
		d.link(w.device(a.Peer)).path = path.Path{}
	}
}

// activate has the tunnel configure a peer.
func (d *device) activate(peer *device) {
	if d.down {
		return
	}
	d.link(peer).configured = true
	d.handle(path.Activate{Peer: peer.id})
}

func (d *device) open(a path.OpenSockets) {
	d.w.stats.Hunts++
	starts := d.starts
	d.w.after(openTime, func() {
		if d.starts != starts || d.down {
			return
		}
		var ids []uint16
		for range a.Count {
			d.sockets = max(d.sockets%20000+1, 1)
			d.extra[d.sockets] = 10000 + d.sockets
			ids = append(ids, d.sockets)
		}
		d.handle(path.SocketsOpened{Peer: a.Peer, Sockets: ids})
	})
}

// socketAt tells which socket has an address.
func (d *device) socketAt(at netip.AddrPort) (uint16, bool) {
	if at.Port() == d.port {
		return 0, true
	}
	s := at.Port() - 10000
	port, ok := d.extra[s]
	return s, ok && port == at.Port()
}

// send sends a datagram from a socket. A local address that the host does not have sends nothing.
func (d *device) send(from path.Pair, size int, what string, arrive func(*device, uint16, *packet), lost func(fate)) {
	w := d.w
	w.stats.Packets++
	p := &packet{dst: from.Remote, size: max(size, 100), from: d, sent: w.now, what: what, arrive: arrive, lost: lost}
	port := d.port
	if from.Socket != 0 {
		port = d.extra[from.Socket]
	}
	for _, at := range d.ifaces {
		addr := at.v4
		if from.Remote.Addr().Is6() {
			addr = at.v6
		}
		if addr.IsValid() && (!from.Local.IsValid() || from.Local == addr) && port != 0 {
			p.src, p.site = netip.AddrPortFrom(addr, port), at.box
			w.inside(at.box, p)
			return
		}
	}
	w.lose(p, byFault, "no such local address")
}

// request answers and then tells the core, as nat/traversal does.
func (d *device) request(from *device, socket uint16, p *packet, tx stunmsg.TxID) {
	at := path.Pair{Local: p.dst.Addr(), Socket: socket, Remote: p.src}
	d.send(at, 0, "answer", func(to *device, socket uint16, p *packet) {
		if to != from {
			return
		}
		back := path.Pair{Local: p.dst.Addr(), Socket: socket, Remote: p.src}
		if id, ok := to.core.Pending(tx, back); ok && id == d.id {
			to.link(d).verified[back] = to.w.now
			to.handle(path.Answer{Peer: id, Pair: back, Tx: tx})
		}
	}, nil)
	d.handle(path.Request{Peer: from.id, Pair: at})
}

// String is for the drawing.
func (d *device) String() string {
	s := d.name + ":"
	for _, at := range d.ifaces {
		s += fmt.Sprintf(" %s", at.v4)
		if at.v6.IsValid() {
			s += fmt.Sprintf(" %s", at.v6)
		}
		for b := at.box; b != d.w.root; b = b.parent {
			s += fmt.Sprintf(" behind %s %s (%s)", b.name, b.v4.External(), b.v4.Options())
			if b.largest > 0 {
				s += fmt.Sprintf(", at most %d bytes", b.largest)
			}
			if b.v6 != nil {
				s += fmt.Sprintf(", IPv6 with %s filtering", b.v6.Options().Filtering)
			}
			s += fmt.Sprintf(", link %s loss %.0f %%", b.link.Delay, 100*b.link.Loss)
		}
	}
	return s
}
