package netcheck

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/internal/sim/natmodel"
	"warren/nat/gather"
	"warren/nat/stunmsg"
)

var (
	inside4, outside4 = netip.MustParseAddr("192.168.1.5"), netip.MustParseAddr("198.51.100.9")
	own6              = netip.MustParseAddr("2001:db8:1::5")
)

// world is a host, the NAT before it, and STUN servers outside, in fake time.
type world struct {
	mu     sync.Mutex
	local  map[string]netip.Addr // by network
	nat    *natmodel.NAT         // of IPv4
	filter *natmodel.NAT         // of IPv6
	mtu    int
	delay  map[netip.Addr]time.Duration // of servers, one way; a server that is not here is silent
	cut    map[string]bool              // networks without UDP
	deaf   bool                         // servers do not know of other ports
	loss   func() bool
	socks  map[netip.AddrPort]*fakeConn
	ports  uint16
	sent   int
}

func newWorld(o natmodel.Options) *world {
	own := outside4
	w := &world{
		local: map[string]netip.Addr{"udp4": inside4, "udp6": own6}, mtu: 1500, cut: map[string]bool{}, socks: map[netip.AddrPort]*fakeConn{},
		delay: map[netip.Addr]time.Duration{}, ports: 40000, loss: func() bool { return false },
	}
	if o.Mapping == natmodel.NoMapping {
		w.local["udp4"] = own
	}
	w.nat = natmodel.New(o, own, 1)
	w.filter = natmodel.New(natmodel.Options{Filtering: natmodel.FilterAddressAndPort}, own6, 1)
	return w
}

type datagram struct {
	b    []byte
	from netip.AddrPort
}

type fakeConn struct {
	w      *world
	at     netip.AddrPort
	in     chan datagram
	closed chan struct{}
	once   sync.Once
}

func (w *world) listen(network string) (Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ports++
	c := &fakeConn{w: w, at: netip.AddrPortFrom(w.local[network], w.ports), in: make(chan datagram, 256), closed: make(chan struct{})}
	w.socks[c.at] = c
	return c, nil
}

func (c *fakeConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.at) }

func (c *fakeConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *fakeConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-c.in:
		return copy(b, d.b), d.from, nil
	case <-c.closed:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (c *fakeConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.sent++
	c.w.out(slices.Clone(b), c.at, to)
	return len(b), nil
}

func (w *world) box(a netip.Addr) (*natmodel.NAT, string, int) {
	if a.Is4() {
		return w.nat, "udp4", 28
	}
	return w.filter, "udp6", 48
}

// out and the following are for who holds mu.
func (w *world) out(b []byte, from, to netip.AddrPort) {
	nat, network, header := w.box(from.Addr())
	if w.cut[network] || len(b)+header > w.mtu || w.loss() {
		return
	}
	p, verdict := nat.Out(time.Now(), natmodel.Packet{Proto: natmodel.UDP, Src: from, Dst: to})
	switch verdict {
	case natmodel.ToInside:
		w.deliver(b, p)
	case natmodel.ToOutside:
		if delay, ok := w.delay[to.Addr()]; ok {
			time.AfterFunc(delay, func() { w.serve(b, p.Src, to, delay) })
		}
	}
}

// serve answers as the coordinator's STUN server does, on ports 3478 and 3479.
func (w *world) serve(b []byte, from, at netip.AddrPort, delay time.Duration) {
	m, err := stunmsg.Parse(b)
	if err != nil || m.Class != stunmsg.Request {
		return
	}
	source := at
	if m.OtherPort && !w.deaf {
		source = netip.AddrPortFrom(at.Addr(), 3478+3479-at.Port())
	}
	reply := stunmsg.NewSuccess(m.Tx, from, nil)
	time.AfterFunc(delay, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		nat, _, _ := w.box(from.Addr())
		if p, verdict := nat.In(time.Now(), natmodel.Packet{Proto: natmodel.UDP, Src: source, Dst: from}); verdict.Passes() && !w.loss() {
			w.deliver(reply, p)
		}
	})
}

func (w *world) deliver(b []byte, p natmodel.Packet) {
	if c := w.socks[p.Dst]; c != nil {
		select {
		case c.in <- datagram{b, p.Src}:
		case <-c.closed:
		}
	}
}

var errNoRoute = errors.New("network is unreachable")

// config has a relay for each host, each with both ports.
func (w *world) config(hosts ...string) Config {
	cfg := Config{
		Listen: w.listen, Whole: true,
		Route: func(to netip.AddrPort) (netip.Addr, error) {
			_, network, _ := w.box(to.Addr())
			if a := w.local[network]; a.IsValid() {
				return a, nil
			}
			return netip.Addr{}, errNoRoute
		},
		Resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such name") },
		Get:     func(context.Context, string) (Page, error) { return Page{}, errors.New("refused") },
	}
	for i, h := range hosts {
		a := netip.MustParseAddr(h)
		w.delay[a] = time.Duration(i+1) * 10 * time.Millisecond
		cfg.Relays = append(cfg.Relays, Relay{
			Name: fmt.Sprintf("relay%d", i), Host: h,
			STUN: []string{netip.AddrPortFrom(a, 3478).String(), netip.AddrPortFrom(a, 3479).String()},
			Connect: func(context.Context) (time.Duration, time.Duration, error) {
				return time.Millisecond, 2 * time.Millisecond, nil
			},
		})
	}
	return cfg
}

