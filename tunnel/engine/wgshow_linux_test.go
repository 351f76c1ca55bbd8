package engine

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"warren/proto/key"
	"warren/tunnel/bind"
)

// insideEnv tells the test binary that it runs in a mount namespace of its own, where /run is empty.
const insideEnv = "WARREN_TEST_INSIDE"

// TestWgShow reads the UAPI socket with wg and wgctrl, which look for it in one place only. So the test runs itself again in a mount
// namespace of its own (and a user namespace, for those who are not root).
func TestWgShow(t *testing.T) {
	if os.Getenv(insideEnv) != "" {
		showInside(t)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestWgShow$", "-test.v")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func wg(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command("wg", args...).CombinedOutput()
	return string(out), err
}

func showInside(t *testing.T) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	const name = "warrentest0"
	us := newNode(t, addresses[0], func(_ *node, _ *bind.Config, ec *Config) { ec.Name, ec.SocketDir = name, "" })
	direct, relayed, lost := newStock(t, addresses[1]), key.NewNode().Public(), key.NewNode().Public()
	direct.knows(t, true, us)
	us.knows(t, true, direct)
	direct.ping(t, us)
	relay := netip.MustParseAddrPort("198.51.100.1:443")
	us.allow.Store(relayed.Raw(), true)
	us.engine.SetMap(Map{Self: []netip.Addr{us.addr}, Grants: everything(), Peers: []Peer{
		{Device: direct.device, NodeKey: direct.key.Public(), Prefixes: []netip.Prefix{netip.MustParsePrefix("100.64.0.2/32")}},
		{NodeKey: relayed, Prefixes: []netip.Prefix{netip.MustParsePrefix("100.64.0.3/32"), netip.MustParsePrefix("10.9.0.0/16")}},
		{NodeKey: lost, Prefixes: []netip.Prefix{netip.MustParsePrefix("100.64.0.4/32")}},
		{NodeKey: key.NewNode().Public(), Prefixes: []netip.Prefix{netip.MustParsePrefix("100.64.0.5/32")}}, // not configured
	}})
	us.bind.SetPath(relayed, bind.Path{Kind: bind.Relay, RelayAddr: relay})
	<-us.active
	for _, k := range []key.NodePublic{relayed, lost} {
		us.engine.Want(k)
		<-us.active
	}
	dump, err := wg(t, "show", name, "dump")
	if err != nil {
		t.Fatalf("wg show: %v\n%s", err, dump)
	}
	t.Log(dump)
	peers := map[string][]string{}
	for i, line := range strings.Split(strings.TrimSpace(dump), "\n") {
		fields := strings.Split(line, "\t")
		if i == 0 {
			if fields[1] != us.key.Public().String() || fields[2] != fmt.Sprint(us.port) {
				t.Errorf("interface: %q", fields)
			}
			continue
		}
		peers[fields[0]] = fields
	}
	if len(peers) != 3 {
		t.Errorf("%d peers shown, want those configured, 3", len(peers))
	}
	for _, c := range []struct {
		peer              key.NodePublic
		endpoint, allowed string
	}{
		{direct.key.Public(), fmt.Sprintf("127.0.0.1:%d", direct.port), "100.64.0.2/32"},
		{relayed, relay.String(), "100.64.0.3/32,10.9.0.0/16"},
		{lost, "(none)", "100.64.0.4/32"},
	} {
		f := peers[c.peer.String()]
		if len(f) != 8 || f[2] != c.endpoint || f[3] != c.allowed {
			t.Errorf("peer shown as %q, want endpoint %s and allowed IPs %s", f, c.endpoint, c.allowed)
		}
	}
	if f := peers[direct.key.Public().String()]; len(f) == 8 && (f[4] == "0" || f[5] == "0" || f[6] == "0") {
		t.Errorf("handshake and counters of the direct peer: %q", f)
	}
	checkSetRefused(t, name, direct.key.Public())
	checkWgctrl(t, name, us)
	info, err := os.Stat("/var/run/wireguard/" + name + ".sock")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
}

func checkSetRefused(t *testing.T, name string, peer key.NodePublic) {
	t.Helper()
	out, err := wg(t, "set", name, "peer", peer.String(), "remove")
	if err == nil || !strings.Contains(out, "Operation not permitted") {
		t.Errorf("wg set: %v\n%s", err, out)
	}
}

func checkWgctrl(t *testing.T, name string, us *node) {
	t.Helper()
	c, err := wgctrl.New()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d, err := c.Device(name)
	if err != nil {
		t.Fatalf("wgctrl: %v", err)
	}
	if d.Type != wgtypes.Userspace || d.PublicKey.String() != us.key.Public().String() || len(d.Peers) != 3 {
		t.Errorf("wgctrl reads %s %s with %d peers", d.Type, d.PublicKey, len(d.Peers))
	}
	if err := c.ConfigureDevice(name, wgtypes.Config{ReplacePeers: true}); err == nil {
		t.Error("wgctrl could change the interface")
	}
}
