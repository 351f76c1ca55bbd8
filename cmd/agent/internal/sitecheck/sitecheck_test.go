package sitecheck

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fake is a host and its tunnel in which everything works, but what a test breaks.
type fake struct {
	off, dead, blocked bool // forwarding; the LAN; a firewall
	noWay              []string
	grants             map[string]Policy // by "SRC DST"
	silent             bool
	carries            int // the longest packet that gets there
	tells              bool
	sent               []string
}

func (f *fake) Forwards(a netip.Addr) (bool, error) {
	if a.Is6() {
		return false, errors.New("no such file")
	}
	return !f.off, nil
}
func (f *fake) Straight(context.Context, netip.Addr) bool { return !f.dead }
func (f *fake) Through(context.Context, netip.Addr) bool  { return !f.dead && !f.blocked && !f.off }
func (f *fake) From(_ context.Context, src, _ netip.Addr) bool {
	return !slices.Contains(f.noWay, src.String())
}
func (f *fake) Echo(_ context.Context, src, dst netip.Addr, size int) Sent {
	f.sent = append(f.sent, src.String()+" "+dst.String())
	switch {
	case f.silent:
		return Sent{}
	case size > f.carries && f.tells:
		return Sent{Largest: f.carries}
	}
	return Sent{Answered: size <= f.carries}
}
func (f *fake) Explain(src, dst netip.Addr) Policy {
	if f.grants == nil {
		return Policy{Grants: []string{"all"}, Echo: true}
	}
	return f.grants[src.String()+" "+dst.String()]
}

func facts() Facts {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	return Facts{
		Device: "gw1", MTU: 1420, Overlay: []netip.Prefix{p("100.64.0.0/16"), p("fd00::/48")}, Addresses: []netip.Addr{a("100.64.0.1"), a("fd00::1")},
		Sites:   []Site{{Prefix: p("10.1.0.0/16"), State: "approved", Host: a("10.1.0.10"), Own: a("10.1.0.1")}},
		Remotes: []Remote{{Prefix: p("10.2.0.0/16"), Gateway: "gw2", Path: "directly", Host: a("10.2.0.10")}, {Prefix: p("fd02::/48")}},
	}
}

// run gives "NAME OUTCOME" of each result, and all that was told.
func run(f Facts, p *fake) (short []string, all string) {
	if p.carries == 0 {
		p.carries = 1420
	}
	Run(context.Background(), f, p, func(r Result) {
		short = append(short, r.Name+" "+r.Outcome)
		all += r.Text + "\n" + r.Help + "\n"
	})
	return short, all
}

