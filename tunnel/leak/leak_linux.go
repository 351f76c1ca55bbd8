package leak

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"warren/tunnel/router"
)

// Run checks one thing after the other and tells of each. It ends with the first error of tell.
func Run(ctx context.Context, c Config, tell func(Result) error) error {
	if !c.closed() {
		return tell(Result{"use", Warning, "no exit node is used and the kill switch is off: all but the network's own traffic leaves this host directly",
			"use --exit-node NAME or --kill-switch"})
	}
	checks := []func() Result{c.killSwitch}
	for _, f := range families {
		checks = append(checks, func() Result { return c.routes(f) }, func() Result { return c.marked(f) }, func() Result { return c.traffic(f) },
			func() Result { return c.bound(f) }, func() Result { return c.names(ctx, f) })
	}
	for _, check := range append(checks, c.connected, c.resolver) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := tell(check()); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) killSwitch() Result {
	on, err := router.KillSwitchOn()
	switch {
	case err != nil:
		return Result{"kill-switch", Unknown, fmt.Sprintf("whether the kill switch is set cannot be found out: %v", err), "run the daemon as root"}
	case on && c.KillSwitch:
		return Result{"kill-switch", OK, "the kill switch is set", ""}
	case on:
		return Result{"kill-switch", Warning, "a kill switch is set that this device has not asked for", "lift it with \"warren up --kill-switch=false\""}
	case c.KillSwitch:
		return Result{"kill-switch", Failed, "the kill switch is wanted and not set: its firewall table is gone",
			"see what flushes the firewall; \"warren up --kill-switch\" sets it again"}
	}
	return Result{"kill-switch", Warning, "the kill switch is off: traffic leaves directly while the tunnel is down, and programs may go around it",
		"use --kill-switch"}
}

// leads gives the interface by which the kernel would send a packet; empty for none.
func leads(to netip.Addr, mark uint32) (string, error) {
	routes, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{Mark: mark})
	if err != nil || len(routes) == 0 {
		return "", err
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", err
	}
	return link.Attrs().Name, nil
}

// routes asks the kernel for the way of packets of any program's.
func (c Config) routes(f family) Result {
	name := "routes-" + f.name
	if !c.routed(f) {
		return Result{name, OK, f.title() + " has no exit node; whether it is refused is tried below", ""}
	}
	for _, a := range f.samples {
		by, err := leads(a, 0)
		if by != c.Interface && !c.stays(a) {
			return Result{name, Failed, fmt.Sprintf("packets to %s leave by %s and not by the tunnel", a, orNone(by, err)),
				"\"ip rule\" has to have the rules 5270 and 5280, and \"ip route show table 22359\" a default route; \"warren down\" and \"warren up\" restores them"}
		}
	}
	return Result{name, OK, "the kernel sends " + f.title() + " into the tunnel", ""}
}

func orNone(by string, err error) string {
	if by == "" {
		return fmt.Sprintf("no interface (%v)", err)
	}
	return by
}

// marked asks the kernel for the way of the agent's own packets, which must not go into the tunnel that they carry.
func (c Config) marked(f family) Result {
	for _, a := range f.samples {
		if by, _ := leads(a, c.Mark); by == c.Interface {
			return Result{"own-" + f.name, Failed, fmt.Sprintf("the tunnel's own packets to %s would go into the tunnel", a),
				"\"ip rule\" has to have the rule 5270; \"warren down\" and \"warren up\" restores it"}
		}
	}
	return Result{"own-" + f.name, OK, "the tunnel's own " + f.title() + " packets stay out of it", ""}
}

// traffic sends as any program does.
func (c Config) traffic(f family) Result {
	name := "traffic-" + f.name
	left, err := c.left(f, "")
	switch {
	case err != nil:
		return Result{name, Unknown, fmt.Sprintf("%s could not be tried: %v", f.title(), err), "run the daemon as root"}
	case len(left) > 0:
		return Result{name, Failed, fmt.Sprintf("%s of a program's leaves outside of the tunnel: %s", f.title(), strings.Join(left, ", ")),
			"use --kill-switch, which keeps it in whatever else is wrong"}
	}
	return Result{name, OK, "no " + f.title() + " packet of a program's leaves outside of the tunnel: UDP, TCP and ICMP were tried", ""}
}

// bound sends as programs do that choose the interface themselves.
func (c Config) bound(f family) Result {
	name := "bound-" + f.name
	var all []string
	for _, link := range c.Uplinks {
		left, err := c.left(f, link)
		if err != nil {
			return Result{name, Unknown, fmt.Sprintf("%s by %s could not be tried: %v", f.title(), link, err), "run the daemon as root"}
		}
		all = append(all, left...)
	}
	switch {
	case len(all) == 0:
		return Result{name, OK, "no " + f.title() + " packet leaves by a link that a program has chosen", ""}
	case c.KillSwitch:
		return Result{name, Failed, fmt.Sprintf("%s of a program's that has chosen the link leaves: %s", f.title(), strings.Join(all, ", ")),
			"see whether another program has flushed the firewall; \"warren up --kill-switch\" sets the kill switch again"}
	}
	return Result{name, Warning, fmt.Sprintf("%s of a program's that has chosen the link itself leaves: %s", f.title(), strings.Join(all, ", ")),
		"use --kill-switch to have such programs refused"}
}

