package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/cmd/agent/internal/handover"
	"warren/cmd/agent/internal/state"
	"warren/proto/key"
	"warren/proto/record"
	"warren/tunnel/engine"
)

// fakeKeeper notes what it is told.
type fakeKeeper struct {
	absent bool
	refuse error
	told   []string
}

func (k *fakeKeeper) Present() bool { return !k.absent }

func (k *fakeKeeper) Keep(name string, files ...syscall.Conn) error {
	k.told = append(k.told, fmt.Sprintf("keep %s, %d", name, len(files)))
	return k.refuse
}

func (k *fakeKeeper) Forget(name string) error {
	k.told = append(k.told, "forget "+name)
	return k.refuse
}

func (k *fakeKeeper) Barrier(context.Context) error {
	k.told = append(k.told, "wait")
	return k.refuse
}

// TestStore: what is kept is forgotten once, and whoever has it forgotten waits until that is done.
func TestStore(t *testing.T) {
	k := new(fakeKeeper)
	s := &store{keeper: k, warn: slog.New(slog.DiscardHandler).Warn, kept: map[string]bool{}}
	s.keep("tun", os.Stdin)
	s.keep("udp", os.Stdin)
	if !s.has("tun") || s.has("other") {
		t.Error("what is kept is not known")
	}
	s.forget("tun", "other")
	s.forget("tun")
	if want := []string{"keep tun, 1", "keep udp, 1", "forget tun", "wait"}; !cmp.Equal(want, k.told) {
		t.Errorf("told %q, want %q", k.told, want)
	}
	k.refuse = errors.New("no room")
	if s.keep("tun", os.Stdin); s.has("tun") {
		t.Error("what is refused counts as kept")
	}
	none := &fakeKeeper{absent: true}
	for _, s := range []*store{{keeper: none, kept: map[string]bool{"tun": true}}, {kept: map[string]bool{"tun": true}}} {
		s.keep("tun", os.Stdin)
		s.forget("tun")
	}
	if none.told != nil {
		t.Errorf("a manager that is not there was told %q", none.told)
	}
}

// heir is a daemon that has begun, of a device that has joined.
func heir(t *testing.T, k *fakeKeeper, log *bytes.Buffer) *daemon {
	t.Helper()
	l := slog.New(slog.NewTextHandler(log, nil))
	st := &state.State{Up: true, Device: key.NewDevice(), Node: key.NewNode(), Membership: &state.Membership{Network: record.NetworkID{1}}}
	cfg := Config{StateDir: t.TempDir(), Keeper: k, Log: l}
	return &daemon{cfg: cfg, log: l, state: st, store: &store{keeper: k, warn: l.Warn, kept: map[string]bool{}}}
}

// left gives files as a daemon before has left them, with what it knew.
func left(t *testing.T, b []byte) handover.Files {
	t.Helper()
	files := handover.Files{}
	for _, name := range []string{handover.TUN, handover.UDP4} {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = f
	}
	f, err := handover.Seal(b)
	if err != nil {
		t.Fatal(err)
	}
	files[handover.Known] = f
	t.Cleanup(files.Close)
	return files
}

func encoded(t *testing.T, s *handover.State) []byte {
	t.Helper()
	now, err := handover.Now()
	if err != nil {
		t.Fatal(err)
	}
	b, err := handover.Encode(s, now)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestInherit: what the daemon before knew is used by the same device in the same network only, and forgotten by the manager whatever becomes of it.
func TestInherit(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*handover.State)
		bytes  []byte
		says   string
	}{
		"its own":         {func(*handover.State) {}, nil, ""},
		"another network": {func(s *handover.State) { s.Network[0]++ }, nil, "another device"},
		"another device":  {func(s *handover.State) { s.Device = key.NewDevice().Public() }, nil, "another device"},
		"damaged":         {nil, []byte("nonsense"), "damaged"},
		"empty":           {nil, []byte{}, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			k := new(fakeKeeper)
			d := heir(t, k, &log)
			b := c.bytes
			if c.change != nil {
				s := &handover.State{Network: d.state.Membership.Network, Device: d.state.Device.Public()}
				c.change(s)
				b = encoded(t, s)
			}
			files := left(t, b)
			known := files[handover.Known]
			d.cfg.Inherited = files
			in := d.inherit()
			if in == nil || (in.state != nil) != (c.says == "") || !strings.Contains(log.String(), c.says) {
				t.Fatalf("%+v; log %s", in, &log)
			}
			if _, err := known.Stat(); !errors.Is(err, os.ErrClosed) || in.files[handover.Known] != nil {
				t.Errorf("the file is still there: %v", err)
			}
			if want := []string{"forget " + handover.Known, "wait"}; !cmp.Equal(want, k.told) {
				t.Errorf("told %q, want %q", k.told, want)
			}
			if in.files[handover.TUN] == nil || in.files[handover.UDP4] == nil {
				t.Errorf("files %v", in.files)
			}
		})
	}
}

