package networks

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"warren/internal/capture"
	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/internal/sim/natmodel"
)

// internet lets ann reach the internet through exit nodes, and nothing else.
const internet = `{
	"grants": [{"name": "out", "src": ["ann"], "dst": ["autogroup:internet"], "ip": ["*"]}],
}`

// Where the server on the internet is: addresses that are public for a policy, too.
var public4, public6 = netip.MustParseAddr("128.66.255.1"), netip.MustParseAddr("2600:db8::1")

// abroad is a laptop in a café, an exit node at home, both behind NATs with IPv6, and a server on the internet:
//
//	laptop, printer --- café's NAT --- internet --- home's NAT --- exit, nas, resolver
//	                                      |
//	                                    server
type abroad struct {
	*world
	cafe, home                     *lab.Site
	server, printer, nas, resolver *lab.Host
	laptop, exit                   *warrennet.Device
	names                          *nameServer
}

func newAbroad(t *testing.T, home lab.Access) *abroad {
	t.Helper()
	a := &abroad{world: newWorld(t, internet)}
	site := func(name string, access lab.Access) *lab.Site {
		s, err := a.Lab.Site(name, access)
		must(t, err)
		return s
	}
	a.server = a.host(site("server", lab.Access{IPv6: lab.OpenIPv6}).Host("server"))
	must(t, a.server.Announce(public4, public6))
	a.answer(a.server, public4, 80)
	a.answer(a.server, public6, 80)
	a.cafe = site("café", lab.Access{NAT: natmodel.Easy(), IPv6: lab.OpenIPv6})
	a.home = site("home", home)
	a.printer, a.nas, a.resolver = a.host(a.cafe.Host("printer")), a.host(a.home.Host("nas")), a.host(a.home.Host("resolver"))
	for _, h := range []*lab.Host{a.printer, a.nas} {
		a.answer(h, h.Addr, 80)
	}
	a.names = a.serveNames(a.resolver)
	laptop := a.host(a.cafe.Host("laptop"))
	for _, conf := range []string{"all", "default", "eth0"} { // as some distributions have it
		must(t, laptop.Sysctl("ipv4/conf/"+conf+"/rp_filter", "1"))
	}
	a.laptop = a.device(laptop, "ann")
	a.exit = a.exitNode("exit", a.home)
	return a
}

// exitNode adds an approved one, whose host asks the resolver.
func (a *abroad) exitNode(name string, at *lab.Site) *warrennet.Device {
	a.t.Helper()
	h := a.host(at.Host(name))
	a.run(h, "sh", "-c", "echo nameserver "+a.resolver.Addr.String()+" >/etc/resolv.conf")
	d := a.device(h, "tag:exit", "--advertise-exit")
	a.awaitAdvertised(d, "0.0.0.0/0", "waiting")
	a.approve(d)
	a.awaitAdvertised(d, "0.0.0.0/0", "approved")
	return d
}

func (a *abroad) run(h *lab.Host, name string, args ...string) string {
	a.t.Helper()
	out, err := h.Command(a.ctx, name, args...).CombinedOutput()
	if err != nil {
		a.t.Fatalf("%s: %s %s: %v: %s", h.Name, name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// answer is server for one port of an address.
func (a *abroad) answer(h *lab.Host, at netip.Addr, port uint16) {
	a.world.server(h, netip.AddrPortFrom(at, port))
}

// awaitExit waits until the laptop uses an exit node.
func (a *abroad) awaitExit(name string) {
	a.t.Helper()
	_, err := a.laptop.Await(a.ctx, "using exit node "+name, func(s *warrennet.Status) bool {
		return s.Exit == nil && name == "" || s.Exit != nil && s.Exit.Node == name
	})
	must(a.t, err)
}

// seenAs has it that the server on the internet sees the laptop by an address of each family.
func (a *abroad) seenAs(when string, four, six netip.Addr) {
	a.t.Helper()
	for _, c := range []struct{ to, want netip.Addr }{{public4, four}, {public6, six}} {
		conn, seen := a.call(a.laptop.Host, netip.AddrPortFrom(c.to, 80))
		if seen != c.want.String() {
			a.t.Errorf("%s: the server at %s sees %s, want %s", when, c.to, seen, c.want)
		}
		a.through(conn, 1<<20)
	}
}

// refused gives how long it took until a connection was refused.
func (a *abroad) refused(to netip.Addr) time.Duration {
	a.t.Helper()
	began := time.Now()
	c, err := a.laptop.Dial(a.ctx, "tcp", netip.AddrPortFrom(to, 80).String())
	if err == nil {
		c.Close()
		a.t.Fatalf("the laptop reaches %s", to)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) {
		a.t.Errorf("connecting to %s: %v; want it refused", to, err)
	}
	return time.Since(began)
}

// unreachable has it that connections to a host of a LAN do not come about within a second.
func (a *abroad) unreachable(when string, to netip.Addr) {
	a.t.Helper()
	err := a.laptop.Do(func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, 80).String(), time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err == nil {
		a.t.Errorf("%s: the laptop reaches %s", when, to)
	}
}

// nameServer gives every name the same address, and notes who asks.
type nameServer struct {
	answer netip.Addr // set before anybody asks
	mu     sync.Mutex
	asked  []string
}

var answerOfNames = netip.MustParseAddr("128.66.255.77")

func (a *abroad) serveNames(h *lab.Host) *nameServer {
	a.t.Helper()
	n := &nameServer{answer: answerOfNames}
	c, err := h.ListenUDP(netip.AddrPortFrom(h.Addr, 53).String())
	must(a.t, err)
	a.t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			m, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			n.mu.Lock()
			n.asked = append(n.asked, from.Addr().Unmap().String())
			n.mu.Unlock()
			if reply := n.reply(b[:m]); reply != nil {
				_, _ = c.WriteToUDPAddrPort(reply, from)
			}
		}
	}()
	return n
}

func (n *nameServer) reply(q []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(q)
	if err != nil {
		return nil
	}
	asked, err := p.Question()
	if err != nil {
		return nil
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: h.ID, Response: true})
	head := dnsmessage.ResourceHeader{Name: asked.Name, Class: dnsmessage.ClassINET, TTL: 1}
	if errors.Join(b.StartQuestions(), b.Question(asked), b.StartAnswers(), b.AResource(head, dnsmessage.AResource{A: n.answer.As4()})) != nil {
		return nil
	}
	out, _ := b.Finish()
	return out
}

