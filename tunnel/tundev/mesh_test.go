package tundev

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/gaissmai/bart"

	"warren/proto/key"
	"warren/tunnel/filter"
)

// mesh is devices with a stand-in for WireGuard between them: it looks peers up by the longest prefix among those that are configured, in both
// directions. Everything happens in the caller's goroutine.
type mesh struct {
	testing.TB
	ends map[string]*end
	// lost counts what WireGuard would not send, disallowed what it would not take.
	lost, disallowed int
	// wire sees each packet that is sent.
	wire  func(from, to *end, b []byte)
	busy  bool
	bufs  [][]byte
	sizes []int
}

// end is one device.
type end struct {
	mesh    *mesh
	name    string
	dev     *Device
	inner   *fakeTUN
	id      key.DevicePublic
	node    key.NodePublic
	own     []netip.Addr
	allowed *bart.Table[*end]
	words   []string // "from: payload"
	probes  []string // "target id seq"
	begun   int      // what OnUse was told
	wanted  []key.NodePublic
}

func newMesh(t testing.TB) *mesh {
	m := &mesh{TB: t, ends: map[string]*end{}}
	m.bufs, m.sizes = buffers(16)
	return m
}

// add makes a device with these addresses.
func (m *mesh) add(name string, own ...string) *end {
	e := &end{mesh: m, name: name, inner: newFakeTUN(), id: key.NewDevice().Public(), node: key.NewNode().Public(), allowed: new(bart.Table[*end])}
	for _, a := range own {
		e.own = append(e.own, netip.MustParseAddr(a))
	}
	e.dev = Wrap(e.inner, Config{
		Wanted: func(k key.NodePublic) { e.wanted = append(e.wanted, k) },
		OnWord: func(from key.DevicePublic, payload []byte) {
			name := "stranger"
			for _, o := range m.ends {
				if o.id.Equal(from) {
					name = o.name
				}
			}
			e.words = append(e.words, name+": "+string(payload))
		},
		OnProbe: func(target netip.Addr, id, seq uint16) { e.probes = append(e.probes, fmt.Sprint(target, id, seq)) },
		OnUse:   func() { e.begun++ },
		Filter:  filter.Config{Records: true},
	})
	m.Cleanup(func() { e.dev.Close() })
	m.ends[name] = e
	return e
}

// plan is what a device is told: what it carries, its peers with what they carry for it, who carries the same, and grants.
type plan struct {
	carries  []string
	peers    map[string][]string
	siblings map[string][]string
	grants   []string
}

var probeAddresses = []netip.Addr{netip.MustParseAddr("100.64.255.254"), netip.MustParseAddr("fd00::ffff")}

func prefixes(list []string) []netip.Prefix {
	out := []netip.Prefix{}
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// knows publishes a plan and has all its peers configured.
func (e *end) knows(p plan) {
	e.mesh.Helper()
	rules, err := filter.Compile(parseGrants(e.mesh, p.grants...))
	if err != nil {
		e.mesh.Fatal(err)
	}
	u := Update{
		Self: append(hosts(e.own), prefixes(p.carries)...), Addresses: e.own, Probe: probeAddresses,
		Overlay: prefixes([]string{"100.64.0.0/16", "fd00::/64"}), Rules: rules, Siblings: []Sibling{},
	}
	for cidr, names := range p.siblings {
		s := Sibling{Prefix: netip.MustParsePrefix(cidr)}
		for _, n := range names {
			s.Devices = append(s.Devices, e.mesh.ends[n].id)
		}
		u.Siblings = append(u.Siblings, s)
	}
	for _, o := range e.mesh.ends {
		if _, ok := p.peers[o.name]; !ok {
			u.Gone = append(u.Gone, o.node)
		}
	}
	e.allowed = new(bart.Table[*end])
	for name, carries := range p.peers {
		o := e.mesh.ends[name]
		peer := Peer{Node: o.node, Device: o.id, Prefixes: append(hosts(o.own), prefixes(carries)...), Addresses: o.own}
		u.Put = append(u.Put, peer)
		for _, x := range peer.Prefixes {
			e.allowed.Insert(x, o)
		}
	}
	e.dev.Update(u)
	for name := range p.peers {
		e.dev.Configured(e.mesh.ends[name].node, true)
	}
	e.mesh.settle()
}

// sends has the host send a packet.
func (e *end) sends(b []byte) {
	bufs, sizes := e.mesh.bufs[:1], e.mesh.sizes[:1]
	sizes[0] = copy(bufs[0][room:], b)
	if e.dev.outgoing(bufs, sizes, room) == 1 {
		e.transmit(bytes.Clone(bufs[0][room : room+sizes[0]]))
	}
	e.mesh.settle()
}

// settle carries what devices want to send on their own until nothing does.
func (m *mesh) settle() {
	if m.busy {
		return
	}
	m.busy = true
	defer func() { m.busy = false }()
	bufs, sizes := m.bufs, m.sizes
	for again := true; again; {
		again = false
		for _, e := range m.ends {
			n := e.dev.takeReleased(bufs, sizes, room)
			if n == 0 {
				n = e.dev.takeInjected(bufs, sizes, room)
			}
			for i := range n {
				e.transmit(bufs[i][room : room+sizes[i]])
			}
			again = again || n > 0
		}
	}
}

// transmit is WireGuard's part.
func (e *end) transmit(b []byte) {
	m := e.mesh
	src, dst, err := filter.Addresses(b)
	if err != nil {
		m.Fatalf("%s sends % x", e.name, b)
	}
	to, ok := e.allowed.Lookup(dst)
	if !ok {
		m.lost++
		return
	}
	if m.wire != nil {
		m.wire(e, to, b)
	}
	if from, ok := to.allowed.Lookup(src); !ok || from != e {
		m.disallowed++
		return
	}
	to.takes(b)
}

// takes has a packet come out of WireGuard.
func (e *end) takes(b []byte) {
	if n, err := e.dev.Write([][]byte{append(make([]byte, room), b...)}, room); n != 1 || err != nil {
		e.mesh.Fatalf("Write: %d, %v", n, err)
	}
	e.mesh.settle()
}

// hears gives what the host has received since the last time.
func (e *end) hears() (out [][]byte) {
	e.inner.mu.Lock()
	defer e.inner.mu.Unlock()
	out, e.inner.written = e.inner.written, nil
	return out
}

// raw is a packet of any protocol and family.
func raw(proto uint8, src, dst string, payload []byte) []byte {
	a, to := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	b := make([]byte, headerSize(a)+len(payload))
	putHeader(b, proto, a, to)
	copy(b[headerSize(a):], payload)
	return b
}
