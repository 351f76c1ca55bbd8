package networks

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// siteCheck gives "NAME OUTCOME" of all that "warren site check" tells, and its whole output. It has the exit status agree with that.
func (w *world) siteCheck(d *warrennet.Device, args ...string) (results []string, text string) {
	w.t.Helper()
	text, err := d.Text(w.ctx, append([]string{"site", "check"}, args...)...)
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] != ">" && f[0] != "warren:" {
			results = append(results, f[1]+" "+f[0])
		}
	}
	var exit *exec.ExitError
	failed := slices.ContainsFunc(results, func(r string) bool { return strings.HasSuffix(r, " failed") })
	if failed != errors.As(err, &exit) || failed && exit.ExitCode() != 1 {
		w.t.Errorf("warren site check: %v\n%s", err, text)
	}
	return results, text
}

// ip runs a command of ip on a host.
func (w *world) ip(h *lab.Host, args ...string) error {
	if out, err := h.Command(w.ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// TestSiteCheck breaks, one after the other, what two data centers need, and has "warren site check" tell what it is.
func TestSiteCheck(t *testing.T) {
	w := newWorld(t, sites)
	one, two := w.center(1, 1, "--probe", "10.1.0.10", "--probe", "fd01::a"), w.center(2, 1)
	gw1, gw2 := one.gateways[0], two.gateways[0]
	w.awaitRoute(gw1, two.v6, gw2.Name)
	w.awaitRoute(gw2, one.v6, gw1.Name)
	w.ping(one.host, two.host.Addr)
	at := netip.AddrPortFrom(two.host.Addr6, 8080)
	w.server(two.host, at)
	w.call(one.host, at)
	// Of both families, with hosts that are heard of.
	results, text := w.siteCheck(gw1)
	if slices.ContainsFunc(results, func(r string) bool { return !strings.HasSuffix(r, " ok") }) || len(results) != 2*10 {
		t.Fatalf("%q\n%s", results, text)
	}
	oneWay := strings.Replace(sites, `{"name": "two to one", "src": ["dc2", "dc2v6"], "dst": ["dc1", "dc1v6"], "ip": ["*"]},`, "", 1)
	neither := strings.Replace(oneWay, `{"name": "one to two", "src": ["dc1", "dc1v6"], "dst": ["dc2", "dc2v6"], "ip": ["*"]},`,
		`{"name": "web", "src": ["dc1"], "dst": ["10.2.7.0/24"], "ip": ["tcp:443"]},`, 1)
	block := "add table ip block; add chain ip block f { type filter hook forward priority 10; policy drop; }"
	hole := "add table ip hole; add chain ip hole f { type filter hook forward priority 10; }; add rule ip hole f ip length > 1250 drop"
	for _, c := range []struct {
		name     string
		do, undo func() error
		want     []string // besides others
		words    string
	}{
		{"forwarding off", func() error { return gw1.Sysctl("ipv4/ip_forward", "0") }, func() error { return gw1.Sysctl("ipv4/ip_forward", "1") },
			[]string{"forwarding failed", "lan failed"}, "sysctl -w net.ipv4.ip_forward=1"},
		{"firewall", func() error { return w.nft(gw1, block) }, func() error { return w.nft(gw1, "delete table ip block") },
			[]string{"forwarding ok", "lan failed"}, "a firewall here drops forwarded packets"},
		{"LAN cut", func() error { return one.lan.Cut(gw1.Host, "eth1") }, func() error { return one.lan.Mend(gw1.Host, "eth1") },
			[]string{"forwarding ok", "lan failed"}, "Check the cable"},
		{"no way back", func() error { return w.ip(one.host, "route", "add", "10.2.0.0/16", "via", "10.1.0.99") },
			func() error { return w.ip(one.host, "route", "del", "10.2.0.0/16") },
			[]string{"lan ok", "return-route failed", "return-route ok", "reach ok"}, "ip route add 10.2.0.0/16 via 10.1.0.1"},
		{"no way back to devices", func() error { return w.ip(one.host, "route", "add", "100.64.0.0/10", "via", "10.1.0.99") },
			func() error { return w.ip(one.host, "route", "del", "100.64.0.0/10") },
			[]string{"lan ok", "return-route ok", "return-route warning", "reach ok"}, "devices cannot reach the hosts"},
		{"no way back there", func() error { return w.ip(two.host, "route", "add", "10.1.0.0/16", "via", "10.2.0.99") },
			func() error { return w.ip(two.host, "route", "del", "10.1.0.0/16") },
			[]string{"lan ok", "return-route ok", "policy-in ok", "reach failed"}, `"warren site check" on dc2gw1`},
		{"black hole", func() error { return w.nft(gw2, hole) }, func() error { return w.nft(gw2, "delete table ip hole") },
			[]string{"reach ok", "mtu failed"}, "those of 1240 bytes are not"},
		{"shorter link", func() error { return w.ip(gw2.Host, "link", "set", "eth1", "mtu", "1350") },
			func() error { return w.ip(gw2.Host, "link", "set", "eth1", "mtu", "1500") }, []string{"reach ok", "mtu ok"}, "up to 1350 bytes"},
		{"one way", func() error { return w.policy(oneWay) }, func() error { return w.policy(sites) },
			[]string{"policy-out ok", "policy-in warning", "reach ok"}, "no grant lets 10.2.0.0/16 open connections to 10.1.0.0/16"},
		{"no grant", func() error { return w.policy(neither) }, func() error { return w.policy(sites) },
			[]string{"policy-out warning", "policy-in failed", "reach unknown"}, "the grant web comes closest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, c.do())
			results, text := w.settled(gw1, c.want)
			if !strings.Contains(text, c.words) {
				t.Errorf("not told %q: %q\n%s", c.words, results, text)
			}
			must(t, c.undo())
			w.settled(gw1, []string{"lan ok", "reach ok", "mtu ok"})
		})
	}
	if _, text := w.siteCheck(gw1, "10.2.0.200"); !strings.Contains(text, "10.2.0.200 does not answer") {
		t.Error(text)
	}
	for _, args := range [][]string{{"nowhere"}, {"10.9.0.1"}, {"--host", "10.9.0.1"}} {
		if text, err := gw1.Text(w.ctx, append([]string{"site", "check"}, args...)...); err == nil || !strings.Contains(text, args[len(args)-1]) {
			t.Errorf("%q: %v: %s", args, err, text)
		}
	}
	// What waits for approval is not proved.
	must(t, gw1.Warren(w.ctx, nil, "set", "--site", "172.20.0.0/16"))
	w.awaitAdvertised(gw1, "172.20.0.0/16", "waiting")
	if _, text := w.siteCheck(gw1); !strings.Contains(text, "warren-coordinator route approve dc1gw1 172.20.0.0/16") {
		t.Error(text)
	}
}

// TestSiteCheckPair: of two gateways behind a virtual address, the one in use is proved whichever has that, by what the other hands over. The one that has
// neither only warns. Without the virtual address, VRRP is what is missing.
func TestSiteCheckPair(t *testing.T) {
	w := newWorld(t, sites)
	s, two := w.shared(1), w.center(2, 1, "--probe", "10.2.0.10")
	first, second := s.gateways[0], s.gateways[1]
	w.awaitRoute(first, two.v4, "dc2gw1")
	w.awaitRoute(second, two.v4, "dc2gw1")
	w.awaitRoute(two.gateways[0], s.v4, first.Name)
	w.ping(two.host, s.host.Addr)
	whole := []string{"lan ok", "return-route ok", "gateway ok", "reach ok", "mtu ok"}
	w.settled(first, whole)
	w.settled(second, whole[:2])
	for _, k := range s.vrrp {
		must(t, k.Signal(syscall.SIGTERM))
	}
	must(t, w.ip(s.host, "neigh", "flush", "dev", "eth0"))
	if _, text := w.settled(first, []string{"lan ok", "return-route failed"}); !strings.Contains(text, "the VRRP one that this gateway shares with dc1gw2") {
		t.Error(text)
	}
	if _, text := w.settled(second, []string{"lan ok", "return-route warning"}); !strings.Contains(text, "some use dc1gw1") {
		t.Error(text)
	}
}

// settled checks until the results are as wanted, in this order and with others between them: the network follows what was changed within seconds.
func (w *world) settled(d *warrennet.Device, want []string) (results []string, text string) {
	w.t.Helper()
	for range 8 {
		results, text = w.siteCheck(d, netip.MustParseAddr("10.2.0.10").String())
		rest := want
		for _, r := range results {
			if len(rest) > 0 && r == rest[0] {
				rest = rest[1:]
			}
		}
		if len(rest) == 0 {
			return results, text
		}
	}
	w.t.Fatalf("not told %q: %q\n%s", want, results, text)
	return nil, ""
}
