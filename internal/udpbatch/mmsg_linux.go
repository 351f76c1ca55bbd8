package udpbatch

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlSize is room for the control messages of one datagram: packet info of either family and a segment size.
const controlSize = 128

// Sendmmsg and recvmmsg are the system calls as they are. Pointers inside the headers point to the heap, which does not move, and the
// headers keep what they point to alive.
func Sendmmsg(fd uintptr, m []unix.Mmsghdr) (int, syscall.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), 0, 0, 0)
	return int(n), errno
}

func recvmmsg(fd uintptr, m []unix.Mmsghdr) (int, syscall.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), 0, 0, 0)
	return int(n), errno
}

// wireAddr is a destination and a source as the kernel wants them. With mapped the socket is an IPv6 one that carries IPv4 too.
type wireAddr struct {
	name    [unix.SizeofSockaddrInet6]byte
	nameLen uint32
	control [controlSize]byte // packet info, if the source is pinned
	ctlLen  int
}

func newWireAddr(from Source, remote netip.AddrPort, mapped bool) wireAddr {
	var w wireAddr
	a := remote.Addr()
	if a.Is4() && !mapped {
		w.nameLen = unix.SizeofSockaddrInet4
		binary.NativeEndian.PutUint16(w.name[0:], unix.AF_INET)
		ip := a.As4()
		copy(w.name[4:], ip[:])
	} else {
		w.nameLen = unix.SizeofSockaddrInet6
		binary.NativeEndian.PutUint16(w.name[0:], unix.AF_INET6)
		ip := a.As16()
		copy(w.name[8:], ip[:])
		binary.NativeEndian.PutUint32(w.name[24:], zoneIndex(a.Zone()))
	}
	binary.BigEndian.PutUint16(w.name[2:], remote.Port())
	w.ctlLen = putPktinfo(w.control[:], from, mapped)
	return w
}

func zoneIndex(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	return 0
}

// readAddr is the other way: the source of a received datagram.
func readAddr(name []byte) netip.AddrPort {
	if len(name) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}
	}
	port := binary.BigEndian.Uint16(name[2:])
	switch binary.NativeEndian.Uint16(name) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(name[4:8])), port)
	case unix.AF_INET6:
		if len(name) < unix.SizeofSockaddrInet6 {
			return netip.AddrPort{}
		}
		a := netip.AddrFrom16([16]byte(name[8:24]))
		if scope := binary.NativeEndian.Uint32(name[24:]); scope != 0 && a.IsLinkLocalUnicast() {
			a = a.WithZone(strconv.FormatUint(uint64(scope), 10))
		}
		return netip.AddrPortFrom(a.Unmap(), port)
	}
	return netip.AddrPort{}
}

// putControl writes the header of a control message and gives its data and its whole size.
func putControl(b []byte, level, kind int32, size int) (data []byte, n int) {
	h := unix.Cmsghdr{Level: level, Type: kind}
	h.SetLen(unix.CmsgLen(size))
	copy(b, (*[unix.SizeofCmsghdr]byte)(unsafe.Pointer(&h))[:])
	return b[unix.CmsgLen(0):unix.CmsgLen(size)], unix.CmsgSpace(size)
}