// left sends by UDP, TCP and ICMP, bound to a link unless that is empty, and tells which of it was seen on a link.
func (c Config) left(f family, link string) ([]string, error) {
	var taps []*tap
	for _, name := range c.Uplinks {
		t, err := openTap(name)
		if err != nil {
			return nil, err
		}
		defer t.close()
		taps = append(taps, t)
	}
	f.send(link)
	// The first packets may wait until the link's router is found.
	var left []string
	for end := time.Now().Add(linger); len(left) < 3 && await(taps, time.Until(end)); {
		for _, t := range taps {
			for _, protocol := range t.seen(f.nobody) {
				left = append(left, protocol+" by "+t.link)
			}
		}
		slices.Sort(left)
		left = slices.Compact(left)
	}
	return left, nil
}

// connected looks at the networks of the host's links: an exit node's user reaches them only if that was asked for.
func (c Config) connected() Result {
	var stay, in []string
	for _, p := range c.Connected {
		a := sampleOf(p)
		by, err := leads(a, 0)
		switch {
		case c.stays(a):
			stay = append(stay, p.String())
		case by != c.Interface && c.routed(familyFor(a)):
			return Result{"connected", Failed, fmt.Sprintf("packets to %s, of a connected network, leave by %s and not by the tunnel", a, orNone(by, err)),
				"\"ip rule\" has to have the rules 5270 and 5280; \"warren down\" and \"warren up\" restores them"}
		default:
			in = append(in, p.String())
		}
	}
	text := "connected networks are not reached outside of the tunnel"
	if len(stay) > 0 {
		text = "reached outside of the tunnel, as set: " + strings.Join(stay, ", ")
		if len(in) > 0 {
			text += "; not: " + strings.Join(in, ", ")
		}
	}
	return Result{"connected", OK, text, ""}
}

// sampleOf is an address in the middle of a prefix, where routers and the host itself rarely are.
func sampleOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	if p.Bits() < 8*len(b) {
		b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func familyFor(a netip.Addr) family {
	if a.Is4() {
		return families[0]
	}
	return families[1]
}

// names asks a server that does not exist: only a question that was led to the exit node is answered.
func (c Config) names(ctx context.Context, f family) Result {
	name := "names-" + f.name
	err := askNobody(ctx, f)
	refused := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENETUNREACH)
	switch {
	case err == nil:
		return Result{name, OK, "questions for names over " + f.title() + " are answered by the exit node, whomever they are for", ""}
	case refused && (!c.routed(f)):
		return Result{name, OK, "questions for names over " + f.title() + " do not leave: they are refused", ""}
	case !c.Exit:
		return Result{name, OK, fmt.Sprintf("questions for names over %s do not leave (%v)", f.title(), err), ""}
	}
	return Result{name, Failed, fmt.Sprintf("a question for a name over %s was not answered by the exit node: %v", f.title(), err),
		"look on the exit node: does \"warren status\" warn that port 53 is taken, and does its own resolver answer? \"nft list table inet warren\" here has to lead port 53 to it"}
}

func askNobody(ctx context.Context, f family) error {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: uint16(time.Now().UnixNano()), RecursionDesired: true})
	root := dnsmessage.Question{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeNS, Class: dnsmessage.ClassINET}
	if err := errors.Join(b.StartQuestions(), b.Question(root)); err != nil {
		return err
	}
	question, err := b.Finish()
	if err != nil {
		return err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "udp", netip.AddrPortFrom(f.nobody, 53).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := conn.Write(question); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, err := conn.Read(answer)
	if err == nil && (n < 12 || answer[0] != question[0] || answer[1] != question[1]) {
		err = errors.New("what came is no answer")
	}
	return err
}

// resolver has it that the host's resolver is what it was: nobody has to put it back.
func (c Config) resolver() Result {
	b, err := os.ReadFile(c.ResolvConf)
	if err != nil {
		return Result{"resolver", Unknown, fmt.Sprintf("the resolver's file cannot be read: %v", err), ""}
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(fields[1])
		if err == nil && slices.ContainsFunc(c.Overlay, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return Result{"resolver", Warning, fmt.Sprintf("%s names %s, an address of the network, as the resolver: without the tunnel no name is found", c.ResolvConf, a),
				"questions go to the exit node without that"}
		}
	}
	return Result{"resolver", OK, c.ResolvConf + " is left alone", ""}
}
