package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"warren/cmd/agent/internal/sitecheck"
	"warren/internal/ipproto"
	"warren/nat/traversal"
	"warren/proto/cidr"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/tunnel/filter"
)

// siteCheckID marks the echo requests of checks, as probeID does those of the carrier.
const siteCheckID = probeID + 1

// How long an answer may take: from the LAN, and from another site.
const (
	lanPatience  = 700 * time.Millisecond
	sitePatience = time.Second
	lanTries     = 3
)

// SiteCheck implements LocalService.
func (a *api) SiteCheck(ctx context.Context, req *connect.Request[pb.SiteCheckRequest], out *connect.ServerStream[pb.SiteCheckResponse]) error {
	s, err := a.running(ctx)
	if err != nil {
		return err
	}
	if s.cfg.Userspace != nil {
		return connect.NewError(connect.CodeFailedPrecondition, errNeedsInterface("the check of a site"))
	}
	if !s.checks.turn.TryLock() {
		return connect.NewError(connect.CodeFailedPrecondition, errors.New("another check of this site is running; wait for its end"))
	}
	defer s.checks.turn.Unlock()
	f, err := s.siteFacts(req.Msg)
	if err != nil {
		return err
	}
	p := &siteProbes{s: s, sequence: uint16(rand.Uint32())}
	s.engine.Borrow(unusedAddresses(f)...)
	defer s.engine.Borrow()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sitecheck.Run(ctx, f, p, func(r sitecheck.Result) {
		m := &pb.SiteCheckResponse{Result: &pb.CheckResult{Name: r.Name, Outcome: r.Outcome, Text: r.Text, Help: r.Help}}
		if out.Send(m) != nil {
			cancel() // nobody listens
		}
	})
	return ctx.Err()
}

// unusedAddresses are those from which the way back is tried: the first of each prefix, which no host has.
func unusedAddresses(f sitecheck.Facts) (out []netip.Addr) {
	for _, p := range f.Overlay {
		out = append(out, p.Masked().Addr())
	}
	for _, r := range f.Remotes {
		if r.Prefix.Bits() < r.Prefix.Addr().BitLen()-1 {
			out = append(out, r.Prefix.Masked().Addr())
		}
	}
	return out
}

