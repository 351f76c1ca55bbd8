package tundev

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.zx2c4.com/wireguard/tun"

	"warren/proto/key"
	pb "warren/proto/warrenv1"
	"warren/tunnel/filter"
)

// fakeTUN is an inner device whose host is the test: batches go in by feed, and packets written come out of written.
type fakeTUN struct {
	batches chan fed
	closed  chan struct{}
	once    sync.Once

	mu      sync.Mutex
	written [][]byte
	fail    error // of Write
	discard bool  // keep nothing that is written
}

// fed is what one Read gives.
type fed struct {
	packets [][]byte
	err     error
}

func newFakeTUN() *fakeTUN {
	return &fakeTUN{batches: make(chan fed), closed: make(chan struct{})}
}

func (f *fakeTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case <-f.closed:
		return 0, os.ErrClosed
	case b := <-f.batches:
		for i, p := range b.packets {
			sizes[i] = copy(bufs[i][offset:], p)
		}
		return len(b.packets), b.err
	}
}

func (f *fakeTUN) Write(bufs [][]byte, offset int) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return 0, f.fail
	}
	for _, b := range bufs {
		if f.discard {
			break
		}
		f.written = append(f.written, append([]byte(nil), b[offset:]...))
	}
	return len(bufs), nil
}

func (f *fakeTUN) Close() error {
	f.once.Do(func() { close(f.closed) })
	return nil
}

func (f *fakeTUN) File() *os.File           { return nil }
func (f *fakeTUN) MTU() (int, error)        { return 1420, nil }
func (f *fakeTUN) Name() (string, error)    { return "fake0", nil }
func (f *fakeTUN) Events() <-chan tun.Event { return nil }
func (f *fakeTUN) BatchSize() int           { return 16 }

func (f *fakeTUN) feed(packets ...[]byte) { f.batches <- fed{packets: packets} }

const (
	us     = "100.64.0.1"
	room   = 16 // in front of packets, as WireGuard asks for
	header = 28
)

// packet is a UDP packet with a number in it.
func packet(src, dst string, number, size int) []byte {
	b := make([]byte, max(size, header+4))
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	a, to := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(b[12:], a[:])
	copy(b[16:], to[:])
	binary.BigEndian.PutUint16(b[20:], 1)
	binary.BigEndian.PutUint16(b[22:], 2)
	binary.BigEndian.PutUint32(b[header:], uint32(number))
	return b
}

func numberOf(b []byte) int { return int(binary.BigEndian.Uint32(b[header:])) }

func to(dst string, number int) []byte { return packet(us, dst, number, 0) }

func keys(n int) (out []key.NodePublic) {
	for range n {
		out = append(out, key.NewNode().Public())
	}
	return out
}

func rulesOf(t testing.TB, destination string) *filter.Rules {
	t.Helper()
	wire := func(s string) []*pb.Prefix {
		p := netip.MustParsePrefix(s)
		return []*pb.Prefix{{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())}}
	}
	r, err := filter.Compile([]*pb.Grant{
		{Sources: wire("0.0.0.0/0"), Destinations: wire(destination), Flows: []*pb.Flow{{Protocol: 17, LastPort: 65535}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// route is a prefix and the index of its peer.
type route struct {
	prefix string
	peer   int
}

func setMap(t testing.TB, d *Device, ks []key.NodePublic, destination string, list ...route) {
	t.Helper()
	u := Update{Self: ours(), Rules: rulesOf(t, destination)}
	for _, r := range list {
		i := slices.IndexFunc(u.Put, func(p Peer) bool { return p.Node.Equal(ks[r.peer]) })
		if i < 0 {
			i = len(u.Put)
			u.Put = append(u.Put, Peer{Node: ks[r.peer]})
		}
		u.Put[i].Prefixes = append(u.Put[i].Prefixes, netip.MustParsePrefix(r.prefix))
	}
	u.Gone = slices.DeleteFunc(slices.Clone(ks), func(k key.NodePublic) bool {
		return slices.ContainsFunc(u.Put, func(p Peer) bool { return p.Node.Equal(k) })
	})
	d.Update(u)
}

const all = "0.0.0.0/0"

func ours() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(us + "/32")} }

func buffers(n int) (bufs [][]byte, sizes []int) {
	for range n {
		bufs = append(bufs, make([]byte, 1<<16))
	}
	return bufs, make([]int, n)
}

// reading is a Read that goes on in the background, over and over.
type reading struct {
	got chan []byte
	err chan error
}

// readAll reads like WireGuard until the device fails; each packet goes to got.
func readAll(d *Device, batch int) *reading {
	r := &reading{got: make(chan []byte, 4096), err: make(chan error, 1)}
	go func() {
		bufs, sizes := buffers(batch)
		for {
			n, err := d.Read(bufs, sizes, room)
			for i := range n {
				r.got <- append([]byte(nil), bufs[i][room:room+sizes[i]]...)
			}
			if err != nil {
				r.err <- err
				return
			}
		}
	}()
	return r
}

// numbers are those of all packets that have been read so far.
func (r *reading) numbers() (out []int) {
	for {
		select {
		case b := <-r.got:
			out = append(out, numberOf(b))
		default:
			return out
		}
	}
}

func wantedOnce(c chan struct{}) func(key.NodePublic) {
	return func(key.NodePublic) { c <- struct{}{} }
}
