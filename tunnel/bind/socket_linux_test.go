package bind

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"

	"warren/internal/udpbatch"
	"warren/proto/key"
)

// segments is how many datagrams a message is to be cut into: 1 without a segment size.
func segments(m *unix.Mmsghdr) int { return int(m.Hdr.Iovlen) }

// kernel stands in for the kernel: it counts calls and answers some of them itself.
type kernel struct {
	sent   [][]int // datagrams of each message of each call, when it worked
	refuse func(m *unix.Mmsghdr) syscall.Errno
	most   int // messages taken in one call, 0 for all
}

func (k *kernel) sendmmsg(fd uintptr, m []unix.Mmsghdr) (int, syscall.Errno) {
	if k.most > 0 && len(m) > k.most {
		m = m[:k.most]
	}
	for i := range m {
		if errno := k.refuse(&m[i]); errno != 0 {
			if i == 0 {
				return 0, errno
			}
			m = m[:i] // as the kernel does: the error comes with the next call
			break
		}
	}
	n, errno := udpbatch.Sendmmsg(fd, m)
	var call []int
	for i := range n {
		call = append(call, segments(&m[i]))
	}
	k.sent = append(k.sent, call)
	return n, errno
}

func refuseTrains(errno syscall.Errno) func(*unix.Mmsghdr) syscall.Errno {
	return func(m *unix.Mmsghdr) syscall.Errno {
		if segments(m) > 1 {
			return errno
		}
		return 0
	}
}

func TestSendWithoutGSOAfterRefusal(t *testing.T) {
	sizes := slices.Concat([]int{200}, repeat(1000, 3), []int{50}) // one alone, then a train of four
	alone := []int{1, 1, 1, 1, 1}
	for name, c := range map[string]struct {
		errno     syscall.Errno
		gso       bool    // still on for the socket afterwards
		other     [][]int // how the same packets then go by another path
		wantFirst [][]int
	}{
		"EIO":      {unix.EIO, false, [][]int{alone}, [][]int{{1}, {1, 1, 1, 1}}},
		"EINVAL":   {unix.EINVAL, true, [][]int{{1, 4}}, [][]int{{1}, {1, 1, 1, 1}}},
		"EMSGSIZE": {unix.EMSGSIZE, true, [][]int{{1, 4}}, [][]int{{1}, {1, 1, 1, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			k := &kernel{refuse: refuseTrains(c.errno)}
			a := newStation(t, nil, func(s *udpbatch.Conn) { s.Override(k.sendmmsg, nil) })
			if !a.Stats().GSO4 {
				t.Fatal("this kernel has no UDP_SEGMENT")
			}
			b := newStation(t, nil, nil)
			ep := a.knows(t, b, 1, "127.0.0.1")
			b.knows(t, a, 2, "127.0.0.1")
			sent := transport(2, sizes...)
			send := func(want ...[]int) {
				t.Helper()
				k.sent = nil
				if err := a.Send(sent, ep); err != nil {
					t.Fatal(err)
				}
				for _, m := range sent {
					if got := next(t, b.received); got.data != string(m) {
						t.Fatalf("%d bytes came, want %d", len(got.data), len(m))
					}
				}
				if diff := cmp.Diff(want, k.sent); diff != "" {
					t.Errorf("messages (-want +got):\n%s", diff)
				}
			}
			send(c.wantFirst...)
			send(alone)
			if got := a.Stats().GSO4; got != c.gso {
				t.Errorf("GSO of the socket is %v, want %v", got, c.gso)
			}
			k.refuse = func(*unix.Mmsghdr) syscall.Errno { return 0 }
			a.knows(t, b, 1, "127.0.0.1") // a path of its own
			send(c.other...)
		})
	}
}

// TestSendErrors: what is not about trains is returned, whatever has gone before it.
func TestSendErrors(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.EIO, unix.EINVAL, unix.ENETUNREACH} {
		k := &kernel{refuse: func(m *unix.Mmsghdr) syscall.Errno {
			if segments(m) == 1 {
				return errno
			}
			return 0
		}}
		a, b := newStation(t, nil, func(s *udpbatch.Conn) { s.Override(k.sendmmsg, nil) }), newStation(t, nil, nil)
		ep := a.knows(t, b, 1, "127.0.0.1")
		if err := a.Send(transport(2, 500, 500, 1000), ep); !errors.Is(err, errno) {
			t.Errorf("got %v, want %v", err, errno)
		}
		if diff := cmp.Diff([][]int{{2}}, k.sent); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
		if got := a.Stats().SendErrors; got != 1 {
			t.Errorf("%d errors counted", got)
		}
	}
}

