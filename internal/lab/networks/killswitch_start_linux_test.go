package networks

import (
	"net/netip"
	"syscall"
	"testing"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/internal/sim/natmodel"
)

// TestKillSwitchWithoutTunnel: a daemon sets the kill switch when it starts on a host that has lost it, as by a restart, also where the tunnel cannot
// come up.
func TestKillSwitchWithoutTunnel(t *testing.T) {
	a := newAbroad(t, lab.Access{NAT: natmodel.Easy(), IPv6: lab.OpenIPv6})
	host := a.laptop.Host
	must(t, a.laptop.Warren(a.ctx, nil, "up", "--kill-switch"))
	a.refused(public4)
	must(t, a.laptop.Daemon().Signal(syscall.SIGTERM))
	a.refused(public4)
	a.run(host, "nft", "flush", "ruleset")
	if _, seen := a.call(host, netip.AddrPortFrom(public4, 80)); seen != host.Public.String() {
		t.Errorf("without the table the laptop is seen as %s", seen)
	}
	a.run(host, "ip", "link", "add", "warren0", "type", "veth", "peer", "name", "other0")
	must(t, a.laptop.StartDaemon(a.ctx))
	a.refused(public4)
	a.refused(public6)
	st, err := a.laptop.Status(a.ctx)
	must(t, err)
	if st.State != "down" || !st.KillSwitch {
		t.Errorf("status %+v", st)
	}
	a.run(host, "ip", "link", "delete", "warren0")
	must(t, a.laptop.Warren(a.ctx, nil, "up", "--exit-node", "exit"))
	a.awaitExit("exit")
	a.seenAs("when the tunnel can come up", a.exit.Public, a.exit.Addr6)
}

// TestKillSwitchWithoutResolver: an agent whose coordinator and relay have names finds them again when no resolver answers.
func TestKillSwitchWithoutResolver(t *testing.T) {
	w := newWorld(t, "", "--url", "https://vpn.example.com:443")
	a := &abroad{world: w}
	resolver := w.host(w.Lab.Host("resolver", lab.None))
	names := a.serveNames(resolver)
	names.answer = w.Coordinator.Addr
	host := w.host(w.Lab.Host("laptop", lab.Easy))
	a.run(host, "sh", "-c", "echo nameserver "+resolver.Addr.String()+" >/etc/resolv.conf")
	d := w.device(host, "ann", "--kill-switch")
	connected := func(when string) {
		t.Helper()
		_, err := d.Await(w.ctx, "connected "+when, func(s *warrennet.Status) bool { return s.State == "up" && s.Coordinator.Connected && s.KillSwitch })
		must(t, err)
	}
	connected("by a name")
	if len(names.seen()) == 0 {
		t.Fatal("the resolver was not asked")
	}
	for what, file := range map[string]string{"a resolver that is gone": "nameserver 203.0.113.250", "no resolver": ""} {
		_ = d.Daemon().Signal(syscall.SIGKILL)
		a.run(host, "sh", "-c", "echo '"+file+"' >/etc/resolv.conf")
		must(t, d.AwaitUnlocked(w.ctx))
		must(t, d.StartDaemon(w.ctx))
		connected("with " + what)
		must(t, d.Warren(w.ctx, nil, "up"))
	}
}
