package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/coord/client"
	"warren/internal/diskspace"
	"warren/proto/tlsbind"
	"warren/tunnel/router"
)

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// healthy is a gateway where all is well.
func healthy() Facts {
	ahead := 200 * time.Millisecond
	return Facts{
		OS: "linux", Version: "1.2", Interface: "warren0",
		TUN: &TUN{Path: "/dev/net/tun"}, Rights: &Rights{Daemon: true},
		State:   State{Dir: "/state", Mode: 0o700, Space: &diskspace.Space{FreeBytes: 5 << 30, FreeFiles: 1000, Files: 2000}},
		Daemon:  Daemon{Running: true, Version: "1.2", PID: 7},
		Service: Service{Manager: "systemd", Load: "loaded", Active: "active", Sub: "running", Enabled: "enabled", Result: "success"},
		Member: &Member{Up: true, State: "up", Addresses: []netip.Addr{netip.MustParseAddr("100.80.0.2"), netip.MustParseAddr("fd12::2")},
			Overlay: prefixes("100.80.0.0/16", "fd12::/48"), Advertised: prefixes("192.168.7.0/24", "2001:db8:7::/64"), Routes: []Route{{Prefix: prefixes("10.9.0.0/16")[0], Use: "tunnel"}}},
		Resolver:    &Resolver{File: "/etc/resolv.conf", Servers: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, Name: "vpn.example"},
		Coordinator: &Coordinator{URL: "https://vpn.example", Connected: true, ClockAhead: &ahead},
		Net: &Net{IPv4: Family{Local: netip.MustParseAddr("192.168.7.4"), UDP: "yes", MTU: 1500}, IPv6: Family{UDP: "unknown"},
			Relays: []Relay{{Name: "home", Connected: true}}, Findings: []string{"there is no NAT"}},
		Host: &Host{
			Links:     []Link{{Name: "eth0", MTU: 1500, Prefixes: prefixes("192.168.7.0/24")}, {Name: "docker0", Kind: "bridge", MTU: 1500, Prefixes: prefixes("172.17.0.0/16")}},
			Routes:    []HostRoute{{prefixes("0.0.0.0/0")[0], "eth0", mainTable}, {prefixes("192.168.7.0/24")[0], "eth0", mainTable}},
			Rules:     []Rule{{Priority: 0, Always: true, Table: localTable}, {Priority: 32766, Always: true, Table: mainTable}},
			Forwards4: true, Forwards6: true,
		},
	}
}

// names of all checks, in order.
func checks() []string {
	return []string{"tun", "rights", "state", "daemon", "service", "settings", "membership", "dns", "coordinator", "clock", "udp", "relay", "mtu",
		"other-vpn", "rules", "overlaps", "forwarding", "firewall"}
}

func TestHealthy(t *testing.T) {
	var got []string
	for _, f := range Judge(healthy()) {
		if f.Outcome != OK || f.Text == "" || f.Help != "" {
			t.Errorf("%+v", f)
		}
		got = append(got, f.Name)
	}
	if diff := cmp.Diff(checks(), got); diff != "" {
		t.Error(diff)
	}
}

// TestNothingKnown: every check has a finding when nothing could be found out, and none of them is that something failed.
func TestNothingKnown(t *testing.T) {
	var got []string
	for _, f := range Judge(Facts{OS: "plan9", HostErr: errors.New("no"), State: State{Absent: true}, Daemon: Daemon{Err: errors.New("none")}}) {
		if f.Outcome == Failed || f.Text == "" {
			t.Errorf("%+v", f)
		}
		got = append(got, f.Name)
	}
	if diff := cmp.Diff(checks(), got); diff != "" {
		t.Error(diff)
	}
}

