// Package names finds the addresses of the few hosts that the agent itself has to reach: coordinator, relays, STUN servers, a proxy. It remembers
// them on the disk, so that a host without a resolver finds its network again: under the kill switch, say, where the resolver's own questions may
// not leave. Open makes a Book; its Lookup and DialContext take the place of the resolver's and of a dialer's.
package names

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"warren/internal/atomicfile"
)

// Bounds of what is remembered, and of the file.
const (
	maxHosts     = 64
	maxAddresses = 8 // of one host
	maxFile      = 64 << 10
)

// headStart is what the resolver has before remembered addresses are used instead.
const headStart = time.Second

// stagger is the head start of an address before the next is tried, too, as in RFC 8305.
const stagger = 250 * time.Millisecond

// Config is what a Book is opened with.
type Config struct {
	// File keeps it; empty: nothing does.
	File string
	// Resolve asks the resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Dial connects to an address and port.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Log  *slog.Logger
}

// Book remembers addresses. Its methods may be called from anywhere.
type Book struct {
	cfg Config
	log *slog.Logger

	mu    sync.Mutex
	hosts []host // the latest last
}

// host is a name with its addresses, those that were good last first.
type host struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
}

// Open reads the file. One that cannot be used is told of and replaced in time.
func Open(cfg Config) *Book {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Book{cfg: cfg, log: cfg.Log}
	if cfg.File == "" {
		return b
	}
	hosts, err := read(cfg.File)
	if err != nil {
		b.log.Warn("remembered addresses are not used", "file", cfg.File, "err", err)
	}
	b.hosts = hosts
	return b
}

func read(file string) ([]host, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%d bytes, more than %d", len(data), maxFile)
	}
	var hosts []host
	if err := json.Unmarshal(data, &hosts); err != nil {
		return nil, err
	}
	for i := range hosts {
		hosts[i].Addresses = slices.DeleteFunc(hosts[i].Addresses, func(a netip.Addr) bool { return !usable(a) })
		hosts[i].Addresses = hosts[i].Addresses[:min(len(hosts[i].Addresses), maxAddresses)]
	}
	hosts = slices.DeleteFunc(hosts, func(h host) bool { return h.Name == "" || len(h.Addresses) == 0 })
	return hosts[max(0, len(hosts)-maxHosts):], nil
}

func usable(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() }

// Lookup gives a host's addresses: what the resolver says, or, if it fails or takes long, what it said in the past.
func (b *Book) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	old := b.known(name)
	type result struct {
		addrs []netip.Addr
		err   error
	}
	done := make(chan result, 1)
	go func() { // goes on after we have lost patience, so that the answer is remembered
		addrs, err := b.cfg.Resolve(context.WithoutCancel(ctx), name)
		addrs = slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !usable(a) })
		if err == nil && len(addrs) == 0 {
			err = fmt.Errorf("%s has no address", name)
		}
		if err == nil {
			b.remember(name, addrs)
		}
		done <- result{addrs, err}
	}()
	var late <-chan time.Time
	if len(old) > 0 {
		timer := time.NewTimer(headStart)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case r := <-done:
		if r.err != nil && len(old) > 0 {
			b.log.Info("a name is not resolved; its last addresses are tried", "name", name, "err", r.err)
			return old, nil
		}
		return r.addrs, r.err
	case <-late:
		return old, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (b *Book) known(name string) []netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := b.find(name); i >= 0 {
		return slices.Clone(b.hosts[i].Addresses)
	}
	return nil
}

func (b *Book) find(name string) int {
	return slices.IndexFunc(b.hosts, func(h host) bool { return h.Name == name })
}

// remember puts addresses before those that were known, and the host behind all others.
func (b *Book) remember(name string, addrs []netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := host{Name: name}
	i := b.find(name)
	for _, a := range addrs {
		if a = a.Unmap(); !slices.Contains(h.Addresses, a) {
			h.Addresses = append(h.Addresses, a)
		}
	}
	if i >= 0 {
		for _, a := range b.hosts[i].Addresses {
			if !slices.Contains(h.Addresses, a) {
				h.Addresses = append(h.Addresses, a)
			}
		}
	}
	h.Addresses = h.Addresses[:min(len(h.Addresses), maxAddresses)]
	if i >= 0 && slices.Equal(h.Addresses, b.hosts[i].Addresses) {
		return
	}
	if i >= 0 {
		b.hosts = slices.Delete(b.hosts, i, i+1)
	}
	b.hosts = append(b.hosts, h)
	b.hosts = b.hosts[max(0, len(b.hosts)-maxHosts):]
	b.save()
}

// save writes the file. A full disk must not keep the tunnel from coming up.
func (b *Book) save() {
	if b.cfg.File == "" {
		return
	}
	data, err := json.MarshalIndent(b.hosts, "", "\t")
	if err == nil {
		err = atomicfile.Write(b.cfg.File, append(data, '\n'))
	}
	if err != nil {
		b.log.Warn("addresses cannot be remembered", "file", b.cfg.File, "err", err)
	}
}

// DialContext connects to a host and port: to all addresses of the host, each a little later than the one before, and gives the first connection. One
// that was made is remembered as the best of its host's.
func (b *Book) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return b.cfg.Dial(ctx, network, address)
	}
	addrs, err := b.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, a := range b.known(name) { // those of the past come last: they may be all that works
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	c, at, err := b.race(ctx, network, interleaved(addrs), port)
	if err != nil {
		return nil, err
	}
	b.remember(name, []netip.Addr{at})
	return c, nil
}

// interleaved puts addresses of the two families in turn, beginning with that of the first.
func interleaved(addrs []netip.Addr) (out []netip.Addr) {
	var lists [2][]netip.Addr
	for _, a := range addrs {
		i := 0
		if a.Unmap().Is4() != addrs[0].Unmap().Is4() {
			i = 1
		}
		lists[i] = append(lists[i], a)
	}
	for i := range max(len(lists[0]), len(lists[1])) {
		for _, l := range lists {
			if i < len(l) {
				out = append(out, l[i])
			}
		}
	}
	return out
}

// race tries one address after the other, the next when one has failed or has taken long.
func (b *Book) race(ctx context.Context, network string, addrs []netip.Addr, port string) (net.Conn, netip.Addr, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c   net.Conn
		at  netip.Addr
		err error
	}
	results := make(chan result, len(addrs))
	started := 0
	next := func() {
		at := addrs[started]
		started++
		go func() {
			c, err := b.cfg.Dial(ctx, network, net.JoinHostPort(at.String(), port))
			results <- result{c, at, err}
		}()
	}
	next()
	timer := time.NewTicker(stagger)
	defer timer.Stop()
	var errs []error
	for {
		select {
		case r := <-results:
			if r.err == nil {
				go func(left int) { // close those that come too late
					for range left {
						if late := <-results; late.c != nil {
							late.c.Close()
						}
					}
				}(started - len(errs) - 1)
				return r.c, r.at, nil
			}
			if errs = append(errs, r.err); len(errs) == len(addrs) {
				return nil, netip.Addr{}, errors.Join(errs...)
			}
			if started < len(addrs) {
				next()
				timer.Reset(stagger)
			}
		case <-timer.C:
			if started < len(addrs) {
				next()
			}
		}
	}
}
