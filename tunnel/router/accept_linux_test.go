package router

import (
	"path/filepath"
	"strings"
	"testing"
)

// filtered is how a host's own firewall drops what is forwarded, as iptables sets it up.
var filtered = map[string]struct {
	programs []string // for IPv4 and IPv6
	set      []string // as the arguments of each
	chain    string   // where our rules go
}{
	"ufw": {[]string{"iptables-nft", "ip6tables-nft"}, []string{
		"-P FORWARD DROP", "-N ufw-before-forward", "-A FORWARD -j ufw-before-forward",
		"-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
	}, "FORWARD"},
	"Docker": {[]string{"iptables-nft", "ip6tables-nft"}, []string{
		"-P FORWARD DROP", "-N DOCKER-USER", "-N DOCKER-FORWARD", "-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-FORWARD",
		"-A DOCKER-USER -j RETURN", "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
	}, "DOCKER-USER"},
	"iptables of old": {[]string{"iptables-legacy", "ip6tables-legacy"}, []string{
		"-P FORWARD DROP", "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
	}, "FORWARD"},
	"Docker on iptables of old": {[]string{"iptables-legacy", "ip6tables-legacy"}, []string{
		"-P FORWARD DROP", "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER", "-A DOCKER-USER -j RETURN",
	}, "DOCKER-USER"},
}

// TestAcceptElsewhere: a gateway forwards through the firewalls of others, whose own rules stay as they are, and takes its rules out again, also
// after it was killed.
func TestAcceptElsewhere(t *testing.T) {
	for what, c := range filtered {
		t.Run(what, func(t *testing.T) {
			o := newOffice(t, true)
			for _, program := range c.programs {
				for _, args := range c.set {
					o.gateway.run(append([]string{program}, strings.Fields(args)...)...)
				}
			}
			saved := func() (out string) {
				for _, program := range c.programs {
					out += o.gateway.run(program, "-S")
				}
				return out
			}
			before := saved()
			journal := filepath.Join(t.TempDir(), "journal")
			o.gateway.do(o.onGateway.Close)
			o.onGateway = o.gateway.open(Config{Journal: journal})
			tunnelAgain(t, o)
			site := gatewayState(carry("192.168.10.0/24", Site), carry("fd10::/64", Site))
			for range 2 {
				o.gateway.apply(o.onGateway, site)
			}
			o.laptop.wantAnswer("tcp", "192.168.10.7:631", "printer saw 100.64.0.9")
			o.laptop.wantAnswer("udp", "[fd10::7]:631", "printer saw fd00::9")
			o.laptop.echo("100.64.0.9:80")
			o.printer.wantAnswer("tcp", "100.64.0.9:80", "laptop saw 192.168.10.7")
			after := saved()
			if n := strings.Count(after, "-A "+c.chain+" -i "+name); n != len(c.programs) {
				t.Errorf("%d rules in %s:\n%s", n, c.chain, after)
			}

			// An exit node is asked for names, and for nothing else.
			for _, program := range c.programs {
				o.gateway.run(program, "-P", "INPUT", "DROP")
			}
			o.gateway.echo("100.64.0.1:53")
			o.gateway.echo("[fd00::1]:53")
			o.gateway.echo("100.64.0.1:54")
			exit := gatewayState(carry("192.168.10.0/24", Site))
			exit.Exit = Families{IPv4: true, IPv6: true}
			for range 2 {
				o.gateway.apply(o.onGateway, exit)
			}
			for _, network := range []string{"udp", "tcp"} {
				o.laptop.wantAnswer(network, "100.64.0.1:53", "gateway saw 100.64.0.9")
				o.laptop.wantAnswer(network, "[fd00::1]:53", "gateway saw fd00::9")
			}
			o.laptop.wantNone("udp", "100.64.0.1:54", "")
			if n := strings.Count(saved(), "-A INPUT -i "+name); n != 2*len(c.programs) {
				t.Errorf("%d rules in INPUT:\n%s", n, saved())
			}
			for _, program := range c.programs {
				o.gateway.run(program, "-P", "INPUT", "ACCEPT")
			}

			// Remote access needs answers only to go into the tunnel.
			o.gateway.apply(o.onGateway, gatewayState(carry("192.168.10.0/24", Masquerade)))
			o.laptop.wantAnswer("tcp", "192.168.10.7:631", "printer saw 192.168.10.1")
			if now := saved(); strings.Contains(now, " -o "+name+" -m comment") || strings.Contains(now, "-A INPUT -i "+name) ||
				strings.Count(now, " -o "+name+" -m conntrack --ctstate RELATED,ESTABLISHED ") != len(c.programs) {
				t.Errorf("not just answers are let through:\n%s", now)
			}
			o.gateway.apply(o.onGateway, gatewayState())
			if now := saved(); now != before {
				t.Errorf("a gateway no longer:\n%s\nbefore:\n%s", now, before)
			}
			o.gateway.apply(o.onGateway, site)
			if err := o.onGateway.tun.Close(); err != nil {
				t.Fatal(err)
			}
			o.gateway.do(func() error { _, err := CleanUp(journal); return err })
			if now := saved(); now != before {
				t.Errorf("cleaned up:\n%s\nbefore:\n%s", now, before)
			}
		})
	}
}