// TestSendInParts: the kernel takes a few messages at a time, and is interrupted.
func TestSendInParts(t *testing.T) {
	interrupted := false
	k := &kernel{most: 2, refuse: func(*unix.Mmsghdr) syscall.Errno {
		if interrupted = !interrupted; interrupted {
			return unix.EINTR
		}
		return 0
	}}
	a, b := newStation(t, nil, func(s *udpbatch.Conn) { s.Override(k.sendmmsg, nil) }), newStation(t, nil, nil)
	ep := a.knows(t, b, 1, "127.0.0.1")
	b.knows(t, a, 2, "127.0.0.1")
	sent := transport(2, 100, 200, 300, 400, 500, 600, 700)
	if err := a.Send(sent, ep); err != nil {
		t.Fatal(err)
	}
	for _, m := range sent {
		if got := next(t, b.received); got.data != string(m) {
			t.Fatalf("%d bytes came, want %d", len(got.data), len(m))
		}
	}
}

// TestSendMoreThanABatch: WireGuard's batches may be larger than ours.
func TestSendMoreThanABatch(t *testing.T) {
	a, b := newStation(t, nil, nil), newStation(t, nil, nil)
	ep := a.knows(t, b, 1, "127.0.0.1")
	b.knows(t, a, 2, "127.0.0.1")
	sent := transport(2, repeat(300, 3*udpbatch.BatchSize+1)...)
	if err := a.Send(sent, ep); err != nil {
		t.Fatal(err)
	}
	for i, m := range sent {
		if got := next(t, b.received); got.data != string(m) {
			t.Fatalf("message %d came out of order or changed", i)
		}
	}
}

// TestReceiveErrors: a socket that only fails is replaced, and nothing but closing ends the receive function.
func TestReceiveErrors(t *testing.T) {
	var made atomic.Int32
	s := newStation(t, nil, func(s *udpbatch.Conn) {
		if s.Network() == "udp4" && made.Add(1) == 1 {
			s.Override(nil, func(uintptr, []unix.Mmsghdr) (int, syscall.Errno) { return -1, unix.ENOTCONN })
		}
	})
	port := s.LocalPort()
	first := s.v4.Load()
	for s.v4.Load() == first || s.v4.Load() == nil {
		if err := s.WriteTo(netip.Addr{}, netip.AddrPortFrom(netip.MustParseAddr("::1"), port), []byte("turn")); err != nil {
			t.Fatal(err)
		}
		next(t, s.other) // lets time pass
	}
	if err := s.WriteTo(netip.Addr{}, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if got := next(t, s.other); got != "127.0.0.1 127.0.0.1 hello" {
		t.Errorf("got %q", got)
	}
	if got := s.Stats().ReceiveErrors; got != reopenAfter {
		t.Errorf("%d errors before the socket was replaced, want %d", got, reopenAfter)
	}
}

// TestClosedWhileFailing: a receive function that waits after an error ends at once on Close, which newStation's cleanup waits for.
func TestClosedWhileFailing(t *testing.T) {
	newStation(t, nil, func(s *udpbatch.Conn) {
		s.Override(nil, func(uintptr, []unix.Mmsghdr) (int, syscall.Errno) { return -1, unix.EBADF })
	})
}

func TestMarkAndBuffers(t *testing.T) {
	s := newStation(t, func(c *Config) { c.Mark = 0x1234 }, nil)
	sock := s.v4.Load()
	raw, err := sock.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(name int) (value int) {
		t.Helper()
		var optErr error
		if err := raw.Control(func(fd uintptr) { value, optErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, name) }); err != nil || optErr != nil {
			t.Fatal(err, optErr)
		}
		return value
	}
	marked := sock.MarkErr() == nil
	if got := option(unix.SO_MARK); marked && got != 0x1234 || !marked && got != 0 {
		t.Errorf("mark %#x; refused: %v", got, sock.MarkErr())
	}
	if err := s.SetMark(0x4321); err != nil {
		t.Errorf("SetMark: %v", err)
	}
	if got := option(unix.SO_MARK); marked && got != 0x4321 {
		t.Errorf("mark %#x after SetMark", got)
	}
	t.Logf("receive buffer %d bytes", option(unix.SO_RCVBUF))
}

