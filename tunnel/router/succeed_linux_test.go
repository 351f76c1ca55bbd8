package router

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// duplicate is another open file of the same description, as the next process gets it.
func duplicate(t *testing.T, f *os.File) *os.File {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if err := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || fd < 0 {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "tun")
}

// TestSucceed: a router that takes over finds the host as the one before has left it, changes nothing that stays wanted, and takes back in the end
// what the other did. That the service manager has the interface open as well keeps nothing there.
func TestSucceed(t *testing.T) {
	if !inside(t) {
		return
	}
	before, forwarding := look(t), currentValue(t, forwarding4)
	cfg := Config{Name: name, MTU: 1420, Log: slog.New(slog.DiscardHandler), Journal: filepath.Join(t.TempDir(), "host")}
	s := State{
		Addresses: list("100.64.0.1/32", "fd00::1/128"), MTU: 1380, Network: list("100.64.0.0/16"), Routes: list("100.64.0.0/16", "10.0.0.0/8"),
		Carried: []Carried{{Prefix: list("192.168.7.0/24")[0], Kind: Masquerade}}, KillSwitch: true, KillSwitchLAN: list("192.168.7.0/24"),
	}
	r, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	must(t, r.Apply(s))
	store := duplicate(t, r.File())
	defer store.Close()
	for round := range 3 {
		want, tables := look(t), ruleset(t)
		cfg.TUN = duplicate(t, r.File())
		must(t, r.Leave())
		if diff := cmp.Diff(want, look(t)); diff != "" {
			t.Errorf("round %d: left otherwise (-want +got):\n%s", round, diff)
		}
		if r, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
		for _, what := range []string{"opened", "applied"} {
			if diff := cmp.Diff(want, look(t)); diff != "" {
				t.Errorf("round %d, %s (-want +got):\n%s", round, what, diff)
			}
			if diff := cmp.Diff(tables, ruleset(t)); diff != "" {
				t.Errorf("round %d, %s (-want +got):\n%s", round, what, diff)
			}
			must(t, r.Apply(s))
		}
		if got := currentValue(t, forwarding4); got != "1" {
			t.Errorf("round %d: forwarding is %s", round, got)
		}
	}
	must(t, r.Close())
	must(t, LiftKillSwitch())
	if diff := cmp.Diff(before, look(t)); diff != "" {
		t.Errorf("left behind (-want +got):\n%s", diff)
	}
	if got := currentValue(t, forwarding4); got != forwarding {
		t.Errorf("forwarding is %s, was %s", got, forwarding)
	}
	if tables := ruleset(t); strings.Contains(tables, "warren") {
		t.Errorf("left behind:\n%s", tables)
	}
	if _, err := os.Stat(cfg.Journal); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the journal is left: %v", err)
	}
}

func currentValue(t *testing.T, path string) string {
	t.Helper()
	v, err := readSysctl(path)
	must(t, err)
	return v
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSucceedRefuses: what is not the interface that is asked for is closed, and the host stays as it is.
func TestSucceedRefuses(t *testing.T) {
	if !inside(t) {
		return
	}
	made := func(name string) *os.File {
		d, err := tun.CreateTUN(name, 1420)
		must(t, err)
		t.Cleanup(func() { d.Close() })
		return duplicate(t, d.File())
	}
	gone := made("gone0")
	link, err := netlink.LinkByName("gone0")
	must(t, err)
	must(t, netlink.LinkDel(link))
	for what, c := range map[string]struct {
		f    *os.File
		says string
	}{
		"another name":      {made("another0"), "called another0"},
		"no interface":      {openFile(t, TUNFile), "no interface"},
		"one that is gone":  {gone, "no interface"},
		"another file":      {openFile(t, os.DevNull), "no interface"},
		"another kind":      {tap(t, name), "flags"},
		"another namespace": {elsewhere(t, made), "namespace"},
	} {
		before := look(t)
		r, err := Open(Config{Name: name, MTU: 1420, TUN: c.f})
		if !errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v", what, r, err)
		}
		if err := c.f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: the file was left open: %v", what, err)
		}
		if diff := cmp.Diff(before.Routes, look(t).Routes); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	if _, err := Open(Config{Name: "a/b", MTU: 1420, TUN: gone}); err == nil {
		t.Error("a name that is none")
	}
}

func openFile(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	return f
}

// tap is an interface that carries frames.
func tap(t *testing.T, name string) *os.File {
	t.Helper()
	f := openFile(t, TUNFile)
	ifr, err := unix.NewIfreq(name)
	must(t, err)
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	must(t, unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr))
	return f
}

// elsewhere is an interface of the right name in another network namespace.
func elsewhere(t *testing.T, made func(name string) *os.File) *os.File {
	t.Helper()
	out := make(chan *os.File)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		out <- made(name)
	}()
	return <-out
}

// ruleset is what nft shows of all tables, and fails without it.
func ruleset(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}
