package netcheck

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"warren/nat/gather"
	"warren/nat/stunmsg"
)

// family finds out about one version of IP.
type family struct {
	Family
	cfg     *Config
	network string
	targets []target
	hairpin Answer
	trips   map[target]time.Duration // of the servers that answered
	header  int                      // bytes of IP and UDP
}

func newFamily(cfg *Config, network string, all []target) *family {
	f := &family{cfg: cfg, network: network, trips: map[target]time.Duration{}, header: 28}
	if network == "udp6" {
		f.header = 48
	}
	for _, t := range all {
		if t.addr.Addr().Is4() == (network == "udp4") && len(f.targets) < maxTargets {
			f.targets = append(f.targets, t)
		}
	}
	return f
}

// run asks the servers first; what they say tells what else there is to find out.
func (f *family) run(ctx context.Context) {
	if len(f.targets) == 0 {
		return
	}
	local, err := f.cfg.Route(f.targets[0].addr)
	if err != nil {
		return
	}
	f.Local = local.Unmap()
	s, err := f.cfg.open(f.network)
	if err != nil {
		return
	}
	defer s.close()
	nearest, ok := f.mapping(ctx, s)
	if f.UDP = answer(ok); !ok {
		return
	}
	var group sync.WaitGroup
	group.Go(func() { f.Filtering = f.filtering(ctx) })
	if f.cfg.Whole {
		group.Go(func() { f.MTU = f.mtu(ctx, s, nearest) })
	}
	if f.Mapping.Behaviour != gather.NoNAT {
		group.Go(func() { f.hairpin = f.hairpins(ctx, s, nearest) })
	}
	group.Wait()
}

// mapping asks all servers from one socket (RFC 5780 section 4.3). It gives the one that answered soonest.
func (f *family) mapping(ctx context.Context, s *socket) (nearest target, ok bool) {
	var (
		group   sync.WaitGroup
		replies = make([]*reply, len(f.targets))
	)
	for i, t := range f.targets {
		group.Go(func() {
			if r, ok := s.ask(ctx, t.addr, plain); ok && r.from == t.addr {
				replies[i] = &r
			}
		})
	}
	group.Wait()
	var views []gather.View
	for i, r := range replies {
		if r == nil || !r.mapped.IsValid() {
			continue
		}
		t := f.targets[i]
		f.trips[t] = r.rtt
		if !ok || r.rtt < f.trips[nearest] {
			nearest, ok = t, true
			f.Mapped = r.mapped
		}
		views = append(views, gather.View{Server: t.addr, Mapped: r.mapped})
	}
	own := netip.AddrPortFrom(f.Local, s.port())
	f.Mapping = gather.Compare(views, func(a netip.AddrPort) bool { return a == own })
	f.PortKept = ok && f.Mapped.Port() == own.Port()
	return nearest, ok
}

// twoPorts gives a server that answers on two ports of one address: it can answer from the other one.
func (f *family) twoPorts() (netip.AddrPort, bool) {
	for i, a := range f.targets {
		for _, b := range f.targets[i+1:] {
			if _, heard := f.trips[a]; heard && a.relay == b.relay && a.addr.Addr() == b.addr.Addr() && a.addr.Port() != b.addr.Port() {
				return a.addr, true
			}
		}
	}
	return netip.AddrPort{}, false
}

// filtering has a server answer from another port, to a socket that never sent there (RFC 5780 section 4.4).
func (f *family) filtering(ctx context.Context) Filtering {
	server, ok := f.twoPorts()
	if !ok {
		return UnknownFiltering
	}
	s, err := f.cfg.open(f.network)
	if err != nil {
		return UnknownFiltering
	}
	defer s.close()
	if _, ok := s.ask(ctx, server, plain); !ok {
		return UnknownFiltering
	}
	switch r, ok := s.ask(ctx, server, stunmsg.NewOtherPortRequest); {
	case ctx.Err() != nil, ok && r.from == server: // the server does not do it
		return UnknownFiltering
	case ok:
		return NotPortDependent
	}
	return AddressAndPortDependent
}

// hairpins sends between two sockets by their addresses outside, both ways: a NAT that filters lets in only what was sent to.
func (f *family) hairpins(ctx context.Context, a *socket, server target) Answer {
	b, err := f.cfg.open(f.network)
	if err != nil {
		return Unknown
	}
	defer b.close()
	r, ok := b.ask(ctx, server.addr, plain)
	if !ok || !r.mapped.IsValid() {
		return Unknown
	}
	came := make(chan struct{})
	once := sync.OnceFunc(func() { close(came) })
	for _, wait := range tries {
		for _, way := range [...]struct {
			from, to *socket
			at       netip.AddrPort
		}{{a, b, r.mapped}, {b, a, f.Mapped}} {
			tx := stunmsg.NewTxID()
			way.to.expect(tx, once)
			_, _ = way.from.conn.WriteToUDPAddrPort(plain(tx), way.at) // one that fails does not come back
		}
		timer := time.NewTimer(wait)
		select {
		case <-came:
			timer.Stop()
			return Yes
		case <-ctx.Done():
			timer.Stop()
			return Unknown
		case <-timer.C:
		}
	}
	return No
}

// packets are the sizes of IP packets that are tried, in bytes, largest first.
var packets = [...]int{1500, 1492, 1480, 1460, 1440, 1420, 1400, 1380, 1360, 1340, 1320, 1300, 1280, 1200, 1000, 576}

// mtu sends requests of all sizes at once and gives the largest that is answered.
func (f *family) mtu(ctx context.Context, s *socket, server target) int {
	var (
		group  sync.WaitGroup
		passed [len(packets)]bool
	)
	for i, size := range packets {
		group.Go(func() {
			_, passed[i] = s.ask(ctx, server.addr, func(tx stunmsg.TxID) []byte {
				return stunmsg.NewPaddedRequest(tx, nil, nil, size-f.header)
			})
		})
	}
	group.Wait()
	for i, ok := range passed {
		if ok {
			return packets[i]
		}
	}
	return 0
}