func (n *nameServer) seen() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked)
}

// resolve asks a server for a name, and gives the address that it says.
func (a *abroad) resolve(from *lab.Host, server netip.Addr, name string) (netip.Addr, error) {
	a.t.Helper()
	c, err := from.Dial(a.ctx, "udp", netip.AddrPortFrom(server, 53).String())
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 7, RecursionDesired: true})
	must(a.t, errors.Join(b.StartQuestions(), b.Question(dnsmessage.Question{
		Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
	})))
	q, err := b.Finish()
	must(a.t, err)
	must(a.t, c.SetDeadline(time.Now().Add(2*time.Second)))
	if _, err := c.Write(q); err != nil {
		return netip.Addr{}, err
	}
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		return netip.Addr{}, err
	}
	var m dnsmessage.Message
	if err := m.Unpack(buf[:n]); err != nil {
		return netip.Addr{}, err
	}
	for _, r := range m.Answers {
		if r, ok := r.Body.(*dnsmessage.AResource); ok {
			return netip.AddrFrom4(r.A), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address: %s", m.RCode)
}

// TestExitNode: all of a laptop's traffic leaves at an exit node, questions for names included, and switching it off restores everything.
func TestExitNode(t *testing.T) {
	a := newAbroad(t, lab.Access{NAT: natmodel.Easy(), IPv6: lab.OpenIPv6})
	host := a.laptop.Host
	router := netip.PrefixFrom(host.Addr, 24).Masked().Addr().Next()
	a.seenAs("without an exit node", host.Public, host.Addr6)
	rules, err := host.Rules()
	must(t, err)
	conf := a.run(host, "sh", "-c", "cat /etc/resolv.conf; stat -c %Y /etc/resolv.conf")

	must(t, a.laptop.Warren(a.ctx, nil, "set", "--exit-node", "exit"))
	a.awaitExit("exit")
	a.seenAs("with the exit node", a.exit.Public, a.exit.Addr6)
	_, err = a.laptop.AwaitPath(a.ctx, "exit", "direct")
	must(t, err)
	a.seenAs("by a direct path", a.exit.Public, a.exit.Addr6)
	for _, server := range []netip.Addr{router, netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("2620:fe::fe")} {
		got, err := a.resolve(host, server, "www.example.com.")
		if err != nil || got != answerOfNames {
			t.Errorf("a question for %s: %s, %v", server, got, err)
		}
	}
	if seen := a.names.seen(); len(seen) != 3 || slices.ContainsFunc(seen, func(s string) bool { return s != a.exit.Addr.String() }) {
		t.Errorf("the exit node's resolver was asked by %v, want three times the exit node, %s", seen, a.exit.Addr)
	}
	a.unreachable("with the exit node", a.printer.Addr)
	a.unreachable("with the exit node", a.nas.Addr)

	must(t, a.laptop.Warren(a.ctx, nil, "set", "--exit-allow-lan"))
	if _, seen := a.call(host, netip.AddrPortFrom(a.printer.Addr, 80)); seen != host.Addr.String() {
		t.Errorf("the printer sees %s, want the laptop, %s", seen, host.Addr)
	}
	a.unreachable("with LAN access", a.nas.Addr)
	a.seenAs("with LAN access", a.exit.Public, a.exit.Addr6)
	if got, err := a.resolve(host, router, "www.example.org."); err != nil || got != answerOfNames {
		t.Errorf("a question for the router, with LAN access: %s, %v", got, err)
	}
	must(t, a.laptop.Warren(a.ctx, nil, "set", "--exit-allow-lan=false"))
	a.unreachable("without LAN access again", a.printer.Addr)

	// A coordinator that comes back is found past the exit node.
	must(t, a.Serving().Signal(syscall.SIGTERM))
	must(t, a.Serve(a.ctx))
	_, err = a.laptop.Await(a.ctx, "connected again", func(s *warrennet.Status) bool { return s.Coordinator.Connected })
	must(t, err)
	a.seenAs("after the coordinator's restart", a.exit.Public, a.exit.Addr6)
	if now := a.run(host, "sh", "-c", "cat /etc/resolv.conf; stat -c %Y /etc/resolv.conf"); now != conf {
		t.Errorf("resolv.conf was changed:\n%s\nnow:\n%s", conf, now)
	}

	must(t, a.laptop.Warren(a.ctx, nil, "set", "--exit-node", ""))
	a.awaitExit("")
	a.seenAs("without the exit node again", host.Public, host.Addr6)
	if _, seen := a.call(host, netip.AddrPortFrom(a.printer.Addr, 80)); seen != host.Addr.String() {
		t.Errorf("the printer sees %s, want the laptop, %s", seen, host.Addr)
	}
	must(t, a.laptop.Warren(a.ctx, nil, "down"))
	after, err := host.Rules()
	must(t, err)
	if !slices.Equal(rules, after) && len(after) >= len(rules) {
		t.Errorf("rules before:\n%s\nafter:\n%s", strings.Join(rules, "\n"), strings.Join(after, "\n"))
	}
	if left := a.run(host, "nft", "list", "ruleset"); strings.Contains(left, "warren") {
		t.Errorf("left behind:\n%s", left)
	}
	if got := strings.TrimSpace(a.run(host, "cat", "/proc/sys/net/ipv4/conf/all/src_valid_mark")); got != "0" {
		t.Errorf("src_valid_mark is %s afterwards", got)
	}
}

// TestExitWithoutIPv6: with an exit node that has no IPv6, or may not carry it, IPv6 is refused at once and never leaves the laptop otherwise.
func TestExitWithoutIPv6(t *testing.T) {
	a := newAbroad(t, lab.Access{NAT: natmodel.Easy()})
	must(t, a.laptop.Warren(a.ctx, nil, "set", "--exit-node", "exit"))
	a.awaitExit("exit")
	wire := a.capture(a.laptop.Host, "eth0")
	check := func(when string) {
		t.Helper()
		if _, seen := a.call(a.laptop.Host, netip.AddrPortFrom(public4, 80)); seen != a.exit.Public.String() {
			t.Errorf("%s: seen as %s, want %s", when, seen, a.exit.Public)
		}
		if took := a.refused(public6); took > time.Second {
			t.Errorf("%s: IPv6 is refused after %s", when, took)
		}
		if got, err := a.resolve(a.laptop.Host, netip.MustParseAddr("2620:fe::fe"), "www.example.com."); err != nil || got != answerOfNames {
			t.Errorf("%s: a question by IPv6: %s, %v", when, got, err)
		}
	}
	check("with a node that has none")
	must(t, a.Admin(a.ctx, nil, "route", "revoke", "exit", "::/0"))
	_, err := a.laptop.Await(a.ctx, "without IPv6 at the exit node", func(s *warrennet.Status) bool { return s.Exit != nil && s.Exit.IPv4 && !s.Exit.IPv6 })
	must(t, err)
	check("with a node that may not")
	wire.none(func(f capture.Frame) bool { return f.To == public6 || f.Port == 53 })
}

// TestExitAuto: with auto another exit node takes over when the one in use is killed.
func TestExitAuto(t *testing.T) {
	a := newAbroad(t, lab.Access{NAT: natmodel.Easy(), IPv6: lab.OpenIPv6})
	other := a.exitNode("second", a.home)
	must(t, a.laptop.Warren(a.ctx, nil, "set", "--exit-node", "auto"))
	st, err := a.laptop.Await(a.ctx, "using an exit node", func(s *warrennet.Status) bool { return s.Exit != nil && s.Exit.Node != "" })
	must(t, err)
	dying, standby := a.exit, other
	if st.Exit.Node == "second" {
		dying, standby = other, a.exit
	}
	a.seenAs("before", dying.Public, dying.Addr6)
	_, err = a.laptop.AwaitPath(a.ctx, dying.Name, "direct")
	must(t, err)
	ping := a.ping(a.laptop.Host, public4)
	_ = dying.Daemon().Signal(syscall.SIGKILL)
	began := time.Now()
	_, err = ping.Until(a.ctx, 50*time.Millisecond)
	must(t, err)
	t.Logf("the other exit node carries packets after %s", time.Since(began).Round(time.Millisecond))
	a.awaitExit(standby.Name)
	a.seenAs("after", standby.Public, standby.Addr6)
}