func TestJudge(t *testing.T) {
	open := func(err error) error { return &fs.PathError{Op: "open", Path: "/dev/net/tun", Err: err} }
	ahead := func(d time.Duration) func(*Facts) { return func(f *Facts) { f.Coordinator.ClockAhead = &d } }
	link := func(l Link) func(*Facts) { return func(f *Facts) { f.Host.Links = append(f.Host.Links, l) } }
	rule := func(r Rule) func(*Facts) { return func(f *Facts) { f.Host.Rules = append(f.Host.Rules, r) } }
	chain := func(c Chain) func(*Facts) { return func(f *Facts) { f.Host.Chains = append(f.Host.Chains, c) } }
	for _, tc := range []struct {
		name  string
		spoil func(*Facts)
		check string
		// want is the outcome, then patterns of text and help.
		want, text, help string
	}{
		{"no TUN", func(f *Facts) { f.TUN.Err = open(syscall.ENOENT) }, "tun", Failed, `/dev/net/tun is missing`, `modprobe tun`},
		{"no module", func(f *Facts) { f.TUN.Err = open(syscall.ENODEV) }, "tun", Failed, `missing`, `modprobe`},
		{"forbidden", func(f *Facts) { f.TUN.Err = open(syscall.EPERM) }, "tun", Failed, `may not be opened`, `DeviceAllow`},
		{"forbidden to a user", func(f *Facts) { f.TUN.Err = open(syscall.EACCES); f.UID = 1000 }, "tun", Unknown, `not known`, `sudo`},
		{"another device", func(f *Facts) { f.TUN.Err = errNoDevice }, "tun", Failed, `is not the TUN device`, `mknod /dev/net/tun c 10 200`},
		{"odd", func(f *Facts) { f.TUN.Err = open(syscall.EBUSY) }, "tun", Failed, `busy`, `ls -l`},

		{"daemon without rights", func(f *Facts) { f.Rights.Missing = []string{"CAP_NET_ADMIN"} }, "rights", Failed, `the daemon lacks CAP_NET_ADMIN`, `--cap-add`},
		{"user", func(f *Facts) { f.Rights = &Rights{Missing: []string{"CAP_NET_RAW"}}; f.UID = 9 }, "rights", Unknown, `user 9 has no CAP_NET_RAW`, `sudo`},
		{"root of a container", func(f *Facts) { f.Rights = &Rights{Missing: []string{"CAP_NET_RAW"}} }, "rights", Failed, `root lacks CAP_NET_RAW`, `--cap-add`},

		{"open to others", func(f *Facts) { f.State.Mode = 0o755 }, "state", Failed, `open to others: mode 0755`, `chmod 700 /state`},
		{"damaged", func(f *Facts) { f.State.Err = errors.New("state file x: damaged") }, "state", Failed, `damaged`, ``},
		{"read-only", func(f *Facts) { f.State.Space.ReadOnly = true }, "state", Failed, `read-only`, `--state`},
		{"full", func(f *Facts) { f.State.Space.FreeBytes = 15 << 20 }, "state", Failed, `/state has 15\.0 MiB left`, `make room`},
		{"nearly full", func(f *Facts) { f.State.Space.FreeBytes = 63 << 20 }, "state", Warning, `63\.0 MiB left`, `make room`},
		{"no inodes", func(f *Facts) { f.State.Space.FreeFiles = 3 }, "state", Failed, `room for 3 files more`, `remove files`},
		{"inodes not counted", func(f *Facts) { f.State.Space.FreeFiles, f.State.Space.Files = 0, 0 }, "state", OK, `5\.0 GiB`, ``},
		{"not mine", func(f *Facts) { f.State = State{Dir: "/state", Mode: 0o700, Denied: true}; f.UID = 9 }, "state", Unknown, `root's alone`, `sudo`},

		{"other version", func(f *Facts) { f.Daemon.Version = "1.1" }, "daemon", Warning, `process 7\) is of version 1.1, this command of 1.2`, `warren restart`},
		{"daemon of root", func(f *Facts) { f.Daemon = Daemon{Denied: true, Socket: "/s"} }, "daemon", Unknown, `\(socket /s\)`, `--operator`},
		{"no daemon", func(f *Facts) { f.Daemon = Daemon{Err: errors.New("none")} }, "daemon", Warning, `none`, `without it`},

		{"no unit", func(f *Facts) { f.Service.Load = "not-found" }, "service", Warning, `not-found`, `install`},
		{"unit failed", func(f *Facts) { f.Service.Active, f.Service.Result = "failed", "exit-code" }, "service", Failed, `has failed: exit-code`, `journalctl`},
		{"unit loops", func(f *Facts) { f.Service.Active, f.Service.Sub, f.Service.Restarts = "activating", "auto-restart", 12 }, "service", Failed, `12 times`, `journalctl`},
		{"unit not enabled", func(f *Facts) { f.Service.Enabled = "disabled" }, "service", Warning, `disabled`, `systemctl enable warren`},
		{"unit inactive", func(f *Facts) { f.Service.Active = "inactive" }, "service", Warning, `is not the service`, `enable --now`},
		{"all inactive", func(f *Facts) { f.Service.Active, f.Daemon = "inactive", Daemon{Err: errors.New("none")} }, "service", Warning, `is inactive$`, `enable --now`},

		{"settings that are wrong", func(f *Facts) { f.Settings.Err = errors.New("configuration /etc/x:3: port: want 0 to 65535") }, "settings", Failed, `/etc/x:3: port`, `config check`},
		{"settings of root", func(f *Facts) { f.Settings.Err = open(syscall.EACCES) }, "settings", Unknown, `denied`, `sudo`},
		{"settings", func(f *Facts) { f.Settings.File = "/etc/x" }, "settings", OK, `^/etc/x is right$`, ``},

		{"not enrolled", func(f *Facts) { f.Member = nil }, "membership", Warning, `joined no network`, `warren up TOKEN`},
		{"nobody may know", func(f *Facts) { f.Member, f.State.Denied, f.Daemon = nil, true, Daemon{Denied: true} }, "membership", Unknown, `not known`, `sudo`},
		{"nobody may know what is to be carried", func(f *Facts) { f.Member, f.State.Denied, f.Daemon = nil, true, Daemon{Denied: true} }, "forwarding", Unknown, `not known`, `sudo`},
		{"nobody may know whom to ask", func(f *Facts) { f.Coordinator, f.State.Denied, f.Daemon = nil, true, Daemon{} }, "coordinator", Unknown, `not known`, `sudo`},
		{"nobody may know the relays", func(f *Facts) { f.Net, f.State.Denied, f.Daemon = nil, true, Daemon{} }, "relay", Unknown, `not known`, `sudo`},
		{"no relays yet", func(f *Facts) { f.Net, f.State.Denied = nil, true }, "relay", Unknown, `not known`, `"warren up" first`},
		{"rejected", func(f *Facts) { f.Member.State, f.Member.Warnings = "rejected", []string{"removed"} }, "membership", Failed, `removed`, `new token`},
		{"down", func(f *Facts) { f.Member.State, f.Member.Up = "down", false }, "membership", Warning, `warren down`, `warren up`},
		{"cannot be up", func(f *Facts) { f.Member.State, f.Member.Warnings = "down", []string{"no TUN"} }, "membership", Failed, `not up: no TUN`, `log`},
		{"warns", func(f *Facts) { f.Member.Warnings = []string{"nothing is advertised"} }, "membership", Warning, `nothing is advertised`, ``},

		{"name not found", func(f *Facts) { f.Resolver.Err = errors.New("no such host") }, "dns", Failed, `vpn\.example.*no such host`, `getent hosts vpn\.example`},
		{"no resolver", func(f *Facts) { f.Resolver = &Resolver{File: "/r"} }, "dns", Warning, `/r names no resolver`, ``},
		{"no file", func(f *Facts) { f.Resolver = &Resolver{File: "/r", FileErr: fs.ErrNotExist} }, "dns", Warning, `/r cannot be read`, ``},

		{"away", func(f *Facts) {
			f.Coordinator.Connected, f.Coordinator.MapAge = false, 90*time.Second
			f.Coordinator.Err = fmt.Errorf("%w: https://vpn.example: refused", client.ErrUnreachable)
		}, "coordinator", Failed, `it is not reached: https://vpn\.example: refused; the map is 1m30s old`, `TCP port`},
		{"another one", func(f *Facts) { f.Coordinator.Connected, f.Coordinator.Err = false, tlsbind.ErrWrongCoordinator }, "coordinator", Failed, `not the coordinator of this network`, `captive portal`},
		{"another one, says the daemon", func(f *Facts) {
			f.Coordinator.Connected, f.Coordinator.Err = false, errors.New(tlsbind.ErrWrongCoordinator.Error()+"; x")
		}, "coordinator", Failed, `not the coordinator`, `captive portal`},
		{"by a proxy", func(f *Facts) { f.Coordinator.Proxy = "http://p:3128" }, "coordinator", OK, `through the proxy http://p:3128`, ``},
		{"soon", func(f *Facts) { f.Coordinator.Connected = false }, "coordinator", Unknown, `not connected yet`, ``},

		{"ahead", ahead(3 * time.Minute), "clock", Failed, `clock is 3m0s ahead of the coordinator's`, `set it.*too old`},
		{"behind", ahead(-26 * time.Hour), "clock", Failed, `26h0m0s behind the coordinator's`, `set it`},
		{"a little behind", ahead(-40 * time.Second), "clock", Warning, `40s behind`, `set it`},
		{"nearly right", ahead(-30 * time.Second), "clock", OK, `agrees`, ``},

		{"portal", func(f *Facts) { f.Net.Portal, f.Net.PortalURL = true, "http://login" }, "udp", Failed, `"http://login"`, `browser`},
		{"no UDP", func(f *Facts) { f.Net.IPv4.UDP = "no" }, "udp", Warning, `UDP is blocked`, `3478 and 3479`},
		{"no UDP over IPv6", func(f *Facts) { f.Net.IPv6.UDP = "no" }, "udp", Warning, `not over IPv6`, `allow`},
		{"no UDP over IPv4", func(f *Facts) { f.Net.IPv4.UDP, f.Net.IPv6.UDP = "no", "yes" }, "udp", Warning, `not over IPv4`, `allow`},
		{"nothing answers", func(f *Facts) {
			f.Net.IPv4.UDP, f.Net.Relays, f.Coordinator.Connected = "no", []Relay{{Name: "r"}}, false
		}, "udp", Unknown, `nothing else`, ``},
		{"netcheck failed", func(f *Facts) { f.Net = &Net{Err: errors.New("timeout")} }, "udp", Unknown, `timeout`, ``},

		{"no relay", func(f *Facts) { f.Net.Relays = nil }, "relay", Warning, `has no relay`, `serve`},
		{"relay away", func(f *Facts) { f.Net.Relays = []Relay{{Name: "r", Err: "refused"}} }, "relay", Failed, `r \(refused\)`, `TCP port`},
		{"one relay away", func(f *Facts) { f.Net.Relays = append(f.Net.Relays, Relay{Name: "r", Err: "refused"}) }, "relay", Warning, `not reached: r \(refused\); reached: home`, ``},

		{"narrow way", func(f *Facts) { f.Net.IPv4.MTU = 1300 }, "mtu", Warning, `over IPv4 has 1300 bytes; the tunnel needs 1340`, `raise`},
		{"just wide enough", func(f *Facts) { f.Net.IPv4.MTU = 1340 }, "mtu", OK, `1340`, ``},
		{"narrow link", func(f *Facts) { f.Host.Links[0].MTU = 1280 }, "mtu", Warning, `interface eth0 carries packets of 1280 bytes`, `ip link set eth0 mtu`},
		{"narrow link of others", func(f *Facts) { f.Host.Links[1].MTU = 1280 }, "mtu", OK, ``, ``},

		{"overlapping VPN", link(Link{Name: "tailscale0", Kind: "tun", Prefixes: prefixes("100.80.0.9/32")}), "other-vpn", Failed, `tailscale0 of Tailscale has 100\.80\.0\.9/32, which overlaps with this network's 100\.80\.0\.0/16`, `--ipv4`},
		{"overlapping provider", link(Link{Name: "ppp0", Prefixes: prefixes("100.80.0.0/12")}), "other-vpn", Failed, `interface ppp0 has 100\.80`, `another prefix`},
		{"VPN beside", link(Link{Name: "wt0", Prefixes: prefixes("100.101.0.0/16")}), "other-vpn", OK, `other networks here: wt0 of NetBird`, ``},
		{"WireGuard beside", link(Link{Name: "vpn", Kind: "wireguard", Prefixes: prefixes("10.1.0.0/16")}), "other-vpn", OK, `vpn of WireGuard`, ``},
		{"provider beside", link(Link{Name: "ppp0", Prefixes: prefixes("100.70.0.0/24")}), "other-vpn", OK, `ppp0 \(100\.70\.0\.0/24, a provider's shared addresses\)`, ``},
		{"route of another VPN", func(f *Facts) {
			f.Host.Routes = append(f.Host.Routes, HostRoute{prefixes("100.64.0.0/10")[0], "wt0", 7120})
		}, "other-vpn", Warning, `route to 100\.64\.0\.0/10 by wt0 \(table 7120\) overlaps`, `another prefix`},
		{"firewall of another VPN", chain(Chain{Family: "ip", Table: "filter", Name: "ts-input", DropsShared: true}), "other-vpn", Failed, `ts-input of nftables table ip filter drops what comes from 100\.64\.0\.0/10`, `warren0 first.*--netfilter-mode=off`},
		{"firewall that does not concern us", func(f *Facts) {
			f.Member.Overlay, f.Member.Addresses = prefixes("10.3.0.0/16"), nil
			f.Host.Chains = []Chain{{Family: "ip", Table: "filter", Name: "ts-input", DropsShared: true}}
		}, "other-vpn", OK, ``, ``},
		{"only own addresses are known", func(f *Facts) { f.Member.Overlay = nil; f.Host.Links[1].Prefixes = prefixes("100.80.0.0/24") }, "other-vpn", Failed, `docker0 has 100\.80\.0\.0/24, which overlaps with this network's 100\.80\.0\.2/32`, ``},

		{"rule with our priority", rule(Rule{Priority: 5270, Mark: 1, Mask: 1, Table: 100}), "rules", Failed, `IPv4 rule has priority 5270`, `another priority`},
		{"rule for our mark", rule(Rule{IPv6: true, Priority: 100, Mark: 0x10000, Mask: 0xff0000 & ^uint32(0x600000), Always: true, Table: 52}), "rules", Failed, `an IPv6 rule of priority 100 takes packets with mark`, `another mark`},
		{"rule for another mark", rule(Rule{Priority: 5210, Mark: 0x80000, Mask: 0xff0000, Always: true, Table: 52}), "rules", OK, ``, ``},
		{"rule before all", rule(Rule{Priority: 105, Always: true, Table: 7120}), "rules", Warning, `priority 105 has all packets look into table 7120`, `ip route show table 7120`},
		{"rule after all", rule(Rule{Priority: 5290, Always: true, Table: 52}), "rules", OK, ``, ``},
		{"rule to the main table", rule(Rule{Priority: 5200, Always: true, Table: mainTable}), "rules", OK, ``, ``},
		{"rule for some", rule(Rule{Priority: 5200, Table: 52}), "rules", OK, ``, ``},

		{"overlap, LAN wins", func(f *Facts) { f.Member.Routes = []Route{{prefixes("192.168.0.0/16")[0], "lan", "by --prefer-lan"}} }, "overlaps", Warning, `192\.168\.7\.0/24 of eth0 overlaps with 192\.168\.0\.0/16 behind a gateway; the connected one is used: by --prefer-lan`, `--prefer-lan 192\.168\.0\.0/16`},
		{"overlap, tunnel wins", func(f *Facts) { f.Member.Routes = []Route{{prefixes("172.16.0.0/12")[0], "tunnel", ""}} }, "overlaps", Warning, `docker0 overlaps .*; the tunnel is used$`, `--advertise CIDR=CIDR`},
		{"own route", func(f *Facts) { f.Member.Routes = []Route{{prefixes("192.168.7.0/24")[0], "own", ""}} }, "overlaps", OK, ``, ``},
		{"exit node", func(f *Facts) { f.Member.Routes = []Route{{prefixes("0.0.0.0/0")[0], "tunnel", ""}} }, "overlaps", OK, ``, ``},

		{"no forwarding", func(f *Facts) { f.Host.Forwards4 = false }, "forwarding", Failed, `net\.ipv4\.ip_forward is 0.*192\.168\.7\.0/24`, `sysctl -w net\.ipv4\.ip_forward=1`},
		{"no IPv6 forwarding", func(f *Facts) { f.Host.Forwards6 = false }, "forwarding", Failed, `ipv6\.conf\.all\.forwarding is 0.*2001:db8:7::/64`, `sysctl -w`},
		{"no forwarding needed", func(f *Facts) { f.Host.Forwards4, f.Member.Advertised = false, prefixes("2001:db8:7::/64") }, "forwarding", OK, ``, ``},

		{"INPUT drops", chain(Chain{Family: "ip", Table: "filter", Name: "INPUT", Hook: "input", Drops: true}), "firewall", Warning, `chain INPUT of nftables table ip filter drops .*no rule names warren0`, `accept what comes from warren0`},
		{"INPUT knows us", chain(Chain{Family: "ip", Table: "filter", Name: "INPUT", Hook: "input", Drops: true, NamesUs: true}), "firewall", OK, ``, ``},
		{"FORWARD drops", chain(Chain{Family: "inet", Table: "fw", Name: "fwd", Hook: "forward", Drops: true}), "firewall", Failed, `do not reach what this device carries`, `goes there`},
		{"FORWARD drops what nobody needs", func(f *Facts) {
			f.Member.Advertised = nil
			f.Host.Chains = []Chain{{Family: "inet", Table: "fw", Name: "fwd", Hook: "forward", Drops: true}}
		}, "firewall", OK, ``, ``},
		{"one gateway, invalid dropped", chain(Chain{Family: "inet", Table: "fw", Name: "fwd", Hook: "forward", DropsInvalid: true}), "firewall", OK, ``, ``},
		{"two gateways, invalid dropped", func(f *Facts) {
			f.Member.Routes = []Route{{prefixes("192.168.7.0/24")[0], "own", ""}}
			f.Host.Chains = []Chain{{Family: "inet", Table: "fw", Name: "fwd", Hook: "forward", DropsInvalid: true}}
		}, "firewall", Warning, `chain fwd of nftables table inet fw drops .*ct state invalid.*other gateway`, `nft insert rule inet fw fwd iifname warren0 accept; .*oifname warren0`},
		{"not allowed to look", func(f *Facts) { f.Host.ChainsErr, f.UID = syscall.EPERM, 9 }, "firewall", Unknown, `not permitted`, `sudo`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := healthy()
			tc.spoil(&f)
			of := slices.DeleteFunc(Judge(f), func(f Finding) bool { return f.Name != tc.check })
			if len(of) != 1 {
				t.Fatalf("findings of %s: %+v", tc.check, of)
			}
			matches := func(pattern, text string) bool {
				return regexp.MustCompile(pattern).MatchString(text) && (pattern != "" || tc.want == OK || text == "" || tc.help == "")
			}
			if got := of[0]; got.Outcome != tc.want || !matches(tc.text, got.Text) || !matches(tc.help, got.Help) {
				t.Errorf("%+v, want %s, %s, %s", got, tc.want, tc.text, tc.help)
			}
		})
	}
}

