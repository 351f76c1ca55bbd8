package onetable

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/hostroutes"
)

// fakeSystem is an operating system's table and interface: one route for each prefix, and routes of its own to the addresses.
type fakeSystem struct {
	addresses []netip.Prefix
	table     []hostroutes.Route
	mtu       int
	changes   []string
	fail      map[string]error // by the words of a change
	// before is called with each change that is about to be made.
	before func(change string)
}

func (f *fakeSystem) do(change string) error {
	if f.before != nil {
		f.before(change)
	}
	if err := f.fail[change]; err != nil {
		return err
	}
	f.changes = append(f.changes, change)
	return nil
}

func (f *fakeSystem) Addresses() ([]netip.Prefix, error) { return slices.Clone(f.addresses), nil }

func (f *fakeSystem) AddAddress(p netip.Prefix) error {
	if err := f.do("address " + p.String()); err != nil {
		return err
	}
	f.addresses = append(f.addresses, p)
	f.table = append(f.table, hostroutes.Route{Prefix: p, Interface: tunnel})
	return nil
}

func (f *fakeSystem) RemoveAddress(p netip.Prefix) error {
	i := slices.Index(f.addresses, p)
	if i < 0 {
		return ErrGone
	}
	f.addresses = slices.Delete(f.addresses, i, i+1)
	return f.do("no address " + p.String())
}

func (f *fakeSystem) SetMTU(mtu int) error { f.mtu = mtu; return f.do("MTU") }

func (f *fakeSystem) Table() ([]hostroutes.Route, error) { return slices.Clone(f.table), nil }

func words(r hostroutes.Route) string {
	switch {
	case r.Interface == tunnel:
		return r.Prefix.String() + " into the tunnel"
	case r.Gateway.IsValid():
		return r.Prefix.String() + " by " + r.Gateway.String()
	}
	return r.Prefix.String() + " on the link"
}

func (f *fakeSystem) AddRoute(r hostroutes.Route) error {
	if slices.ContainsFunc(f.table, func(o hostroutes.Route) bool { return o.Prefix == r.Prefix }) {
		return ErrTaken
	}
	if err := f.do("route " + words(r)); err != nil {
		return err
	}
	f.table = append(f.table, r)
	return nil
}

func (f *fakeSystem) RemoveRoute(r hostroutes.Route) error {
	i := slices.IndexFunc(f.table, func(o hostroutes.Route) bool { return plain(o) == r })
	if i < 0 {
		return ErrGone
	}
	if err := f.do("no route " + words(r)); err != nil {
		return err
	}
	f.table = slices.Delete(f.table, i, i+1)
	return nil
}

// end is what becomes of the routes when the interface goes away.
func (f *fakeSystem) end() {
	f.table = slices.DeleteFunc(f.table, func(r hostroutes.Route) bool { return r.Interface == tunnel })
	f.addresses = nil
}

func (f *fakeSystem) take() string {
	out := strings.Join(f.changes, "\n")
	f.changes = nil
	return out
}

func wifi() []hostroutes.Route {
	return []hostroutes.Route{via("0.0.0.0/0", "192.168.1.1", lan), onLink("192.168.1.0/24", lan)}
}

func lines(text ...string) string { return strings.Join(text, "\n") }

func check(t *testing.T, what, want, got string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got)\n%s", what, d)
	}
}

func apply(t *testing.T, h *Host, s State) {
	t.Helper()
	if err := h.Apply(s); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestHostChangesWhatDiffers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	f := &fakeSystem{table: wifi(), addresses: prefixes("fe80::1/64 10.99.0.1/32")}
	h := NewHost(f, tunnel, 1280, path, "boot")
	s := State{Addresses: prefixes("100.64.0.5/32"), MTU: 1280, Routes: prefixes("100.64.0.0/10 192.168.0.0/16 10.5.5.5/32"), Local: prefixes("192.168.1.0/24")}
	apply(t, h, s)
	check(t, "first", lines("no address 10.99.0.1/32", "address 100.64.0.5/32", "route 100.64.0.0/10 into the tunnel", "route 192.168.0.0/16 into the tunnel",
		"route 10.5.5.5/32 into the tunnel"), f.take())
	if exists(path) {
		t.Error("a journal for routes that end with the interface")
	}
	apply(t, h, s)
	check(t, "again", "", f.take())

	s.Local, s.MTU, s.Routes = prefixes("192.168.1.1/32 192.168.7.0/24"), 1400, s.Routes[:2]
	apply(t, h, s)
	check(t, "the LAN no longer wins", lines("MTU", "no route 10.5.5.5/32 into the tunnel", "route 192.168.7.0/24 by 192.168.1.1", "route 192.168.1.1/32 on the link",
		"route 192.168.1.0/25 into the tunnel", "route 192.168.1.128/25 into the tunnel"), f.take())
	if f.mtu != 1400 || !exists(path) {
		t.Errorf("MTU %d, journal there: %v", f.mtu, exists(path))
	}

	// Another Wi-Fi: what led through the old router goes through the new one.
	f.table = append(slices.DeleteFunc(f.table, func(r hostroutes.Route) bool { return r.Prefix.Bits() == 0 }), via("0.0.0.0/0", "192.168.1.254", lan))
	apply(t, h, s)
	check(t, "another router", lines("no route 192.168.7.0/24 by 192.168.1.1", "route 192.168.7.0/24 by 192.168.1.254"), f.take())

	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	check(t, "Close", lines("no route 192.168.7.0/24 by 192.168.1.254", "no route 192.168.1.1/32 on the link"), f.take())
	if exists(path) {
		t.Error("the journal is left")
	}
}

