package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var byValue = cmpopts.EquateComparable(netip.Addr{})

func addrs(texts ...string) (out []netip.Addr) {
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

// internet is a resolver and hosts.
type internet struct {
	mu sync.Mutex
	// names are what the resolver says; nil: it does not answer.
	names map[string][]netip.Addr
	// up are the hosts that answer; the others do not at all.
	up     []string
	dialed []string
}

func (w *internet) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	w.mu.Lock()
	names := w.names
	w.mu.Unlock()
	if names == nil {
		select {
		case <-time.After(20 * time.Second):
			return nil, errors.New("the resolver does not answer")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if a, ok := names[name]; ok {
		return a, nil
	}
	return nil, errors.New("no such name")
}

type end struct {
	net.Conn
	at string
}

func (w *internet) dial(ctx context.Context, _, address string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dialed = append(w.dialed, address)
	if !slices.Contains(w.up, address) {
		w.mu.Unlock()
		<-ctx.Done()
		w.mu.Lock()
		return nil, ctx.Err()
	}
	c, _ := net.Pipe()
	return end{c, address}, nil
}

func (w *internet) open(file string) *Book {
	return Open(Config{File: file, Resolve: w.resolve, Dial: w.dial})
}

// want has it that a connection comes about to an address within a time.
func want(t *testing.T, b *Book, to, at string, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	c, err := b.DialContext(ctx, "tcp", to)
	if err != nil {
		t.Errorf("to %s: %v", to, err)
		return
	}
	defer c.Close()
	if got := c.(end).at; got != at {
		t.Errorf("to %s: connected to %s, want %s", to, got, at)
	}
}

// TestWithoutResolver: after a restart, with a resolver that fails or is silent, the hosts are found.
func TestWithoutResolver(t *testing.T) {
	for name, after := range map[string]map[string][]netip.Addr{"fails": {}, "silent": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "addresses")
				w := &internet{
					names: map[string][]netip.Addr{"vpn.example.com": addrs("192.0.2.1", "2001:db8::1"), "relay.example.com": addrs("192.0.2.9")},
					up:    []string{"192.0.2.1:443", "192.0.2.9:443"},
				}
				b := w.open(file)
				want(t, b, "vpn.example.com:443", "192.0.2.1:443", time.Second)
				want(t, b, "relay.example.com:443", "192.0.2.9:443", time.Second)
				w.names = after
				b = w.open(file)
				want(t, b, "vpn.example.com:443", "192.0.2.1:443", headStart+time.Second)
				got, err := b.Lookup(t.Context(), "relay.example.com")
				if diff := cmp.Diff(addrs("192.0.2.9"), got, byValue); diff != "" || err != nil {
					t.Errorf("%v (-want +got):\n%s", err, diff)
				}
				if _, err := b.Lookup(t.Context(), "other.example.com"); err == nil {
					t.Error("a host that nobody knows is found")
				}
			})
		})
	}
}

// TestMoved: the resolver is believed before what is remembered, but what is remembered is not forgotten for an answer that leads nowhere.
func TestMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &internet{names: map[string][]netip.Addr{"vpn.example.com": addrs("192.0.2.1")}, up: []string{"192.0.2.1:443"}}
		b := w.open(filepath.Join(t.TempDir(), "addresses"))
		want(t, b, "vpn.example.com:443", "192.0.2.1:443", time.Second)
		w.names["vpn.example.com"] = addrs("198.51.100.1") // of a captive portal, say
		want(t, b, "vpn.example.com:443", "192.0.2.1:443", time.Second)
		w.up = []string{"198.51.100.1:443", "192.0.2.1:443"}
		want(t, b, "vpn.example.com:443", "198.51.100.1:443", time.Second)
		if diff := cmp.Diff(addrs("198.51.100.1", "192.0.2.1"), b.known("vpn.example.com"), byValue); diff != "" {
			t.Errorf("remembered (-want +got):\n%s", diff)
		}
	})
}

// TestFamilies: where one family leads nowhere the other is tried soon.
func TestFamilies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &internet{
			names: map[string][]netip.Addr{"vpn.example.com": addrs("2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1")}, up: []string{"192.0.2.1:443"},
		}
		want(t, w.open(""), "vpn.example.com:443", "192.0.2.1:443", stagger+time.Millisecond)
	})
}

func TestNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &internet{names: map[string][]netip.Addr{"vpn.example.com": addrs("192.0.2.1", "192.0.2.2")}}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if c, err := w.open("").DialContext(ctx, "tcp", "vpn.example.com:443"); err == nil {
			c.Close()
			t.Error("connected")
		}
		if diff := cmp.Diff([]string{"192.0.2.1:443", "192.0.2.2:443"}, w.dialed); diff != "" {
			t.Error(diff)
		}
	})
}

// TestAddressesAreDialed: an address needs no resolver, and is not remembered.
func TestAddressesAreDialed(t *testing.T) {
	w := &internet{up: []string{"192.0.2.1:443", "[2001:db8::1]:443"}}
	b := w.open("")
	want(t, b, "192.0.2.1:443", "192.0.2.1:443", time.Second)
	want(t, b, "[2001:db8::1]:443", "[2001:db8::1]:443", time.Second)
	if len(b.hosts) != 0 {
		t.Errorf("remembered %+v", b.hosts)
	}
}

// TestBounds: a resolver or a file with very much makes nothing large.
func TestBounds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "addresses")
	w := &internet{names: map[string][]netip.Addr{}}
	var many []netip.Addr
	for i := range 100 {
		many = append(many, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	b := w.open(file)
	for i := range 2 * maxHosts {
		name := fmt.Sprintf("h%d.example.com", i)
		w.names[name] = many
		if _, err := b.Lookup(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range []*Book{b, w.open(file)} {
		if len(b.hosts) != maxHosts || len(b.known("h0.example.com")) != 0 || len(b.known(fmt.Sprintf("h%d.example.com", 2*maxHosts-1))) != maxAddresses {
			t.Errorf("%d hosts", len(b.hosts))
		}
	}
	for what, text := range map[string]string{
		"damaged": "{", "wrong": `[{"name":"a","addresses":["x"]}]`, "useless": `[{"name":"","addresses":["192.0.2.1"]},{"name":"a","addresses":["0.0.0.0"]}]`,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if b := w.open(file); len(b.hosts) != 0 {
			t.Errorf("%s: %+v", what, b.hosts)
		}
	}
}
