package router

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

// settings reads sysctls of a station.
func (s *station) settings(paths ...string) map[string]string {
	s.t.Helper()
	out := make(map[string]string)
	s.do(func() error {
		for _, p := range paths {
			v, err := readSysctl(p)
			if err != nil {
				return err
			}
			out[p] = v
		}
		return nil
	})
	return out
}

// gatewaySettings are all that a gateway between two links might change.
func gatewaySettings() []string {
	out := []string{forwarding4, forwarding6, redirects4, validMark}
	for _, link := range []string{"all", "default", "lan", "wan"} {
		out = append(out, conf4+link+"/rp_filter", conf6+link+"/accept_ra", conf6+link+"/forwarding", conf4+link+"/forwarding")
	}
	return out
}

// newGateway is a host with two links that has a default route from a router's advertisement, as it were.
func newGateway(t *testing.T) *station {
	t.Helper()
	s, lan, wan := newStation(t, "gateway"), newStation(t, "lan"), newStation(t, "wan")
	connect(s, []string{"192.168.10.1/24"}, lan, []string{"192.168.10.7/24"})
	connect(s, []string{"203.0.113.2/24"}, wan, []string{"203.0.113.1/24"})
	s.peers = map[string]*station{"lan": lan, "wan": wan}
	s.sysctl(redirects4, "0") // hardened: turning forwarding on and off would set it
	s.sysctl(conf6+"lan/accept_ra", "0")
	s.sysctl(conf6+"lan/forwarding", "1")
	s.sysctl(conf4+"lan/forwarding", "1")
	return s
}

// TestSysctls: a gateway's settings are made when needed, told, and taken back to the letter, by Apply and by Close.
func TestSysctls(t *testing.T) {
	s := newGateway(t)
	before := s.settings(gatewaySettings()...)
	journal := filepath.Join(t.TempDir(), "journal")
	r := s.open(Config{Journal: journal})
	s.apply(r, gatewayState())
	if diff := cmp.Diff(before, s.settings(gatewaySettings()...)); diff != "" {
		t.Errorf("changed without need:\n%s", diff)
	}
	forwards := map[string]string{forwarding4: "1", forwarding6: "1", conf6 + "wan/accept_ra": "2", conf6 + "lan/accept_ra": "0"}
	s.apply(r, gatewayState(carry("192.168.10.0/24", Masquerade)))
	s.sysctlIs(forwarding4, "1")
	s.sysctlIs(forwarding6, "0")
	for range 2 {
		s.apply(r, gatewayState(carry("192.168.10.0/24", Masquerade), carry("fd10::/64", Site)))
		for path, want := range forwards {
			s.sysctlIs(path, want)
		}
	}
	notes := strings.Join(r.Notes(), "\n")
	for _, want := range []string{
		"net.ipv4.ip_forward was 0 and is now 1", "net.ipv6.conf.all.forwarding was 0 and is now 1", "net.ipv6.conf.wan.accept_ra was 1 and is now 2",
	} {
		if strings.Count(notes, want) != 1 {
			t.Errorf("notes do not say %q once:\n%s", want, notes)
		}
	}
	s.apply(r, gatewayState())
	if diff := cmp.Diff(before, s.settings(gatewaySettings()...)); diff != "" {
		t.Errorf("a gateway no longer:\n%s", diff)
	}
	s.apply(r, gatewayState(carry("192.168.10.0/24", Masquerade), carry("fd10::/64", Site)))
	s.do(r.Close)
	if diff := cmp.Diff(before, s.settings(gatewaySettings()...)); diff != "" {
		t.Errorf("after Close:\n%s", diff)
	}
	if _, err := os.Stat(journal); !os.IsNotExist(err) {
		t.Errorf("the journal is there still: %v", err)
	}
}