// siteFacts is what is known beforehand of sites and of what the caller names.
func (s *session) siteFacts(m *pb.SiteCheckRequest) (f sitecheck.Facts, err error) {
	var target, host netip.Addr
	for _, a := range []struct {
		text string
		into *netip.Addr
	}{{m.GetTarget(), &target}, {m.GetHost(), &host}} {
		if a.text == "" {
			continue
		}
		if *a.into, err = netip.ParseAddr(a.text); err != nil {
			return f, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%.80q is no IP address of a host", a.text))
		}
		*a.into = a.into.Unmap()
	}
	f, err = s.networks.siteFacts(target, host)
	if err != nil {
		return f, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	for i, r := range f.Remotes {
		if r.Gateway == "" {
			continue
		}
		peer, _, err := s.known.Load().find(r.Gateway)
		if err != nil {
			continue
		}
		f.Remotes[i].Path = pathWords(s.traversal.Paths()[peer.NodeKey.Raw()])
		if !r.Host.IsValid() {
			f.Remotes[i].Host = s.recentHost(peer.Key, r.Prefix)
		}
	}
	return f, nil
}

// pathWords tells a path to a person; empty: none.
func pathWords(p traversal.Path) string {
	switch p.Kind {
	case traversal.Direct:
		return fmt.Sprintf("directly at %s in %.1f ms", p.Remote, float64(p.RTT)/float64(time.Millisecond))
	case traversal.Relay:
		return "through the relay " + p.Relay
	}
	return ""
}

// recentHost is one behind a device whose packets pass now.
func (s *session) recentHost(device key.DevicePublic, in netip.Prefix) (host netip.Addr) {
	s.engine.Flows(device, func(r *filter.Record) bool {
		for _, a := range []netip.Addr{r.Src.Addr(), r.Dst.Addr()} {
			if in.Contains(a) && r.Kind != filter.Refused {
				host = a
			}
		}
		return !host.IsValid()
	})
	return host
}

// siteFacts is what concerns CIDRs. A target is the only one behind another gateway that is looked at, a host the one of its own CIDR.
func (n *networks) siteFacts(target, host netip.Addr) (f sitecheck.Facts, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known.m == nil {
		return f, errors.New("no network map yet; see \"warren status\"")
	}
	f = sitecheck.Facts{Device: n.self.Name, Overlay: n.overlay(), Addresses: n.self.Addresses, MTU: n.mtu}
	named := false
	for _, a := range n.advertisedStatus() {
		p, err := netip.ParsePrefix(a.GetPrefix())
		if err != nil || p.Bits() == 0 || target.IsValid() && target.Is4() != p.Addr().Is4() {
			continue
		}
		site := n.siteOf(p, a, n.offers[p])
		if host.IsValid() && p.Contains(host) {
			site.Host, named = host, true
		}
		f.Sites = append(f.Sites, site)
	}
	if host.IsValid() && !named {
		return f, fmt.Errorf("%s is in no CIDR that this device advertises", host)
	}
	var longest netip.Prefix
	for _, p := range slices.SortedFunc(maps.Keys(n.offers), netip.Prefix.Compare) {
		if p.Bits() == 0 || slices.Contains(n.self.Routes, p) {
			continue
		}
		if target.IsValid() && p.Contains(target) && (!longest.IsValid() || p.Bits() > longest.Bits()) {
			longest = p
		}
		f.Remotes = append(f.Remotes, sitecheck.Remote{Prefix: p, Gateway: n.name(n.chosen[p])})
	}
	if target.IsValid() {
		f.Remotes = slices.DeleteFunc(f.Remotes, func(r sitecheck.Remote) bool { return r.Prefix != longest })
		if len(f.Remotes) == 0 {
			return f, fmt.Errorf("%s is in no CIDR behind another gateway that this device may use; \"warren status\" lists them", target)
		}
		f.Remotes[0].Host = target
	}
	return f, nil
}

func (n *networks) siteOf(p netip.Prefix, a *pb.AdvertisedStatus, others []record.Route) sitecheck.Site {
	site := sitecheck.Site{Prefix: p, State: a.GetState(), Masqueraded: a.GetKind() != cidr.Site.String()}
	for _, o := range others {
		site.Siblings = append(site.Siblings, n.name(o.Gateway))
	}
	for _, id := range n.chosen {
		used := n.carrier.Uses(id, p)
		sibling := slices.ContainsFunc(others, func(o record.Route) bool { return o.Gateway == id }) // which uses itself
		site.Elsewhere = site.Elsewhere || !sibling && used != (deviceKey{}) && used != n.self.Key.Raw()
	}
	own := hostAddresses()
	i := slices.IndexFunc(own, p.Contains)
	if i >= 0 && !site.Masqueraded {
		site.Own = own[i]
	}
	if probe, err := netip.ParseAddr(a.GetProbe()); err == nil {
		site.Host = probe
		return site
	}
	for _, h := range n.engine.Hosts(p) {
		if !slices.Contains(own, h.Addr) {
			site.Host = h.Addr
			break
		}
	}
	return site
}

// hostAddresses are this host's own.
func hostAddresses() (out []netip.Addr) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// onLAN gives the address by which a host of a CIDR is known on its LAN.
func (n *networks) onLAN(a netip.Addr) netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.carried {
		if r.Prefix.Contains(a) && r.Prefix.Bits() > 0 {
			return translate(a, r.LAN)
		}
	}
	return a
}