const (
	one, two = "203.0.113.1", "203.0.113.2"
	six      = "2001:db8::1"
)

// TestBehaviour: what is found of each kind of NAT is what the model was made with.
func TestBehaviour(t *testing.T) {
	type found struct {
		UDP       Answer
		Mapping   gather.Behaviour
		Sure      bool
		Filtering Filtering
		PortKept  bool
		Hairpin   Answer
	}
	const (
		ei, ad, apd = natmodel.EndpointIndependent, natmodel.AddressDependent, natmodel.AddressAndPortDependent
		random      = natmodel.RandomPort
	)
	for name, tc := range map[string]struct {
		o     natmodel.Options
		hosts []string
		want  found
	}{
		"public":           {natmodel.Options{}, []string{one}, found{Yes, gather.NoNAT, true, NotPortDependent, true, Unknown}},
		"firewalled":       {natmodel.Options{Filtering: natmodel.FilterAddressAndPort}, []string{one}, found{Yes, gather.NoNAT, true, AddressAndPortDependent, true, Unknown}},
		"easy, one server": {*natmodel.Easy(), []string{one}, found{Yes, gather.EndpointIndependent, false, AddressAndPortDependent, true, No}},
		"easy, two":        {*natmodel.Easy(), []string{one, two}, found{Yes, gather.EndpointIndependent, true, AddressAndPortDependent, true, No}},
		"full cone":        {natmodel.Options{Mapping: ei, Ports: random}, []string{one, two}, found{Yes, gather.EndpointIndependent, true, NotPortDependent, false, No}},
		"restricted cone": {natmodel.Options{Mapping: ei, Filtering: natmodel.FilterAddress}, []string{one}, found{Yes, gather.EndpointIndependent, false,
			NotPortDependent, true, No}},
		"hairpin":           {natmodel.Options{Mapping: ei, Filtering: natmodel.FilterAddressAndPort, Hairpin: true}, []string{one, two}, found{Yes, gather.EndpointIndependent, true, AddressAndPortDependent, true, Yes}},
		"hard":              {*natmodel.Hard(), []string{one}, found{Yes, gather.AddressAndPortDependent, true, AddressAndPortDependent, false, No}},
		"address-dependent": {natmodel.Options{Mapping: ad, Filtering: natmodel.FilterAddress, Ports: random}, []string{one, two}, found{Yes, gather.AddressDependent, true, NotPortDependent, false, No}},
		"hard, open":        {natmodel.Options{Mapping: apd, Ports: random}, []string{one}, found{Yes, gather.AddressAndPortDependent, true, NotPortDependent, false, No}},
		"blocked":           {natmodel.Options{Mapping: ei, NoUDP: true}, []string{one, two}, found{UDP: No}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(tc.o)
				r := Run(t.Context(), w.config(tc.hosts...))
				f := r.IPv4
				got := found{f.UDP, f.Mapping.Behaviour, f.Mapping.Sure, f.Filtering, f.PortKept, r.Hairpin}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Error(diff)
				}
				if f.Local != w.local["udp4"] || (f.UDP == Yes) != (f.Mapped.Addr() == outside4) || (f.UDP == Yes) != (f.MTU == 1500) {
					t.Errorf("family %+v", f)
				}
				if took := time.Since(r.At); took > 5*time.Second {
					t.Errorf("it took %s", took)
				}
				if w.sent > 200 { // the server allows a burst of 400
					t.Errorf("%d datagrams were sent", w.sent)
				}
			})
		})
	}
}

// TestFamilies: each version of IP is judged by itself.
func TestFamilies(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*world)
		v4, v6 Answer
	}{
		"both":          {func(*world) {}, Yes, Yes},
		"IPv4 is dead":  {func(w *world) { w.cut["udp4"] = true }, No, Yes},
		"IPv6 is dead":  {func(w *world) { w.cut["udp6"] = true }, Yes, No},
		"no IPv6 here":  {func(w *world) { w.local["udp6"] = netip.Addr{} }, Yes, Unknown},
		"no IPv4 here":  {func(w *world) { w.local["udp4"] = netip.Addr{} }, Unknown, Yes},
		"neither":       {func(w *world) { clear(w.local) }, Unknown, Unknown},
		"silent server": {func(w *world) { clear(w.delay) }, No, No},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(*natmodel.Easy())
				cfg := w.config(one, six)
				tc.change(w)
				r := Run(t.Context(), cfg)
				if r.IPv4.UDP != tc.v4 || r.IPv6.UDP != tc.v6 {
					t.Errorf("IPv4 %s, IPv6 %s", r.IPv4.UDP, r.IPv6.UDP)
				}
				if v6 := r.IPv6; v6.UDP == Yes && (v6.Mapping.Behaviour != gather.NoNAT || v6.Filtering != AddressAndPortDependent || v6.MTU != 1500) {
					t.Errorf("IPv6 %+v", v6)
				}
			})
		})
	}
}