// putPktinfo writes the control message that pins the source and gives its size, 0 for no address.
func putPktinfo(b []byte, from Source, mapped bool) int {
	switch local := from.Local; {
	case local.Is4() && !mapped:
		data, n := putControl(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		binary.NativeEndian.PutUint32(data, uint32(from.Interface)) // ipi_ifindex
		ip := local.As4()
		copy(data[4:], ip[:]) // ipi_spec_dst
		return n
	case local.Is4(): // IPv4 mapped into IPv6 is routed as IPv4
		data, n := putControl(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		ip := local.As16()
		copy(data, ip[:])
		binary.NativeEndian.PutUint32(data[16:], uint32(from.Interface))
		return n
	case local.IsValid():
		data, n := putControl(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		index := zoneIndex(local.Zone())
		if index != 0 || from.Interface == 0 {
			ip := local.As16()
			copy(data, ip[:]) // ipi6_addr
		} else {
			// With an address the kernel takes the interface for a wish that the first metric overrides.
			index = uint32(from.Interface)
		}
		binary.NativeEndian.PutUint32(data[16:], index)
		return n
	}
	return 0
}

func putSegment(b []byte, size int) int {
	data, n := putControl(b, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)
	binary.NativeEndian.PutUint16(data, uint16(size))
	return n
}

// control finds the data of a control message, or nil.
func control(b []byte, level, kind int32) []byte {
	for len(b) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			return nil
		}
		if h.Level == level && h.Type == kind {
			return data
		}
		b = rest
	}
	return nil
}

// txBatch is what one sendmmsg needs.
type txBatch struct {
	headers  [BatchSize]unix.Mmsghdr
	vectors  [BatchSize]unix.Iovec
	controls [BatchSize][controlSize]byte
	first    [BatchSize + 1]int // which packet each message begins with; the end behind the last

	sock       *Conn
	begin, end int // messages still to go
	errno      syscall.Errno
	call       func(fd uintptr) bool
}

// txPool is shared by all sockets: what is in it belongs to nobody.
var txPool = sync.Pool{New: func() any {
	t := new(txBatch)
	t.call = t.once
	return t
}}

// Send sends datagrams to one destination, in as few messages as the offload allows. It keeps nothing of bufs, except in a TooLongError.
func (s *Conn) Send(bufs [][]byte, r *Route) error {
	t := txPool.Get().(*txBatch)
	defer txPool.Put(t)
	t.sock = s
	defer t.clear()
	var long [][]byte
	for len(bufs) > 0 {
		gso := s.gso.Load() && !r.noGSO.Load()
		taken := t.pack(bufs, r, gso)
		err := t.write()
		if err == nil {
			bufs = bufs[taken:]
			continue
		}
		bufs = bufs[t.first[t.begin]:]
		single := t.first[t.begin+1]-t.first[t.begin] == 1
		switch {
		case single && err == unix.EMSGSIZE:
			long = append(long, bufs[0])
			bufs = bufs[1:]
		case single || !s.giveUpGSO(err, r):
			return err
		}
	}
	if long != nil {
		return &TooLongError{long}
	}
	return nil
}

// giveUpGSO reports whether packets that could not leave as a train may do so one by one.
func (s *Conn) giveUpGSO(err error, r *Route) bool {
	switch err {
	case unix.EIO: // the device below computes no checksums, or the kernel will not say why
		if s.gso.Swap(false) {
			s.log.Warn("UDP segmentation offload switched off: the kernel refused it", "network", s.network, "err", err)
		}
		return true
	case unix.EINVAL, unix.EMSGSIZE: // longer than this path's MTU: trains are never fragmented, single packets are
		r.noGSO.Store(true)
		return true
	}
	return false
}

// pack describes packets to the kernel and gives how many it took.
func (t *txBatch) pack(bufs [][]byte, r *Route, gso bool) int {
	taken, messages := 0, 0
	bufs = bufs[:min(len(bufs), BatchSize)]
	for taken < len(bufs) {
		n := 1
		if gso {
			n = train(bufs[taken:])
		}
		for i := taken; i < taken+n; i++ {
			t.vectors[i].Base = unsafe.SliceData(bufs[i])
			t.vectors[i].SetLen(len(bufs[i]))
		}
		c := &t.controls[messages]
		used := copy(c[:], r.wire.control[:r.wire.ctlLen])
		if n > 1 {
			used += putSegment(c[used:], len(bufs[taken]))
		}
		h := &t.headers[messages].Hdr
		h.Name, h.Namelen = &r.wire.name[0], r.wire.nameLen
		h.Iov = &t.vectors[taken]
		h.SetIovlen(n)
		h.Control = nil
		if used > 0 {
			h.Control = &c[0]
		}
		h.SetControllen(used)
		t.first[messages] = taken
		taken += n
		messages++
	}
	t.begin, t.end, t.first[messages] = 0, messages, taken
	return taken
}

// write sends the packed messages, waiting while the socket's buffer is full. After an error begin is the message that it is about.
func (t *txBatch) write() error {
	for t.begin < t.end {
		if err := t.sock.raw.Write(t.call); err != nil {
			return err
		}
		if t.errno != 0 {
			return t.errno
		}
	}
	return nil
}

// once is one system call; false makes the runtime wait until the socket can be written.
func (t *txBatch) once(fd uintptr) bool {
	n, errno := t.sock.sendmmsg(fd, t.headers[t.begin:t.end])
	t.errno = 0
	switch errno {
	case 0:
		t.begin += n
	case unix.EAGAIN:
		return false
	case unix.EINTR:
	default:
		t.errno = errno
	}
	return true
}

// clear lets go of everything that is not the batch's own.
func (t *txBatch) clear() {
	for i := range t.vectors {
		t.vectors[i].Base = nil
		t.headers[i].Hdr.Name = nil
	}
	t.sock = nil
}

// With GRO a message may hold a whole train, so a read brings few messages into large buffers of our own; without it, each message is
// one datagram and goes right into WireGuard's buffers.
const (
	groMessages = 16
	groBuffer   = 1 << 16
)

// Reader receives, for one goroutine.
type Reader struct {
	headers  []unix.Mmsghdr
	vectors  []unix.Iovec
	names    [][unix.SizeofSockaddrInet6]byte
	controls [][controlSize]byte
	own      [][]byte // with GRO
	bufs     [][]byte // what the last read filled

	sock  *Conn
	limit int
	n     int
	errno syscall.Errno
	call  func(fd uintptr) bool
}

// NewReader makes a reader of s.
func NewReader(s *Conn) *Reader {
	n := BatchSize
	if s.gro {
		n = groMessages
	}
	r := &Reader{
		sock:    s,
		headers: make([]unix.Mmsghdr, n), vectors: make([]unix.Iovec, n),
		names: make([][unix.SizeofSockaddrInet6]byte, n), controls: make([][controlSize]byte, n),
	}
	r.call = r.once
	if s.gro {
		for range n {
			r.own = append(r.own, make([]byte, groBuffer))
		}
	}
	for i := range r.headers {
		h := &r.headers[i].Hdr
		h.Name, h.Iov, h.Control = &r.names[i][0], &r.vectors[i], &r.controls[i][0]
		h.SetIovlen(1)
	}
	return r
}

// Own gives the reader's own buffers, which Read fills instead of those that it is given; nil where it has none.
func (r *Reader) Own() [][]byte { return r.own }

// Read waits for datagrams and takes what is there, into bufs or, with GRO, into buffers of its own. It tells how many messages came.
func (r *Reader) Read(bufs [][]byte) (int, error) {
	r.bufs = bufs
	if r.own != nil {
		r.bufs = r.own
	}
	r.limit = min(len(r.bufs), len(r.headers))
	for i := range r.limit {
		r.vectors[i].Base = unsafe.SliceData(r.bufs[i])
		r.vectors[i].SetLen(len(r.bufs[i]))
		h := &r.headers[i].Hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(controlSize)
	}
	for {
		if err := r.sock.raw.Read(r.call); err != nil {
			return 0, err
		}
		switch r.errno {
		case 0:
			return r.n, nil
		case unix.EINTR:
		default:
			return 0, r.errno
		}
	}
}

func (r *Reader) once(fd uintptr) bool {
	r.n, r.errno = r.sock.recvmmsg(fd, r.headers[:r.limit])
	return r.errno != unix.EAGAIN
}

// Message gives the bytes of one message and the size of the datagrams in it, 0 for a single one.
func (r *Reader) Message(i int) (data []byte, segment int) {
	if r.sock.gro {
		if d := control(r.control(i), unix.IPPROTO_UDP, unix.UDP_GRO); len(d) >= 4 {
			segment = int(int32(binary.NativeEndian.Uint32(d)))
		}
	}
	return r.bufs[i][:min(int(r.headers[i].Len), len(r.bufs[i]))], segment
}

func (r *Reader) control(i int) []byte {
	return r.controls[i][:min(int(r.headers[i].Hdr.Controllen), controlSize)]
}

// Source is where a message came from.
func (r *Reader) Source(i int) netip.AddrPort {
	return readAddr(r.names[i][:min(r.headers[i].Hdr.Namelen, unix.SizeofSockaddrInet6)])
}

// Local is the address that a message was sent to.
func (r *Reader) Local(i int) netip.Addr {
	c := r.control(i)
	if d := control(c, unix.IPPROTO_IP, unix.IP_PKTINFO); len(d) >= unix.SizeofInet4Pktinfo {
		return netip.AddrFrom4([4]byte(d[4:8])) // ipi_spec_dst
	}
	if d := control(c, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO); len(d) >= unix.SizeofInet6Pktinfo {
		return netip.AddrFrom16([16]byte(d[:16])).Unmap()
	}
	return netip.Addr{}
}