// tunnelAgain connects a gateway's new interface to the laptop's, which has to be new too.
func tunnelAgain(t *testing.T, o *office) {
	t.Helper()
	o.laptop.do(o.onLaptop.Close)
	o.onLaptop = o.laptop.open(Config{})
	tunnel(o.onLaptop, o.onGateway)
	o.laptop.apply(o.onLaptop, laptopState("192.168.10.0/24", "fd10::/64"))
}

// TestAcceptNowhere: a firewall that has no place for rules of others is told of, and left as it is.
func TestAcceptNowhere(t *testing.T) {
	s := newGateway(t)
	s.run("nft", "add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy drop; }")
	before := s.run("nft", "list", "table", "inet", "firewalld")
	r := s.open(Config{})
	for range 2 {
		s.apply(r, gatewayState(carry("192.168.10.0/24", Masquerade)))
	}
	if notes := strings.Join(r.Notes(), "\n"); strings.Count(notes, "chain filter_FORWARD of nftables table firewalld drops what is forwarded") != 1 {
		t.Errorf("notes:\n%s", notes)
	}
	if after := s.run("nft", "list", "table", "inet", "firewalld"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestBesideWireGuard: an interface that wg-quick has set up with all addresses allowed keeps its rules, and each gets what is its own.
func TestBesideWireGuard(t *testing.T) {
	a := newAbroad(t)
	// What wg-quick(8) does for AllowedIPs = 0.0.0.0/0, with a cable for the tunnel.
	a.laptop.run("sh", "-ec", `
		ip link add wg0 type veth peer name other
		ip link set wg0 up; ip link set other up
		ip address add 10.99.0.2/24 dev wg0
		ip route add default via 192.168.1.1 dev internet table 51820
		ip rule add not fwmark 51820 table 51820
		ip rule add table main suppress_prefixlength 0`)
	before := a.laptop.run("ip", "rule")
	a.laptop.apply(a.onLaptop, using("10.5.0.0/16"))
	by := func(to string, mark ...string) string {
		return a.laptop.run(append([]string{"ip", "route", "get", to}, mark...)...)
	}
	for _, c := range []struct {
		to, mark, dev, table string
	}{
		{"100.64.0.1", "0", name, "22359"}, {"10.5.0.1", "0", name, "22359"}, {"198.51.100.1", "0", "internet", "51820"},
		{"198.51.100.1", "51820", "internet", ""}, {"198.51.100.1", "0x77617272", "internet", ""}, {"10.99.0.7", "0", "wg0", ""},
	} {
		got := by(c.to, "mark", c.mark)
		if !strings.Contains(got, " dev "+c.dev+" ") || c.table != "" && !strings.Contains(got, " table "+c.table+" ") {
			t.Errorf("to %s with mark %s: %s", c.to, c.mark, got)
		}
	}
	a.laptop.apply(a.onLaptop, using("0.0.0.0/0"))
	for mark, dev := range map[string]string{"0": name, "51820": name, "0x77617272": "internet"} {
		if got := by("198.51.100.1", "mark", mark); !strings.Contains(got, " dev "+dev+" ") {
			t.Errorf("with an exit node, mark %s: %s", mark, got)
		}
	}
	// Marked packets have no way at all rather than one through the tunnel that they carry.
	a.laptop.run("ip", "route", "del", "default")
	a.laptop.run("ip", "route", "flush", "table", "51820")
	if err := a.laptop.try(func() error { return runQuietly("ip", "route", "get", "198.51.100.1", "mark", "0x77617272") }); err == nil {
		t.Error("marked packets are routed into the tunnel")
	}
	a.laptop.do(a.onLaptop.Close)
	if after := a.laptop.run("ip", "rule"); after != before {
		t.Errorf("rules before:\n%s\nafter:\n%s", before, after)
	}
}
