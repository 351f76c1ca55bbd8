package router

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// TestApply goes from state to state; what the kernel has afterwards is what was asked for, and after Close what it had before.
func TestApply(t *testing.T) {
	if !inside(t) {
		return
	}
	before := look(t)
	r := open(t, io.Discard)
	if r.Name() != name {
		t.Errorf("named %q", r.Name())
	}
	mtu := 1420
	for i, s := range []State{
		{},
		{Addresses: list("100.64.0.1/32"), Routes: list("100.64.0.0/16")},
		{Addresses: list("100.64.0.1/32", "fd00::1/128"), Routes: list("100.64.0.0/16", "fd00::/48"), MTU: 1280},
		{Addresses: list("100.64.0.1/32", "fd00::1/128"), Routes: list("100.64.0.0/16", "fd00::/48")},
		{Addresses: list("100.64.0.2/32", "fd00::1/128"), Routes: list("10.0.0.0/8", "100.64.0.0/16", "fd00::/48", "fd01::/64"), MTU: 1420},
		{Addresses: list("fd00::2/128"), Routes: list("10.0.0.0/8", "fd01::/64")},
		{Addresses: list("100.64.0.1/32"), Routes: list("10.0.0.0/8"), Local: list("10.0.0.0/8", "10.9.0.0/24", "fd02::/64")},
		{Addresses: list("100.64.0.1/32"), Routes: list("10.0.0.0/8", "0.0.0.0/0"), Local: list("10.8.0.0/24", "10.9.0.1/32")},
		{Addresses: list("100.64.0.1/32"), Routes: list("10.8.0.0/24", "::/0"), Local: list("fe80::/64")},
		{},
		{Addresses: list("100.64.0.1/32", "fd00::1/128"), Routes: list("100.64.0.0/16", "fd00::/48")},
	} {
		if s.MTU != 0 {
			mtu = s.MTU
		}
		for _, again := range []bool{false, true} {
			if err := r.Apply(s); err != nil {
				t.Fatalf("state %d: %v", i, err)
			}
			want := host{Links: append(before.Links[:len(before.Links):len(before.Links)], fmt.Sprintf("%s %d true", name, mtu))}
			for _, p := range s.Addresses {
				want.Addresses = append(want.Addresses, fmt.Sprintf("%s %s", name, p))
			}
			families := map[int]bool{}
			for _, p := range s.Routes {
				families[familyNumber(p.Addr())] = true
				if !slices.Contains(s.Local, p) {
					want.Routes = append(want.Routes, fmt.Sprintf("%s %s 87 table 22359", name, p))
				}
			}
			for _, p := range s.Local {
				if families[familyNumber(p.Addr())] {
					want.Routes = append(want.Routes, fmt.Sprintf("throw %s 87 table 22359", p))
				}
			}
			want.Rules = ourRules(slices.Sorted(maps.Keys(families))...)
			slices.Sort(want.Routes)
			if diff := cmp.Diff(want, look(t)); diff != "" {
				t.Errorf("state %d, again %v (-want +got):\n%s", i, again, diff)
			}
		}
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(before, look(t)); diff != "" {
		t.Errorf("left behind (-want +got):\n%s", diff)
	}
}

// TestApplyLeavesOthersAlone: what somebody else routes stays, also where the tunnel has the same prefix; and in our own table, a route that is not
// ours stays, is named, and keeps nothing else from being done.
func TestApplyLeavesOthersAlone(t *testing.T) {
	if !inside(t) {
		return
	}
	office := another(t, "office0", "10.9.0.1/24")
	for _, route := range []netlink.Route{
		{Dst: netipx.PrefixIPNet(list("10.9.0.0/16")[0])}, {Dst: netipx.PrefixIPNet(list("fd09::/48")[0])},
		{Dst: netipx.PrefixIPNet(list("10.5.0.0/16")[0]), Table: Table}, {Dst: netipx.PrefixIPNet(list("fd05::/48")[0]), Table: Table},
	} {
		route.LinkIndex, route.Protocol = office.Attrs().Index, unix.RTPROT_STATIC
		if err := netlink.RouteAdd(&route); err != nil {
			t.Fatal(err)
		}
	}
	before := look(t)
	r := open(t, io.Discard)
	s := State{Addresses: list("100.64.0.1/32"), Routes: list("10.9.0.0/16", "fd09::/48", "10.9.0.0/24", "10.5.0.0/16", "100.64.0.0/16")}
	err := r.Apply(s)
	if err == nil || !strings.Contains(err.Error(), "route 10.5.0.0/16 cannot be set: table 22359 of this host has one already, by office0") {
		t.Error(err)
	}
	want := host{
		Links:     append(slices.Clone(before.Links), name+" 1420 true"),
		Addresses: append(slices.Clone(before.Addresses), name+" 100.64.0.1/32"),
		Routes:    slices.Clone(before.Routes),
		Rules:     ourRules(unix.AF_INET, unix.AF_INET6),
	}
	for _, p := range []string{"10.9.0.0/16", "10.9.0.0/24", "100.64.0.0/16", "fd09::/48"} {
		want.Routes = append(want.Routes, name+" "+p+" 87 table 22359")
	}
	slices.Sort(want.Routes)
	if diff := cmp.Diff(want, look(t)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := r.Apply(State{}); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, look(t)); diff != "" {
		t.Errorf("after Close (-want +got):\n%s", diff)
	}
}

// TestApplyRefused: what the kernel refuses is named, and the rest is done.
func TestApplyRefused(t *testing.T) {
	if !inside(t) {
		return
	}
	r := open(t, io.Discard)
	for _, mtu := range []int{-1, minMTU - 1, maxMTU + 1} {
		err := r.Apply(State{MTU: mtu, Addresses: list("100.64.0.1/32")})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("MTU %d: an MTU is 576 to 65535 bytes", mtu)) {
			t.Errorf("MTU %d: %v", mtu, err)
		}
		if h := look(t); len(h.Addresses) != 1 || !strings.Contains(strings.Join(h.Links, " "), name+" 1420 true") {
			t.Errorf("MTU %d: the host has %+v", mtu, h)
		}
	}
	if err := netlink.LinkDel(r.link); err != nil {
		t.Fatal(err)
	}
	if err := r.Apply(State{Addresses: list("100.64.0.2/32")}); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("an interface that somebody deleted: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// TestApplyNonsense: a State that makes no sense changes nothing, whatever else is in it.
func TestApplyNonsense(t *testing.T) {
	if !inside(t) {
		return
	}
	r := open(t, io.Discard)
	good := State{Addresses: list("100.64.0.1/32"), Routes: list("100.64.0.0/16")}
	if err := r.Apply(good); err != nil {
		t.Fatal(err)
	}
	before := look(t)
	bad := State{Addresses: list("100.64.0.2/32"), Routes: list("10.0.0.0/8"), Local: list("10.0.0.1/24"), KillSwitch: true}
	if err := r.Apply(bad); err == nil || !strings.Contains(err.Error(), "local 10.0.0.1/24 has host bits") {
		t.Error(err)
	}
	if diff := cmp.Diff(before, look(t)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if on, err := KillSwitchOn(); on || err != nil {
		t.Errorf("kill switch: %v, %v", on, err)
	}
}

// TestWithoutIPv6: a host that has IPv6 switched off gets IPv4 only, is told once, and gets the rest when it is switched on.
func TestWithoutIPv6(t *testing.T) {
	if !inside(t) {
		return
	}
	set := func(v string) {
		for _, which := range []string{"all", "default"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte(v), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	set("1")
	var log strings.Builder
	r := open(t, &log)
	s := State{Addresses: list("100.64.0.1/32", "fd00::1/128"), Routes: list("100.64.0.0/16", "fd00::/48")}
	for range 2 {
		if err := r.Apply(s); err != nil {
			t.Fatal(err)
		}
	}
	h := look(t)
	if diff := cmp.Diff([]string{name + " 100.64.0.1/32"}, h.Addresses); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{name + " 100.64.0.0/16 87 table 22359"}, h.Routes); diff != "" {
		t.Error(diff)
	}
	if n := strings.Count(log.String(), "IPv6 is switched off"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
	set("0")
	if err := r.Apply(s); err != nil {
		t.Fatal(err)
	}
	if h := look(t); len(h.Addresses) != 2 || len(h.Routes) != 2 {
		t.Errorf("after it was switched on: %+v", h)
	}
}

// TestCrash: a program that is killed leaves nothing but rules that lead nowhere, which the next one takes back with its name.
func TestCrash(t *testing.T) {
	if !inside(t) {
		return
	}
	before := look(t)
	journal := filepath.Join(t.TempDir(), "journal")
	cmd := exec.Command(os.Args[0], journal)
	cmd.Env = append(os.Environ(), holdEnv+"="+name)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the holder says %q, %v", line, err)
	}
	if h := look(t); len(h.Addresses) != 1 || len(h.Routes) != 1 {
		t.Fatalf("the holder's interface: %+v", h)
	}
	if _, err := Open(Config{Name: name, MTU: 1420}); !errors.Is(err, ErrNameInUse) {
		t.Errorf("while it runs: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	rules := before
	rules.Rules = ourRules(unix.AF_INET)
	if diff := cmp.Diff(rules, look(t)); diff != "" {
		t.Errorf("left behind (-want +got):\n%s", diff)
	}
	for range 2 {
		if notes, err := CleanUp(journal); err != nil || len(notes) > 0 {
			t.Errorf("cleaned up %q, %v", notes, err)
		}
	}
	if diff := cmp.Diff(before, look(t)); diff != "" {
		t.Errorf("left behind after the clean-up (-want +got):\n%s", diff)
	}
	r := open(t, io.Discard)
	if err := r.Apply(State{Addresses: list("100.64.0.2/32")}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{name + " 100.64.0.2/32"}, look(t).Addresses); diff != "" {
		t.Error(diff)
	}
}

// TestNameInUse: neither an interface of somebody else's nor another of ours is touched.
func TestNameInUse(t *testing.T) {
	if !inside(t) {
		return
	}
	another(t, "other0", "10.9.0.1/24")
	before := look(t)
	for _, taken := range []string{"lo", "other0"} {
		if _, err := Open(Config{Name: taken, MTU: 1420}); !errors.Is(err, ErrNameInUse) || !strings.Contains(err.Error(), taken+"; choose another with --tun") {
			t.Errorf("%s: %v", taken, err)
		}
	}
	if diff := cmp.Diff(before, look(t)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Of several at the same time one gets it.
	var group sync.WaitGroup
	routers, failures := make(chan *Router, 8), make(chan error, 8)
	for range cap(routers) {
		group.Go(func() {
			if r, err := Open(Config{Name: name, MTU: 1420}); err != nil {
				failures <- err
			} else {
				routers <- r
			}
		})
	}
	group.Wait()
	close(failures)
	for err := range failures {
		if !errors.Is(err, ErrNameInUse) {
			t.Errorf("a second one: %v", err)
		}
	}
	if len(routers) != 1 {
		t.Fatalf("%d routers of one name", len(routers))
	}
	r := <-routers
	if err := r.Apply(State{Addresses: list("100.64.0.1/32")}); err != nil {
		t.Errorf("the one that has the name: %v", err)
	}
	_, err := tun.CreateTUN(name, 1420)
	if err := explain(name, err); !errors.Is(err, ErrNameInUse) {
		t.Errorf("taken between look and leap: %v", err)
	}
	r.Close()
}

// TestOpenRefused: each reason why there is no interface has an error of its own, and a way out.
func TestOpenRefused(t *testing.T) {
	if !inside(t) {
		return
	}
	before := look(t)
	for _, mtu := range []int{0, 575, 65536} {
		if _, err := Open(Config{Name: name, MTU: mtu}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("MTU %d", mtu)) {
			t.Errorf("MTU %d: %v", mtu, err)
		}
	}
	err := withoutRights(func() error { _, err := Open(Config{Name: name, MTU: 1420}); return err })
	if !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("without rights: %v", err)
	}
	if err := unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Name: name, MTU: 1420}); !errors.Is(err, ErrNoTUN) || !strings.Contains(err.Error(), "modprobe tun") {
		t.Errorf("without /dev/net/tun: %v", err)
	}
	if diff := cmp.Diff(before, look(t)); diff != "" {
		t.Errorf("left behind (-want +got):\n%s", diff)
	}
}

// withoutRights calls do in a thread that has no capabilities, and that ends with it.
func withoutRights(do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			result <- err
			return
		}
		result <- do()
	}()
	return <-result
}

func TestExplain(t *testing.T) {
	for err, want := range map[error]error{
		unix.ENODEV: ErrNoTUN, unix.ENXIO: ErrNoTUN, unix.ENOTTY: ErrNoTUN, unix.EPERM: ErrPermission, unix.EACCES: ErrPermission, unix.EBUSY: ErrNameInUse, unix.EIO: unix.EIO,
	} {
		if got := explain(name, fmt.Errorf("opening: %w", err)); !errors.Is(got, want) {
			t.Errorf("%v is explained as %v", err, got)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"w", "warren0", "exactly15bytes_"} {
		if err := CheckName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "sixteen_bytes_xx", "a b", "a/b", "a:b", "wg%d", "a\n", "\x00"} {
		if err := CheckName(bad); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
			t.Errorf("%q: %v", bad, err)
		}
		if _, err := Open(Config{Name: bad, MTU: 1420}); err == nil {
			t.Errorf("%q was opened", bad)
		}
	}
}

// TestTwoAgents: of two agents in one network on one host the first one's interface has the network's routes, which is no failure of the other.
func TestTwoAgents(t *testing.T) {
	if !inside(t) {
		return
	}
	first := open(t, io.Discard)
	s := State{Addresses: list("100.64.0.1/32"), Routes: list("100.64.0.0/16", "fd07::/48")}
	if err := first.Apply(s); err != nil {
		t.Fatal(err)
	}
	second, err := Open(Config{Name: name + "b", MTU: 1420})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	s.Addresses = list("100.64.0.2/32")
	for range 2 {
		if err := second.Apply(s); err != nil {
			t.Error(err)
		}
	}
	if notes := second.Notes(); len(notes) != 2 || !strings.Contains(notes[0], "stays with "+name) {
		t.Errorf("notes %q, want one for each route", notes)
	}
}