// TestRun breaks one thing after the other.
func TestRun(t *testing.T) {
	own := []string{"advertised ok", "forwarding ok", "lan ok", "return-route ok", "return-route ok"}
	far := []string{"gateway ok", "policy-out ok", "policy-in ok", "reach ok"}
	with := func(lists ...[]string) []string { return slices.Concat(lists...) }
	remote := func(change func(*Remote)) func(*Facts) { return func(f *Facts) { change(&f.Remotes[0]) } }
	site := func(change func(*Site)) func(*Facts) { return func(f *Facts) { change(&f.Sites[0]) } }
	none := func(*Facts) {}
	for _, c := range []struct {
		name   string
		change func(*Facts)
		probes fake
		want   []string
		words  string // in what is told
	}{
		{"all works", none, fake{}, with(own, far, []string{"mtu ok"}), "10.2.0.10 answers 10.1.0.1, there and back"},
		{"no gateway", func(f *Facts) { f.Sites = nil }, fake{}, []string{"advertised failed"}, "warren set --site"},
		{"waiting", site(func(s *Site) { s.State = "waiting" }), fake{}, []string{"advertised failed"}, "warren-coordinator route approve gw1 10.1.0.0/16"},
		{"untold", site(func(s *Site) { s.State = "untold" }), fake{}, []string{"advertised failed"}, "warren status"},
		{"forwarding off", none, fake{off: true}, with([]string{"advertised ok", "forwarding failed", "lan failed"}, far, []string{"mtu ok"}), "sysctl -w net.ipv4.ip_forward=1"},
		{"LAN dead", none, fake{dead: true}, with([]string{"advertised ok", "forwarding ok", "lan failed"}, far, []string{"mtu ok"}), "Check the cable"},
		{"firewall", none, fake{blocked: true}, with([]string{"advertised ok", "forwarding ok", "lan failed"}, far, []string{"mtu ok"}), "a firewall here drops"},
		{"no host", site(func(s *Site) { s.Host = netip.Addr{} }), fake{}, with([]string{"advertised ok", "forwarding ok", "lan unknown"}, far, []string{"mtu ok"}), "--probe ADDRESS"},
		{"no way back", none, fake{noWay: []string{"10.2.0.0"}}, with(own[:3], []string{"return-route failed", "return-route ok"}, far, []string{"mtu ok"}),
			"On the LAN's router: ip route add 10.2.0.0/16 via 10.1.0.1. "},
		{"no way back to devices", none, fake{noWay: []string{"100.64.0.0"}}, with(own[:4], []string{"return-route warning"}, far, []string{"mtu ok"}), "ip route add 100.64.0.0/16"},
		{"no way back, two gateways", site(func(s *Site) { s.Siblings = []string{"gw3"} }), fake{noWay: []string{"10.2.0.0"}},
			with(own[:3], []string{"return-route failed", "return-route ok"}, far, []string{"mtu ok"}), "the VRRP one that this gateway shares with gw3"},
		{"no way back to devices, two gateways", site(func(s *Site) { s.Siblings = []string{"gw3"} }), fake{noWay: []string{"100.64.0.0"}},
			with(own[:4], []string{"return-route unknown"}, far, []string{"mtu ok"}), "may come out at a sibling"},
		{"no way back, the other gateway in use", site(func(s *Site) { s.Siblings, s.Elsewhere = []string{"gw3"}, true }), fake{noWay: []string{"10.2.0.0"}},
			with(own[:3], []string{"return-route warning", "return-route ok"}, far, []string{"mtu ok"}), "some use gw3"},
		{"masqueraded", site(func(s *Site) { s.Masqueraded = true }), fake{noWay: []string{"10.2.0.0"}}, with(own[:4], far, []string{"mtu ok"}), "10.2.0.10 answers 100.64.0.1"},
		{"gateways gone", remote(func(r *Remote) { r.Gateway = "" }), fake{}, with(own[:4], []string{"gateway failed"}), "no gateway of 10.2.0.0/16 is in use"},
		{"no path", remote(func(r *Remote) { r.Path = "" }), fake{}, with(own, []string{"gateway failed"}), `"warren why gw2"`},
		{"target unknown", remote(func(r *Remote) { r.Host = netip.Addr{} }), fake{}, with(own, far[:3], []string{"reach unknown"}), "warren site check ADDRESS"},
		{"no grant", none, fake{grants: map[string]Policy{}}, with(own, []string{"gateway ok", "policy-out warning", "policy-in failed", "reach unknown"}), `{"src": ["10.1.0.0/16"], "dst": ["10.2.0.0/16"]`},
		{"one way", none, fake{grants: map[string]Policy{"10.1.0.10 10.2.0.10": {Grants: []string{"web"}}}},
			with(own, []string{"gateway ok", "policy-out ok", "policy-in warning", "reach unknown"}), "by the grant web"},
		{"silent", none, fake{silent: true}, with(own, far[:3], []string{"reach failed"}), `"warren site check" on gw2`},
		{"shorter path", none, fake{carries: 1392, tells: true}, with(own, far, []string{"mtu ok"}), "up to 1392 bytes"},
		{"black hole", none, fake{carries: 1300}, with(own, far, []string{"mtu failed"}), "1420 bytes to 10.2.0.10 are lost, those of 1280"},
		{"black hole below all", none, fake{carries: 100}, with(own, far, []string{"mtu failed"}), "all shorter ones"},
		{"alone", func(f *Facts) { f.Remotes = nil }, fake{}, with(own[:4], []string{"gateway unknown"}), "route list"},
		{"single host", func(f *Facts) { f.Remotes[0].Prefix = netip.MustParsePrefix("10.2.0.10/32") }, fake{},
			with(own[:3], []string{"return-route unknown", "return-route ok"}, far, []string{"mtu ok"}), "no address that no host has"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := facts()
			c.change(&f)
			got, all := run(f, &c.probes)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("results (-want +got):\n%s\n%s", diff, all)
			}
			if !strings.Contains(all, c.words) {
				t.Errorf("not told %q:\n%s", c.words, all)
			}
		})
	}
}

// TestRunFamilies: a site of IPv6 is checked against others of IPv6.
func TestRunFamilies(t *testing.T) {
	f, p := facts(), &fake{}
	f.Sites = []Site{{Prefix: netip.MustParsePrefix("fd01::/48"), State: "approved", Host: netip.MustParseAddr("fd01::10")}}
	f.Remotes[1].Gateway, f.Remotes[1].Path, f.Remotes[1].Host = "gw2", "directly", netip.MustParseAddr("fd02::10")
	got, all := run(f, p)
	want := []string{"advertised ok", "forwarding unknown", "lan ok", "return-route ok", "return-route ok", "gateway ok", "policy-out ok", "policy-in ok", "reach ok", "mtu ok"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results (-want +got):\n%s\n%s", diff, all)
	}
	if slices.ContainsFunc(p.sent, func(s string) bool { return s != "fd00::1 fd02::10" }) {
		t.Errorf("pinged %q", p.sent)
	}
}

// TestRunEnds: nothing more is tried once nobody waits for it.
func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	p, f := &fake{carries: 1420}, facts()
	Run(ctx, f, p, func(Result) { cancel() })
	if len(p.sent) > 0 {
		t.Errorf("pinged %q", p.sent)
	}
}