// TestNoAllocations: sending and receiving cost no allocation once warm.
func TestNoAllocations(t *testing.T) {
	private := key.NewNode()
	a, b := newStation(t, nil, nil), New(Config{Private: private})
	fns, port, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	public := private.Public()
	ep, err := a.ParseEndpoint(public.String())
	if err != nil {
		t.Fatal(err)
	}
	a.SetPath(public, Path{Kind: Direct, Local: netip.MustParseAddr("127.0.0.1"), Remote: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)})
	b.index.learn(2, b.endpoints.get(a.key.Public()), 1)
	sent := transport(2, slices.Concat(repeat(1452, 40), []int{100})...)
	bufs, sizes, eps := packets(repeat(2000, udpbatch.BatchSize)...), make([]int, udpbatch.BatchSize), make([]conn.Endpoint, udpbatch.BatchSize)
	round := func() {
		if err := a.Send(sent, ep); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < len(sent); {
			n, err := fns[1](bufs, sizes, eps)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
	}
	if allocs := testing.AllocsPerRun(200, round); allocs > 1 { // under the race detector sync.Pool forgets some
		t.Errorf("%v allocations for %d packets", allocs, len(sent))
	}
}

func stockBind(b *testing.B) (conn.Bind, []conn.ReceiveFunc, uint16) {
	bind := conn.NewStdNetBind()
	fns, port, err := bind.Open(0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { bind.Close() })
	return bind, fns, port
}

// BenchmarkLoopback sends trains of 44 packets from one socket to another, by ours and by the stock Bind.
func BenchmarkLoopback(b *testing.B) {
	for _, size := range []int{1452, 180} {
		b.Run(fmt.Sprintf("ours/%d", size), func(b *testing.B) {
			private := key.NewNode()
			tx, rx := newStation(b, nil, nil), New(Config{Private: private})
			fns, port, err := rx.Open(0)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { rx.Close() })
			rx.index.learn(2, rx.endpoints.get(tx.key.Public()), 1)
			public := private.Public()
			tx.SetPath(public, Path{Kind: Direct, Remote: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)})
			run(b, tx.Bind, tx.endpoints.get(public), fns[1], size)
		})
		b.Run(fmt.Sprintf("stock/%d", size), func(b *testing.B) {
			tx, _, _ := stockBind(b)
			_, fns, port := stockBind(b)
			ep, err := tx.ParseEndpoint(net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
			if err != nil {
				b.Fatal(err)
			}
			run(b, tx, ep, fns[0], size)
		})
	}
}

func run(b *testing.B, tx conn.Bind, ep conn.Endpoint, receive conn.ReceiveFunc, size int) {
	store := packets(repeat(1<<16-1, 44)...)
	sent := make([][]byte, len(store))
	for i, m := range transport(2, repeat(size, len(store))...) {
		sent[i] = store[i][:copy(store[i], m)] // room to grow in, as the device's buffers have
	}
	bufs, sizes, eps := packets(repeat(1<<16-1, udpbatch.BatchSize)...), make([]int, udpbatch.BatchSize), make([]conn.Endpoint, udpbatch.BatchSize)
	b.SetBytes(int64(size * len(sent)))
	b.ReportAllocs()
	for b.Loop() {
		if err := tx.Send(sent, ep); err != nil {
			b.Fatal(err)
		}
		for got := 0; got < len(sent); {
			n, err := receive(bufs, sizes, eps)
			if err != nil {
				b.Fatal(err)
			}
			got += n
		}
	}
}