// TestInheritNothing: where no tunnel is wanted, or there is no interface, all is closed and forgotten.
func TestInheritNothing(t *testing.T) {
	for name, change := range map[string]func(*daemon, handover.Files){
		"down":         func(d *daemon, _ handover.Files) { d.state.Up = false },
		"no network":   func(d *daemon, _ handover.Files) { d.state.Membership = nil },
		"no interface": func(_ *daemon, f handover.Files) { f[handover.TUN].Close(); delete(f, handover.TUN) },
	} {
		k := new(fakeKeeper)
		d := heir(t, k, new(bytes.Buffer))
		files := left(t, encoded(t, &handover.State{Network: record.NetworkID{1}, Device: d.state.Device.Public()}))
		change(d, files)
		d.cfg.Inherited = files
		if in := d.inherit(); in != nil {
			t.Errorf("%s: %+v", name, in)
		}
		for n, f := range files {
			if _, err := f.Stat(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s: %s is open: %v", name, n, err)
			}
		}
		if len(k.told) < 3 || k.told[len(k.told)-1] != "wait" {
			t.Errorf("%s: told %q", name, k.told)
		}
	}
	k := new(fakeKeeper)
	if in := heir(t, k, new(bytes.Buffer)).inherit(); in != nil || k.told != nil {
		t.Errorf("of nothing: %+v, told %q", in, k.told)
	}
}

// TestReplaceChecksFirst: a program that cannot take over, or none that is known, leaves the daemon as it is.
func TestReplaceChecksFirst(t *testing.T) {
	broken := errors.New("exec format error")
	for name, c := range map[string]struct {
		check func(context.Context) (string, error)
		says  string
	}{
		"able":   {func(context.Context) (string, error) { return "v2", nil }, ""},
		"broken": {func(context.Context) (string, error) { return "", broken }, "goes on as it is: exec format error"},
		"none":   {nil, "restart its service"},
	} {
		d := heir(t, new(fakeKeeper), new(bytes.Buffer))
		var ended error
		d.end, d.cfg.Check = func(cause error) { ended = cause }, c.check
		version, err := d.replace(t.Context())
		if c.says == "" && (err != nil || version != "v2" || !errors.Is(ended, errReplace)) {
			t.Errorf("%s: %q, %v, ended by %v", name, version, err, ended)
		}
		if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || ended != nil) {
			t.Errorf("%s: %v, ended by %v", name, err, ended)
		}
	}
}

// TestRestarts: who cannot tell whether it is a restart takes it for a stop.
func TestRestarts(t *testing.T) {
	for name, c := range map[string]struct {
		asks func(context.Context) (bool, error)
		want bool
	}{
		"restart": {func(context.Context) (bool, error) { return true, nil }, true}, "stop": {func(context.Context) (bool, error) { return false, nil }, false},
		"unknown": {func(context.Context) (bool, error) { return true, errors.New("no bus") }, false}, "nobody": {nil, false},
	} {
		d := heir(t, new(fakeKeeper), new(bytes.Buffer))
		d.cfg.Restarts = c.asks
		if got := d.restarts(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestRestoredChoices: with the first map a CIDR goes to the gateway that it went to before, and not for a moment to another; what is not offered or wanted
// any more, it does not.
func TestRestoredChoices(t *testing.T) {
	lan, all := netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("0.0.0.0/0")
	for name, c := range map[string]struct {
		routing state.Routing
		before  map[netip.Prefix]string
		want    map[string][]netip.Prefix
	}{
		"as before":         {state.Routing{}, map[netip.Prefix]string{lan: "a"}, map[string][]netip.Prefix{"a": {lan}}},
		"nothing before":    {state.Routing{}, nil, map[string][]netip.Prefix{"b": {lan}}},
		"no gateway of it":  {state.Routing{}, map[netip.Prefix]string{lan: "plain"}, map[string][]netip.Prefix{"b": {lan}}},
		"refused by now":    {state.Routing{RefuseRoutes: true}, map[netip.Prefix]string{lan: "a"}, map[string][]netip.Prefix{}},
		"no exit node":      {state.Routing{}, map[netip.Prefix]string{all: "exit", lan: "a"}, map[string][]netip.Prefix{"a": {lan}}},
		"the exit node":     {state.Routing{ExitNode: "exit", RefuseRoutes: true}, map[netip.Prefix]string{all: "exit"}, map[string][]netip.Prefix{"exit": {all}}},
		"any exit node":     {state.Routing{ExitNode: autoExit, RefuseRoutes: true}, map[netip.Prefix]string{all: "exit"}, map[string][]netip.Prefix{"exit": {all}}},
		"another exit node": {state.Routing{ExitNode: "plain", RefuseRoutes: true}, map[netip.Prefix]string{all: "exit"}, map[string][]netip.Prefix{}},
	} {
		o := newOffice(t, c.routing)
		before := map[netip.Prefix]deviceKey{}
		for p, n := range c.before {
			for id, known := range o.host.names {
				if known == n {
					before[p] = id
				}
			}
		}
		watch := &watched{host: o.host, prefix: lan, carried: map[string]bool{}}
		o.engine = watch
		o.restore(before)
		o.use()
		got := map[string][]netip.Prefix{}
		for n, list := range o.host.peers {
			for _, p := range list {
				if p == lan || p == all {
					got[n] = append(got[n], p)
				}
			}
		}
		if diff := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if name == "as before" && len(watch.carried) != 1 {
			t.Errorf("%s: the CIDR went to %v", name, watch.carried)
		}
	}
}

// watched notes all peers that ever had a prefix.
type watched struct {
	*host
	prefix  netip.Prefix
	carried map[string]bool
}

func (w *watched) Update(c engine.Change) {
	w.host.Update(c)
	for name, list := range w.peers {
		if slices.Contains(list, w.prefix) {
			w.carried[name] = true
		}
	}
}