// TestAdvertisedRoute: a host that has its IPv6 default route from its router's advertisements keeps it, and hears of new ones, when it becomes a
// gateway and when it is none any more.
func TestAdvertisedRoute(t *testing.T) {
	s := newGateway(t)
	wan := s.peers["wan"]
	advertise := func(lifetime uint16) {
		// Its link-local address comes when the link is up, so that the first may fail.
		_ = wan.try(func() error {
			c, err := net.ListenPacket("ip6:ipv6-icmp", "::")
			if err != nil {
				return err
			}
			defer c.Close()
			p := ipv6.NewPacketConn(c)
			if err := errors.Join(p.SetMulticastHopLimit(255), p.SetMulticastLoopback(false)); err != nil {
				return err
			}
			// RFC 4861, section 4.2, without options.
			m := icmp.Message{Type: ipv6.ICMPTypeRouterAdvertisement, Body: &icmp.RawBody{Data: []byte{
				64, 0, byte(lifetime >> 8), byte(lifetime), 0, 0, 0, 0, 0, 0, 0, 0,
			}}}
			b, err := m.Marshal(nil)
			if err != nil {
				return err
			}
			_, err = c.WriteTo(b, &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: "gateway"})
			return err
		})
	}
	routed := func(want bool) {
		t.Helper()
		var got string
		for end := time.Now().Add(patience); time.Now().Before(end); {
			if got = s.run("ip", "-6", "route", "show", "default", "proto", "ra"); (got != "") == want {
				return
			}
			if want {
				advertise(1800)
			} else {
				advertise(0)
			}
		}
		t.Fatalf("the route is %q; want one: %v", got, want)
	}
	routed(true)
	r := s.open(Config{Journal: filepath.Join(t.TempDir(), "journal")})
	s.apply(r, gatewayState(carry("fd10::/64", Site)))
	if got := s.run("ip", "-6", "route", "show", "default", "proto", "ra"); got == "" {
		t.Error("a gateway has forgotten its default route")
	}
	routed(false)
	routed(true)
	s.do(r.Close)
	if got := s.run("ip", "-6", "route", "show", "default", "proto", "ra"); got == "" {
		t.Error("a gateway no longer has forgotten its default route")
	}
}

// TestSysctlsOfOthers: what somebody else sets stays, while we are there and when we go.
func TestSysctlsOfOthers(t *testing.T) {
	s := newGateway(t)
	r := s.open(Config{Journal: filepath.Join(t.TempDir(), "journal")})
	s.sysctl(conf4+"wan/rp_filter", "1")
	s.sysctl(validMark, "1")
	state := gatewayState(carry("192.168.10.0/24", Masquerade), carry("fd10::/64", Site))
	state.Routes = append(state.Routes, list("10.2.0.0/16")...)
	s.apply(r, state)
	s.sysctl(forwarding4, "0")
	s.sysctl(conf6+"wan/accept_ra", "0")
	s.apply(r, state)
	s.apply(r, state)
	s.sysctlIs(forwarding4, "0")
	if notes := strings.Join(r.Notes(), "\n"); strings.Count(notes, "somebody has set net.ipv4.ip_forward to 0") != 1 {
		t.Errorf("notes:\n%s", notes)
	}
	s.do(r.Close)
	s.sysctlIs(forwarding4, "0")
	s.sysctlIs(forwarding6, "0")
	s.sysctlIs(conf6+"wan/accept_ra", "0")
	s.sysctlIs(validMark, "1")
}

// TestForwardingNeeded: forwarding stays on for a bridge that was made after it was turned on, and only then.
func TestForwardingNeeded(t *testing.T) {
	for _, c := range []struct{ before, after, want string }{{"br0", "", "0"}, {"", "", "0"}, {"br0", "docker0", "1"}, {"", "docker0", "1"}} {
		s := newGateway(t)
		bridge := func(name string) {
			if name != "" {
				s.run("ip", "link", "add", name, "type", "bridge")
			}
		}
		bridge(c.before)
		r := s.open(Config{Journal: filepath.Join(t.TempDir(), "journal")})
		s.apply(r, gatewayState(carry("192.168.10.0/24", Masquerade), carry("fd10::/64", Site)))
		bridge(c.after)
		s.do(r.Close)
		s.sysctlIs(forwarding4, c.want)
		s.sysctlIs(forwarding6, c.want)
		if told := strings.Count(strings.Join(r.Notes(), "\n"), "stays 1, because docker0"); told != map[string]int{"0": 0, "1": 2}[c.want] {
			t.Errorf("%+v: told %d times", c, told)
		}
	}
}