// TestMTU: the largest packet is found for both header lengths.
func TestMTU(t *testing.T) {
	for mtu, want := range map[int]int{1500: 1500, 1499: 1492, 1492: 1492, 1400: 1400, 1399: 1380, 1280: 1280, 1279: 1200, 600: 576, 500: 0} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(*natmodel.Easy())
				w.mtu = mtu
				r := Run(t.Context(), w.config(one, six))
				if r.IPv4.MTU != want || r.IPv6.MTU != want || r.IPv4.UDP != Yes {
					t.Errorf("IPv4 %d, IPv6 %d; want %d", r.IPv4.MTU, r.IPv6.MTU, want)
				}
				cfg := w.config(one)
				cfg.Whole = false
				if r := Run(t.Context(), cfg); r.IPv4.MTU != 0 {
					t.Errorf("without DF it is said to be %d", r.IPv4.MTU)
				}
			})
		})
	}
}

// TestLoss: a tenth of the packets lost changes nothing of what is found.
func TestLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(*natmodel.Easy())
		n := 0
		w.loss = func() bool { n++; return n%10 == 0 }
		r := Run(t.Context(), w.config(one, two))
		if f := r.IPv4; f.UDP != Yes || f.Mapping.Behaviour != gather.EndpointIndependent || f.MTU != 1500 {
			t.Errorf("%+v", f)
		}
	})
}

// TestServerWithoutOtherPort: what the server cannot do is not taken for a filter.
func TestServerWithoutOtherPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(*natmodel.Easy())
		w.deaf = true
		if got := Run(t.Context(), w.config(one)).IPv4.Filtering; got != UnknownFiltering {
			t.Errorf("the server answers from the same port: %s", got)
		}
		cfg := w.config(one)
		cfg.Relays[0].STUN = cfg.Relays[0].STUN[:1]
		r := Run(t.Context(), cfg)
		if r.IPv4.Filtering != UnknownFiltering || r.IPv4.Mapping.Behaviour != gather.Unknown || r.IPv4.UDP != Yes {
			t.Errorf("a server with one port: %+v", r.IPv4)
		}
	})
}

// TestRelays: they come in order of round trip, what failed last, with why.
func TestRelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(*natmodel.Easy())
		cfg := w.config(one, two, "203.0.113.3", "203.0.113.4")
		w.delay[netip.MustParseAddr(one)] = 50 * time.Millisecond
		delete(w.delay, netip.MustParseAddr("203.0.113.3"))
		delete(w.delay, netip.MustParseAddr("203.0.113.4"))
		refused := errors.New("connection refused")
		cfg.Relays[2].Connect = func(context.Context) (time.Duration, time.Duration, error) { return 0, 0, refused }
		cfg.Relays[3].Region, cfg.Relays[3].Connected = "south", true
		cfg.Relays[3].Connect = func(context.Context) (time.Duration, time.Duration, error) {
			return 70 * time.Millisecond, 140 * time.Millisecond, nil
		}
		r := Run(t.Context(), cfg)
		want := []RelayReport{
			{Name: "relay1", UDP: 40 * time.Millisecond, TCP: time.Millisecond, TLS: 2 * time.Millisecond},
			{Name: "relay3", Region: "south", TCP: 70 * time.Millisecond, TLS: 140 * time.Millisecond, Connected: true},
			{Name: "relay0", UDP: 100 * time.Millisecond, TCP: time.Millisecond, TLS: 2 * time.Millisecond},
			{Name: "relay2", Err: refused},
		}
		if diff := cmp.Diff(want, r.Relays, cmp.Comparer(func(a, b error) bool { return a == b })); diff != "" {
			t.Error(diff)
		}
	})
}

// TestGivesUp: it ends when its caller does, with what was found so far.
func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(*natmodel.Easy())
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		r := Run(ctx, w.config(one))
		if took := time.Since(began); took > 200*time.Millisecond || r.IPv4.UDP != Yes || r.Hairpin != Unknown || r.IPv4.Filtering != UnknownFiltering {
			t.Errorf("after %s: %+v", took, r)
		}
	})
}

func TestNothingToAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(*natmodel.Easy())
		cfg := w.config()
		cfg.Relays = []Relay{{Name: "bad", STUN: []string{"nonsense", "unknown.example:3478", "[::1"}}}
		r := Run(t.Context(), cfg)
		if r.Servers != 0 || r.IPv4.UDP != Unknown || r.Portal != Unknown || w.sent != 0 {
			t.Errorf("%+v", r)
		}
	})
}

// TestTargetsBounded: however many servers a map names, no more than so many are asked.
func TestTargetsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(*natmodel.Easy())
		var hosts []string
		for i := range 60 {
			hosts = append(hosts, fmt.Sprintf("203.0.113.%d", i+1))
		}
		cfg := w.config(hosts...)
		r := Run(t.Context(), cfg)
		if w.sent > 400 || len(r.Relays) != 60 || r.IPv4.UDP != Yes {
			t.Errorf("%d datagrams, %d relays", w.sent, len(r.Relays))
		}
	})
}
