package dnsforward

import (
	"bufio"
	"bytes"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// ResolvConf is the host's list of resolvers.
const ResolvConf = "/etc/resolv.conf"

// Bounds of what is read of it: as many servers as the C library takes (MAXNS), and what nobody's file has.
const maxServers, maxResolvConf = 3, 64 << 10

// lookEvery is how often the file is looked at, at most.
const lookEvery = time.Second

// File reads resolvers from a file as resolv.conf(5) tells, again when it has changed.
type File struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	looked  time.Time
	changed time.Time
	size    int64
	servers []netip.AddrPort
}

// NewFile makes a File; nil for now is the real clock.
func NewFile(path string, now func() time.Time) *File {
	if now == nil {
		now = time.Now
	}
	return &File{path: path, now: now}
}

// Resolvers are those of the file, which may be gone for a moment: then those of before.
func (f *File) Resolvers() []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if f.servers != nil && now.Sub(f.looked) < lookEvery && !now.Before(f.looked) {
		return f.servers
	}
	f.looked = now
	info, err := os.Stat(f.path)
	if err != nil || f.servers != nil && info.ModTime().Equal(f.changed) && info.Size() == f.size {
		return f.servers
	}
	b, err := os.ReadFile(f.path)
	if err != nil {
		return f.servers
	}
	f.servers, f.changed, f.size = parseResolvConf(b), info.ModTime(), info.Size()
	return f.servers
}

// parseResolvConf gives the name servers in a file's order; the host itself if there are none, as the C library does.
func parseResolvConf(b []byte) (out []netip.AddrPort) {
	for lines := bufio.NewScanner(bytes.NewReader(b[:min(len(b), maxResolvConf)])); lines.Scan() && len(out) < maxServers; {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && !a.IsMulticast() && !a.IsUnspecified() {
			out = append(out, netip.AddrPortFrom(a.Unmap(), Port))
		}
	}
	if len(out) == 0 {
		out = append(out, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), Port))
	}
	return out
}