// TestReversePath: marks count in the reverse-path filter only where one is strict and a route leads beyond the network; without socket matching
// it is made loose. Both are taken back.
func TestReversePath(t *testing.T) {
	s := newGateway(t)
	before := s.settings(gatewaySettings()...)
	r := s.open(Config{Journal: filepath.Join(t.TempDir(), "journal")})
	beyond := gatewayState()
	beyond.Routes = append(beyond.Routes, list("10.2.0.0/16")...)
	s.apply(r, beyond)
	s.sysctlIs(validMark, "0")
	s.sysctl(conf4+"wan/rp_filter", "1")
	s.apply(r, gatewayState())
	s.sysctlIs(validMark, "0")
	s.apply(r, beyond)
	s.sysctlIs(validMark, "1")
	s.sysctlIs(conf4+"wan/rp_filter", "1")
	r.noSocketMatch = true
	s.apply(r, beyond)
	s.apply(r, beyond)
	s.sysctlIs(validMark, "0")
	s.sysctlIs(conf4+"wan/rp_filter", "2")
	s.sysctlIs(conf4+"lan/rp_filter", "0")
	s.do(r.Close)
	before[conf4+"wan/rp_filter"] = "1"
	if diff := cmp.Diff(before, s.settings(gatewaySettings()...)); diff != "" {
		t.Errorf("after Close:\n%s", diff)
	}
}