func TestStale(t *testing.T) {
	f := &fakeSystem{table: wifi()}
	h := NewHost(f, tunnel, 1280, "", "")
	apply(t, h, State{Addresses: prefixes("100.64.0.5/32"), Routes: prefixes("10.0.0.0/8"), Local: prefixes("10.1.0.0/16")})
	good := slices.Clone(f.table)
	for name, c := range map[string]struct {
		table []hostroutes.Route
		want  bool
	}{
		"as it was":              {good, false},
		"another has one more":   {append(slices.Clone(good), onLink("172.16.0.0/16", other)), false},
		"a route is gone":        {slices.DeleteFunc(slices.Clone(good), func(r hostroutes.Route) bool { return r.Interface == tunnel && r.Prefix.Bits() == 8 }), true},
		"a LAN inside the route": {append(slices.Clone(good), onLink("10.7.0.0/24", other)), true},
		"another router": {append(slices.DeleteFunc(slices.Clone(good), func(r hostroutes.Route) bool { return r.Default() }),
			via("0.0.0.0/0", "192.168.1.254", lan)), true},
	} {
		t.Run(name, func(t *testing.T) {
			if f.table = c.table; h.Stale() != c.want {
				t.Errorf("Stale() = %v", !c.want)
			}
		})
	}
}

func TestHostDoesAllItCan(t *testing.T) {
	broken := errors.New("broken")
	f := &fakeSystem{table: wifi(), fail: map[string]error{"address 100.64.0.5/32": broken, "route 10.1.0.0/16 into the tunnel": broken}}
	h := NewHost(f, tunnel, 1280, "", "")
	s := State{Addresses: prefixes("100.64.0.5/32 fd77::5/128"), Routes: prefixes("10.1.0.0/16 10.2.0.0/16")}
	err := h.Apply(s)
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "10.1.0.0/16") || !strings.Contains(err.Error(), "100.64.0.5/32") {
		t.Errorf("err %v", err)
	}
	check(t, "the rest", lines("address fd77::5/128", "route 10.2.0.0/16 into the tunnel"), f.take())
	f.fail = nil
	apply(t, h, s)
	check(t, "what was left", lines("address 100.64.0.5/32", "route 10.1.0.0/16 into the tunnel"), f.take())
}

func TestJournalComesFirst(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	f := &fakeSystem{table: wifi()}
	f.before = func(change string) {
		if b, _ := os.ReadFile(path); strings.HasPrefix(change, "route 10.1.0.0/16") && !strings.Contains(string(b), "10.1.0.0/16") {
			t.Errorf("%q before the journal has it:\n%s", change, b)
		}
	}
	s := State{Routes: prefixes("10.0.0.0/8"), Local: prefixes("10.1.0.0/16")}
	apply(t, NewHost(f, tunnel, 1280, path, "boot"), s)
	check(t, "changes", lines("route 10.1.0.0/16 by 192.168.1.1", "route 10.0.0.0/8 into the tunnel"), f.take())

	// Where it cannot be written, nothing is changed that would outlive the process.
	g := &fakeSystem{table: wifi()}
	err := NewHost(g, tunnel, 1280, filepath.Join(dir, "missing", "journal"), "boot").Apply(s)
	if err == nil || !strings.Contains(err.Error(), "journal") {
		t.Errorf("err %v", err)
	}
	check(t, "without a journal", "route 10.0.0.0/8 into the tunnel", g.take())
}