// TestTunnelMark: a rule for exactly our mark takes the tunnel's own packets.
func TestTunnelMark(t *testing.T) {
	f := healthy()
	f.Host.Rules = []Rule{{Priority: 1, Mark: router.Mark, Mask: ^uint32(0), Always: true, Table: 9}}
	text := ""
	for _, one := range Judge(f) {
		text += one.Text + "\n"
	}
	if !strings.Contains(text, "mark 0x77617272/0xffffffff to table 9") {
		t.Error(text)
	}
}

// TestUserspace: a tunnel without an interface needs neither device nor rights, and has nothing to do with the host's network.
func TestUserspace(t *testing.T) {
	f := healthy()
	f.Interface, f.TUN.Err, f.Rights.Missing, f.Host.Forwards4 = Userspace, fs.ErrNotExist, []string{"CAP_NET_ADMIN"}, false
	f.Host.Links[1].Prefixes, f.Host.Rules = prefixes("100.80.0.0/16"), []Rule{{Priority: 5270, Table: 9}}
	f.Host.Chains = []Chain{{Hook: "input", Drops: true}}
	for _, got := range Judge(f) {
		if got.Outcome != OK {
			t.Errorf("%+v", got)
		}
	}
}

func TestProxyFor(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://me:secret@env.example:3128")
	t.Setenv("NO_PROXY", "near.example")
	for _, tc := range []struct{ set, url, want string }{
		{"", "https://far.example", "http://env.example:3128"}, {"", "https://near.example", ""}, {"off", "https://far.example", ""},
		{"https://me:secret@set.example", "https://near.example", "https://set.example"},
	} {
		if got := proxyFor(tc.set, []string{tc.url}); got != tc.want {
			t.Errorf("%+v: %s", tc, got)
		}
	}
}

func TestServiceOf(t *testing.T) {
	got := serviceOf("LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code\nNRestarts=4\nUnitFileState=enabled\n")
	want := Service{Manager: "systemd", Load: "loaded", Active: "activating", Sub: "auto-restart", Enabled: "enabled", Result: "exit-code", Restarts: 4}
	if got != want {
		t.Errorf("%+v", got)
	}
	if got := serviceOf("garbage\nNRestarts=many\n="); got != (Service{Manager: "systemd"}) {
		t.Errorf("%+v", got)
	}
}
