package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// insideEnv tells the test binary that it runs in namespaces of its own; holdEnv that it is to hold an interface until it is killed.
const insideEnv, holdEnv = "WARREN_TEST_INSIDE", "WARREN_TEST_HOLD"

func TestMain(m *testing.M) {
	if name := os.Getenv(holdEnv); name != "" {
		hold(name)
	}
	os.Exit(m.Run())
}

// hold is a program that has an interface, says so, and stays until its input ends.
func hold(name string) {
	r, err := Open(Config{Name: name, MTU: 1420, Journal: os.Args[1]})
	if err == nil {
		err = r.Apply(State{Addresses: []netip.Prefix{netip.MustParsePrefix("100.64.0.1/32")}, Routes: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/16")}})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}

// inside runs the test again in network and mount namespaces of its own (and a user namespace, for those who are not root), and reports
// whether it is the one that runs there.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

const name = "warrentest0"

func open(t *testing.T, log io.Writer) *Router {
	t.Helper()
	r, err := Open(Config{Name: name, MTU: 1420, Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// host is what the kernel says of one interface, or of all.
type host struct {
	Links     []string // name, MTU and whether it is up
	Addresses []string
	Routes    []string
	Rules     []string
}

// look reads everything but what the kernel makes by itself: loopback, link-local and multicast.
func look(t *testing.T) (h host) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		h.Links = append(h.Links, fmt.Sprintf("%s %d %v", a.Name, a.MTU, a.Flags&1 != 0))
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if !a.IP.IsLinkLocalUnicast() {
				h.Addresses = append(h.Addresses, fmt.Sprintf("%s %s", l.Attrs().Name, a.IPNet))
			}
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_KERNEL {
			by := names[r.LinkIndex]
			if r.Type == unix.RTN_THROW {
				by = "throw"
			}
			h.Routes = append(h.Routes, fmt.Sprintf("%s %s %d table %d", by, r.Dst, r.Protocol, r.Table))
		}
	}
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if r.Table != unix.RT_TABLE_LOCAL && r.Priority < 32766 {
			h.Rules = append(h.Rules, fmt.Sprintf("%d %d: invert %v mark %#x table %d protocol %d", r.Family, r.Priority, r.Invert, r.Mark, r.Table, r.Protocol))
		}
	}
	for _, list := range [][]string{h.Links, h.Addresses, h.Routes, h.Rules} {
		slices.Sort(list)
	}
	return h
}

// ourRules are those of the families.
func ourRules(families ...int) (out []string) {
	for _, f := range families {
		out = append(out, fmt.Sprintf("%d 5270: invert false mark 0x77617272 table 254 protocol 87", f),
			fmt.Sprintf("%d 5280: invert true mark 0x77617272 table 22359 protocol 87", f))
	}
	slices.Sort(out)
	return out
}

func list(prefixes ...string) (out []netip.Prefix) {
	for _, p := range prefixes {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// another makes an interface of somebody else's, persistent and up.
func another(t *testing.T, name, address string) netlink.Link {
	t.Helper()
	link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TUN}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	p := netip.MustParsePrefix(address)
	if err := errors.Join(netlink.LinkSetUp(link), netlink.AddrAdd(link, &netlink.Addr{IPNet: netipx.PrefixIPNet(p)})); err != nil {
		t.Fatal(err)
	}
	return link
}