// TestCleanUp: a router that is gone without a word is cleaned up after by its journal: tables, rules, sysctls. The kill switch stays.
func TestCleanUp(t *testing.T) {
	s := newGateway(t)
	s.run("nft", "add table inet somebody; add chain inet somebody forward { type filter hook forward priority 0; policy accept; }")
	look := func() string {
		return strings.Join([]string{s.run("nft", "list", "ruleset"), s.run("ip", "rule"), s.run("ip", "-6", "rule"),
			s.run("ip", "route", "show", "table", "all"), s.run("ip", "-6", "route", "show", "table", "all")}, "\n")
	}
	before, settings := look(), s.settings(gatewaySettings()...)
	journal := filepath.Join(t.TempDir(), "journal")
	r := s.open(Config{Journal: journal})
	state := all()
	state.KillSwitch = true
	s.apply(r, state)
	if after := look(); after == before || !strings.Contains(after, "inet warren") {
		t.Fatalf("nothing was changed:\n%s", after)
	}
	// What the kernel does when a process is killed, and no more.
	if err := r.tun.Close(); err != nil {
		t.Fatal(err)
	}
	s.do(func() error {
		notes, err := CleanUp(journal)
		if len(notes) == 0 {
			t.Error("nothing told")
		}
		return err
	})
	s.do(func() error {
		if on, err := KillSwitchOn(); !on || err != nil {
			t.Errorf("kill switch: %v, %v", on, err)
		}
		return LiftKillSwitch()
	})
	if diff := cmp.Diff(before, look()); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
	if diff := cmp.Diff(settings, s.settings(gatewaySettings()...)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
	s.do(func() error {
		if notes, err := CleanUp(journal); err != nil || len(notes) > 0 {
			t.Errorf("again: %q, %v", notes, err)
		}
		return nil
	})
}

// TestOpenCleansUp: the next router with the same journal cleans up by itself.
func TestOpenCleansUp(t *testing.T) {
	s := newGateway(t)
	journal := filepath.Join(t.TempDir(), "journal")
	r := s.open(Config{Journal: journal})
	s.apply(r, gatewayState(carry("192.168.10.0/24", Masquerade)))
	s.sysctlIs(forwarding4, "1")
	if err := r.tun.Close(); err != nil {
		t.Fatal(err)
	}
	r = s.open(Config{Journal: journal})
	s.sysctlIs(forwarding4, "0")
	if left := s.run("nft", "list", "ruleset"); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
	s.apply(r, gatewayState(carry("192.168.10.0/24", Masquerade)))
	s.sysctlIs(forwarding4, "1")
}

// TestJournalHostile: what was not written by a router sets no sysctl, is told, and is not in the way for ever.
func TestJournalHostile(t *testing.T) {
	s := newGateway(t)
	s.sysctl(forwarding4, "1")
	for _, text := range []string{
		"", "{", "[]", `{"interface": "a b"}`, `{"interface": 7}`,
		`{"interface": "w", "sysctls": [{"path": "../../tmp/x", "was": "0", "now": "1"}]}`,
		`{"interface": "w", "sysctls": [{"path": "net/ipv4/../../kernel/sysrq", "was": "0", "now": "1"}]}`,
		`{"interface": "w", "sysctls": [{"path": "kernel/sysrq", "was": "0", "now": "1"}]}`,
		`{"interface": "w", "sysctls": [{"path": "net/ipv4/ip_forward", "was": "0; reboot", "now": "1"}]}`,
		`{"interface": "w", "sysctls": [{"path": "net/ipv4/ip_forward", "was": "0", "now": ""}]}`,
		`{"interface": "w", "sysctls": [{"path": "net/ipv4/ip_forward", "was": "0", "now": "1", "with": {"kernel/sysrq": "1"}}]}`,
	} {
		journal := filepath.Join(t.TempDir(), "journal")
		s.do(func() error {
			boot, namespace := here()
			text = strings.Replace(text, "{", fmt.Sprintf(`{"boot": %q, "namespace": %q, `, boot, namespace), 1)
			if err := os.WriteFile(journal, []byte(text), 0o600); err != nil {
				return err
			}
			if _, err := CleanUp(journal); err == nil || !strings.Contains(err.Error(), journal) {
				t.Errorf("%q: %v", text, err)
			}
			if _, err := CleanUp(journal); err != nil {
				t.Errorf("%q, again: %v", text, err)
			}
			return nil
		})
		s.sysctlIs(forwarding4, "1")
	}
}

// TestJournalElsewhere: a journal of before the host was restarted, or of another container, says nothing of this one.
func TestJournalElsewhere(t *testing.T) {
	s := newGateway(t)
	s.sysctl(forwarding4, "1")
	path := filepath.Join(t.TempDir(), "journal")
	for _, differ := range []func(j *journal){func(j *journal) { j.Boot = "another" }, func(j *journal) { j.Namespace = "another" }} {
		s.do(func() error {
			j := newJournal(path, name)
			j.Sysctls = []setting{{Path: forwarding4, Was: "0", Now: "1"}}
			differ(j)
			if err := j.save(); err != nil {
				return err
			}
			notes, err := CleanUp(path)
			if len(notes) > 0 {
				t.Errorf("told %q", notes)
			}
			return err
		})
		s.sysctlIs(forwarding4, "1")
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("the journal is there still: %v", err)
		}
	}
}

// TestJournalFirst: where the journal cannot be written, nothing is changed that it would have to name.
func TestJournalFirst(t *testing.T) {
	s := newGateway(t)
	r := s.open(Config{Journal: filepath.Join(t.TempDir(), "none", "journal")})
	want := all()
	want.KillSwitch = true
	err := s.try(func() error { return r.Apply(want) })
	if err == nil || !strings.Contains(err.Error(), "journal of changes to this host, without which none is made") {
		t.Error(err)
	}
	s.sysctlIs(forwarding4, "0")
	if routes := s.run("ip", "route", "show", "table", "22359"); strings.Contains(routes, "default") || !strings.Contains(routes, "100.64.0.0/16") {
		t.Errorf("routes:\n%s", routes)
	}
	s.do(func() error {
		on, err := KillSwitchOn()
		if !on {
			t.Errorf("the kill switch, which is in no journal, is off: %v", err)
		}
		return err
	})
}