// siteChecks has answers that checks wait for. One check runs at a time.
type siteChecks struct {
	turn sync.Mutex

	mu      sync.Mutex
	waiting map[uint16]chan struct{} // by sequence
}

// expect gives what is closed when the answer with a sequence comes.
func (c *siteChecks) expect(sequence uint16) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	done := make(chan struct{})
	c.waiting = map[uint16]chan struct{}{sequence: done}
	return done
}

// answered takes one. The packet path calls it.
func (c *siteChecks) answered(sequence uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if done, ok := c.waiting[sequence]; ok {
		close(done)
		delete(c.waiting, sequence)
	}
}

// onProbe gives the answer of a host to whom it concerns.
func (s *session) onProbe(target netip.Addr, id, sequence uint16) {
	if id == siteCheckID {
		s.checks.answered(sequence)
		return
	}
	s.networks.onProbe(target, id, sequence)
}

// siteProbes is sitecheck.Probes of this host and its tunnel.
type siteProbes struct {
	s        *session
	sequence uint16
}

func (p *siteProbes) Forwards(a netip.Addr) (bool, error) { return forwards(a) }

func (p *siteProbes) Straight(ctx context.Context, host netip.Addr) bool {
	ping, err := p.s.newPinger(p.s.networks.onLAN(host))
	if err != nil {
		return false
	}
	defer ping.close()
	for i := range lanTries {
		if _, err := ping.once(ctx, uint16(i), lanPatience); err == nil {
			return true
		}
	}
	return false
}

func (p *siteProbes) Through(ctx context.Context, host netip.Addr) bool {
	return p.asks(ctx, func(sequence uint16) error { return p.s.engine.Probe(host, siteCheckID, sequence) })
}

func (p *siteProbes) From(ctx context.Context, src, host netip.Addr) bool {
	return p.asks(ctx, func(sequence uint16) error { return p.s.engine.ProbeFrom(src, host, siteCheckID, sequence) })
}

// asks sends until there is an answer, a few times.
func (p *siteProbes) asks(ctx context.Context, send func(sequence uint16) error) bool {
	for range lanTries {
		p.sequence++
		done := p.s.checks.expect(p.sequence)
		if err := send(p.sequence); err != nil {
			p.s.log.Debug("check not sent", "err", err)
			return false
		}
		select {
		case <-done:
			return true
		case <-ctx.Done():
			return false
		case <-time.After(lanPatience):
		}
	}
	return false
}

func (p *siteProbes) Echo(ctx context.Context, src, dst netip.Addr, size int) sitecheck.Sent {
	return echoWhole(ctx, src, dst, size, sitePatience)
}

func (p *siteProbes) Explain(src, dst netip.Addr) (out sitecheck.Policy) {
	echo, ok := forFamily(ipproto.Flow{Protocol: ipproto.ICMP}, src)
	if k := p.s.known.Load(); ok && src.IsValid() && k.m != nil {
		out.Grants, out.Nearest = someFlow(k.m.Statement.GetGrants(), src, dst, echo)
		allowed, _ := filter.Explain(k.m.Statement.GetGrants(), src, dst, echo)
		out.Echo = len(allowed) > 0
	}
	return out
}

// someFlow gives the grants that allow anything at all from one address to another, with what it is where it is not all, or else why the nearest does not.
func someFlow(grants []*pb.Grant, src, dst netip.Addr, f ipproto.Flow) (names []string, nearest string) {
	allowed, misses := filter.Explain(grants, src, dst, f)
	if len(allowed) > 0 {
		return allowed, ""
	}
	for _, m := range misses {
		if len(m.Lacks) == 1 && m.Lacks[0] == "flow" {
			names = append(names, fmt.Sprintf("%s (%s)", m.Grant, m.Text))
		}
	}
	if len(names) == 0 && len(misses) > 0 {
		nearest = fmt.Sprintf("the grant %s comes closest, but %s", misses[0].Grant, misses[0].Text)
	}
	return names, nearest
}