// TestKilledAtAnyPoint ends the process before each change in turn: what the next one finds is cleaned up to the last route.
func TestKilledAtAnyPoint(t *testing.T) {
	type killed struct{}
	for seed := range uint64(25) {
		r := rand.New(rand.NewPCG(seed, 1))
		path := filepath.Join(t.TempDir(), "journal")
		f := &fakeSystem{table: wifi()}
		before := slices.Clone(f.table)
		left := r.IntN(12)
		f.before = func(string) {
			if left--; left < 0 {
				panic(killed{})
			}
		}
		func() {
			defer func() {
				if p := recover(); p != nil && p != (killed{}) {
					panic(p)
				}
			}()
			h := NewHost(f, tunnel, 1280, path, "boot")
			for range 4 {
				var s State
				for i := range 6 {
					p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16)
					switch r.IntN(3) {
					case 0:
						s.Local = append(s.Local, p)
					case 1:
						s.Routes = append(s.Routes, p)
					}
				}
				s.Routes = append(s.Routes, netip.MustParsePrefix("10.0.0.0/8"))
				apply(t, h, s)
			}
		}()
		f.end()
		f.before = nil
		if _, err := CleanUp(f, path, "boot"); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(before, f.table, sameAddr); d != "" || exists(path) {
			t.Fatalf("seed %d: journal there: %v; table (-want +got)\n%s", seed, exists(path), d)
		}
	}
}

func TestCleanUp(t *testing.T) {
	const good = `{"boot":"boot","routes":[{"prefix":"10.1.0.0/16","gateway":"192.168.1.1","interface":2},{"prefix":"10.2.0.0/16","interface":2}]}`
	for name, c := range map[string]struct {
		journal, boot, note, err string
		removed                  bool
	}{
		"routes":                {good, "boot", "removed 2 routes past the tunnel", "", true},
		"of a start before":     {good, "later", "", "", false},
		"no JSON":               {"{", "boot", "", "unexpected end of JSON", false},
		"no prefix":             {`{"boot":"boot","routes":[{"prefix":"","interface":2}]}`, "boot", "", "not a route", false},
		"host bits":             {`{"boot":"boot","routes":[{"prefix":"10.1.0.1/16","interface":2}]}`, "boot", "", "not a route", false},
		"gateway of the other":  {`{"boot":"boot","routes":[{"prefix":"10.1.0.0/16","gateway":"fe80::1","interface":2}]}`, "boot", "", "not a route", false},
		"no interface":          {`{"boot":"boot","routes":[{"prefix":"10.1.0.0/16","interface":0}]}`, "boot", "", "not a route", false},
		"too many":              {`{"boot":"boot","routes":[` + strings.Repeat(`{},`, maxRoutes) + `{}]}`, "boot", "", "at most 65536", false},
		"a route of none there": {`{"boot":"boot","routes":[{"prefix":"10.9.0.0/16","interface":2}]}`, "boot", "removed 1 routes past the tunnel", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal")
			if err := os.WriteFile(path, []byte(c.journal), 0o600); err != nil {
				t.Fatal(err)
			}
			f := &fakeSystem{table: append(wifi(), via("10.1.0.0/16", "192.168.1.1", lan), onLink("10.2.0.0/16", lan))}
			notes, err := CleanUp(f, path, c.boot)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("err %v, want %q", err, c.err)
			}
			check(t, "notes", c.note, strings.Join(notes, "\n"))
			if exists(path) {
				t.Error("the journal is left")
			}
			if removed := len(f.table) == len(wifi()); removed != c.removed {
				t.Errorf("removed: %v; %v", removed, f.table)
			}
		})
	}
	if notes, err := CleanUp(nil, filepath.Join(t.TempDir(), "none"), "boot"); err != nil || notes != nil {
		t.Errorf("without a journal: %v, %v", notes, err)
	}
}

// TestCleanUpKeepsWhatFails: the journal is there for another attempt.
func TestCleanUpKeepsWhatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	broken := errors.New("broken")
	f := &fakeSystem{table: wifi()}
	apply(t, NewHost(f, tunnel, 1280, path, "boot"), State{Routes: prefixes("10.0.0.0/8"), Local: prefixes("10.1.0.0/16")})
	f.fail = map[string]error{"no route 10.1.0.0/16 by 192.168.1.1": broken}
	if _, err := CleanUp(f, path, "boot"); !errors.Is(err, broken) || !exists(path) {
		t.Errorf("err %v, journal there: %v", err, exists(path))
	}
	f.fail = nil
	if notes, err := CleanUp(f, path, "boot"); err != nil || len(notes) != 1 || exists(path) {
		t.Errorf("notes %q, err %v, journal there: %v", notes, err, exists(path))
	}
}
