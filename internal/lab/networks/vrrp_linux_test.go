package networks

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"warren/internal/lab/warrennet"
)

// keepalived runs it on a gateway, with the configuration that is given to users. Only what that says to change is changed, and the state directory.
func (w *world) keepalived(d *warrennet.Device, priority int) *warrennet.Daemon {
	w.t.Helper()
	b, err := os.ReadFile("../../../packaging/keepalived/keepalived.conf")
	must(w.t, err)
	text := string(b)
	for old, new := range map[string]string{"/var/lib/warren": d.Dir(), "priority 150 ": fmt.Sprintf("priority %d ", priority)} {
		if !strings.Contains(text, old) {
			w.t.Fatalf("the configuration has no %q", old)
		}
		text = strings.ReplaceAll(text, old, new)
	}
	dir := w.t.TempDir()
	file := filepath.Join(dir, "keepalived.conf")
	must(w.t, os.WriteFile(file, []byte(text), 0o600))
	k, err := warrennet.Start(d.Host, "keepalived", "--dont-fork", "--log-console", "--vrrp", "--use-file", file, "--pid", filepath.Join(dir, "pid"), "--vrrp_pid", filepath.Join(dir, "vrrp.pid"))
	must(w.t, err)
	w.t.Cleanup(func() {
		_ = k.Signal(syscall.SIGTERM)
		if w.t.Failed() {
			w.t.Logf("keepalived of %s:\n%s", d.Name, k.Log())
		}
	})
	return k
}

// virtual and virtual6 are the addresses in the configuration.
var virtual, virtual6 = netip.MustParseAddr("10.1.0.254"), netip.MustParseAddr("fd01::fe")

// awaitMaster waits until a gateway has the virtual addresses.
func (w *world) awaitMaster(d *warrennet.Device) {
	w.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range int(patience / (50 * time.Millisecond)) {
		out, err := d.Command(w.ctx, "ip", "-o", "addr", "show", "dev", "eth1").CombinedOutput()
		must(w.t, err)
		if text := string(out); strings.Contains(text, " "+virtual.String()+"/") && strings.Contains(text, " "+virtual6.String()+"/") {
			return
		}
		<-tick.C
	}
	w.t.Fatalf("%s does not get the virtual addresses", d.Name)
}

// shared is a data center whose hosts send what is for elsewhere to virtual addresses, and a laptop that uses the first gateway.
type shared struct {
	*pair
	vrrp [2]*warrennet.Daemon
}

func (w *world) shared(master int) *shared {
	w.t.Helper()
	c := w.center(1, 2, "--probe", "10.1.0.10", "--probe", "fd01::a")
	s := &shared{pair: &pair{center: c}}
	must(w.t, c.host.Route(netip.MustParsePrefix("0.0.0.0/0"), virtual))
	must(w.t, c.host.Route(netip.MustParsePrefix("::/0"), virtual6))
	for i, g := range c.gateways {
		w.awaitAdvertised(g, c.v4, "approved")
		priority := 120
		if i == master {
			priority = 150
		}
		s.vrrp[i] = w.keepalived(g, priority)
	}
	w.awaitMaster(c.gateways[master])
	s.laptop = w.laptop(c)
	w.awaitRoute(s.laptop, c.v6, c.gateways[0].Name)
	w.awaitWell(s.laptop, c.v6, c.gateways[0].Name, c.gateways[1].Name)
	w.server(c.host, s.overIPv6())
	w.call(s.laptop.Host, s.overIPv6())
	return s
}

// overIPv6 is a server on the host.
func (s *shared) overIPv6() netip.AddrPort { return netip.AddrPortFrom(s.host.Addr6, 8080) }

// TestVRRP: a gateway that is the master of the hosts' virtual addresses fails, whether it is the one that the laptop uses or the other. The virtual
// addresses move, and what is under way between laptop and host goes on, both ways.
func TestVRRP(t *testing.T) {
	for master := range 2 {
		for _, name := range []string{"daemon killed", "machine dead", "LAN cut", "forwarding off"} {
			w := newWorld(t, sites)
			t.Run(fmt.Sprintf("%s of gateway %d", name, master+1), func(t *testing.T) {
				w.t = t
				w.moves(w.shared(master), name, master)
			})
			w.Close()
		}
	}
}

func (w *world) moves(s *shared, name string, master int) {
	t, failing, other := w.t, s.gateways[master], s.gateways[1-master]
	u := w.use(s.pair)
	began := time.Now()
	if name == "machine dead" {
		must(t, failing.Unplug())
		must(t, s.lan.Cut(failing.Host, "eth1"))
		_ = failing.Daemon().Signal(syscall.SIGKILL)
		_ = s.vrrp[master].Signal(syscall.SIGKILL)
	} else {
		all := faults()
		must(t, all[slices.IndexFunc(all, func(f fault) bool { return f.name == name })].do(w, s.center, failing))
	}
	w.awaitMaster(other)
	if master == 0 { // which the laptop uses; the other's failing does not concern it
		w.awaitRoute(s.laptop, s.v4, other.Name)
	}
	w.goesOn(u, began, switchOver)
	// And new connections, begun by the host.
	st, err := s.laptop.Status(w.ctx)
	must(t, err)
	own := netip.AddrPortFrom(netip.MustParseAddr(st.Self.Addresses[0]), 9090)
	w.server(s.laptop.Host, own)
	c, seen := w.call(s.host, own)
	if seen != s.host.Addr.String() {
		t.Errorf("the host is seen as %s", seen)
	}
	w.through(c, 1<<20)
	if master == 0 && name != "forwarding off" { // of IPv4
		w.awaitRoute(s.laptop, s.v6, other.Name)
	}
	c, _ = w.call(s.laptop.Host, s.overIPv6())
	w.through(c, 1<<20)
}
