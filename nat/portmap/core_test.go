package portmap

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/nat/portmap/pcp"
)

// begin starts a world at home.
func begin(t *testing.T, prepare func(w *world, g *gateway)) (*world, *gateway) {
	t.Helper()
	w := newWorld(t, 1)
	g := w.gateways[home.Gateway]
	if prepare != nil {
		prepare(w, g)
	}
	w.handle(SetNetwork{home})
	return w, g
}

func speaking(ps ...Protocol) func(*world, *gateway) {
	return func(w *world, _ *gateway) { w.only(ps...) }
}

func TestBestAnswerIsUsed(t *testing.T) {
	const ms = time.Millisecond
	for name, tc := range map[string]struct {
		prepare func(w *world, g *gateway)
		want    Protocol
		after   time.Duration
	}{
		"all":     {nil, PCP, ms},
		"PCP":     {speaking(PCP), PCP, ms},
		"NAT-PMP": {speaking(NATPMP), NATPMP, 2 * ms}, // its word that it does not know PCP makes waiting needless
		"UPnP":    {speaking(UPnP), UPnP, patience + ms},
		"UPnP, others not there": {func(w *world, g *gateway) {
			w.only(UPnP)
			w.arrive(ms/2, Unreachable{})
		}, UPnP, 2 * ms},
		"all within patience": {func(_ *world, g *gateway) { g.delay = [...]time.Duration{0, 200 * ms, 100 * ms, 50 * ms} }, PCP, 200 * ms},
		"PCP is late":         {func(_ *world, g *gateway) { g.delay[PCP] = 400 * ms }, NATPMP, patience + ms},
		"all late":            {func(_ *world, g *gateway) { g.delay = [...]time.Duration{0, 900 * ms, 400 * ms, 300 * ms} }, UPnP, 600 * ms},
		"UPnP slowly":         {func(w *world, g *gateway) { w.only(UPnP); g.delay[UPnP] = 3 * time.Second }, UPnP, 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			w, g := begin(t, tc.prepare)
			began := w.now
			w.pass(20 * time.Second)
			if w.published.Protocol != tc.want || w.at.Sub(began) != tc.after {
				t.Errorf("%s after %s, want %s after %s; failures %q", w.published.Protocol, w.at.Sub(began), tc.want, tc.after, w.failures)
			}
			if !w.works() || w.ours() != 1 || w.changes != 1 {
				t.Errorf("works %t, %d entries, published %d times; table %v", w.works(), w.ours(), w.changes, g.table)
			}
		})
	}
}

// A mapping that comes too late to be chosen is given back.
func TestLateMappingIsGivenBack(t *testing.T) {
	w, g := begin(t, func(w *world, g *gateway) {
		g.delay[PCP] = 400 * time.Millisecond
		// Of this gateway's, each protocol has a table of its own.
		g.lie = func(b []byte) []byte {
			if b[0] == pcp.Version {
				binary.BigEndian.PutUint16(b[42:], 7777)
				g.table[7777] = entry{to: netip.AddrPortFrom(home.Local, home.Port), nonce: pcp.Nonce(b[24:36]), until: w.now.Add(time.Hour)}
			}
			return b
		}
	})
	w.pass(350 * time.Millisecond)
	if w.published.Protocol != NATPMP || w.ours() != 2 {
		t.Fatalf("%+v, %d entries", w.published, w.ours())
	}
	g.lie = nil
	w.pass(time.Second)
	if w.ours() != 1 || !w.works() {
		t.Errorf("works %t, %d entries: %v", w.works(), w.ours(), g.table)
	}
}

// A gateway that has one table for both would delete the mapping in use.
func TestSharedTable(t *testing.T) {
	w, _ := begin(t, func(w *world, g *gateway) { g.delay[PCP] = 400 * time.Millisecond })
	w.pass(350 * time.Millisecond)
	before := w.requests
	w.pass(time.Second)
	if w.published.Protocol != NATPMP || w.requests != before {
		t.Errorf("%+v, %d requests after it was held", w.published, w.requests-before)
	}
}

func TestRenewal(t *testing.T) {
	for _, p := range Protocols() {
		t.Run(p.String(), func(t *testing.T) {
			w, _ := begin(t, speaking(p))
			w.pass(20 * time.Second)
			requests := w.requests
			w.pass(askLife/2 - 22*time.Second)
			if w.requests != requests {
				t.Error("renewed before half of its life")
			}
			w.pass(10 * time.Hour)
			if !w.works() || w.changes != 1 {
				t.Errorf("after hours: works %t, published %d times", w.works(), w.changes)
			}
			if p == UPnP { // runs over TCP
				return
			}
			w.loss = 1
			w.pass(askLife)
			if w.published != (Mapping{}) {
				t.Error("a mapping outlives its life")
			}
			if n := w.requests - requests; n > 500 {
				t.Errorf("%d requests in ten hours", n)
			}
			w.loss = 0
			w.pass(maxRetry)
			if !w.works() {
				t.Error("not mapped again")
			}
		})
	}
}

func TestLossyRenewal(t *testing.T) {
	w, _ := begin(t, speaking(NATPMP))
	w.pass(time.Second)
	w.loss = 0.6
	w.pass(24 * time.Hour)
	if !w.works() || w.changes > 3 {
		t.Errorf("works %t, published %d times", w.works(), w.changes)
	}
}

func TestRestartOfTheGateway(t *testing.T) {
	for _, p := range Protocols() {
		t.Run(p.String(), func(t *testing.T) {
			w, g := begin(t, speaking(p))
			w.pass(time.Hour)
			g.reboot(w.now)
			if w.announce(g); p != UPnP {
				w.pass(10 * time.Millisecond)
				if !w.works() {
					t.Error("announced: not mapped at once")
				}
			}
			w.pass(time.Hour)
			g.reboot(w.now)
			w.pass(askLife/2 + time.Second)
			if !w.works() || w.changes != 1 {
				t.Errorf("not announced: works %t, published %d times", w.works(), w.changes)
			}
		})
	}
}

// Anybody on the link can forge an announcement: that costs a request now and then, and moves nothing.
func TestForgedAnnouncements(t *testing.T) {
	for _, p := range []Protocol{PCP, NATPMP} {
		w, g := begin(t, speaking(p))
		w.pass(time.Minute)
		before := w.requests
		for n := range 1000 {
			forged := *g
			forged.bootedAt, forged.external = w.now.Add(-time.Duration(n%2)*time.Hour), public2
			w.announce(&forged)
			w.pass(60 * time.Millisecond)
		}
		if n := w.requests - before; n > 2*int(time.Minute/remapGap)+4 {
			t.Errorf("%s: %d requests in a minute", p, n)
		}
		if !w.works() || w.changes != 1 {
			t.Errorf("%s: works %t, published %d times", p, w.works(), w.changes)
		}
	}
}

// A gateway that restarts soon after it started has a clock that looks right.
func TestRestartThatDoesNotShow(t *testing.T) {
	for _, p := range []Protocol{PCP, NATPMP} {
		w, g := begin(t, func(w *world, g *gateway) { w.only(p); g.reboot(w.now) })
		w.pass(2 * time.Second)
		g.reboot(w.now)
		w.announce(g)
		w.pass(10 * time.Millisecond)
		if !w.works() {
			t.Errorf("%s: not mapped at once", p)
		}
		before := w.requests
		for range 600 {
			w.announce(g)
			w.pass(time.Second)
		}
		if n := w.requests - before; n > 2*11 {
			t.Errorf("%s: %d requests in ten minutes of announcements", p, n)
		}
	}
}

func TestNewAddressIsNoticed(t *testing.T) {
	w, g := begin(t, speaking(NATPMP))
	w.pass(time.Minute)
	g.external = public2
	w.announce(g) // RFC 6886 section 3.2.1
	w.pass(10 * time.Millisecond)
	if !w.works() || w.published.External.Addr() != public2 {
		t.Errorf("published %+v", w.published)
	}
	g.external = private
	w.pass(askLife)
	if w.published != (Mapping{}) || !w.core.Report().DoubleNAT() {
		t.Errorf("published %+v, report %+v", w.published, w.core.Report())
	}
}

func TestStop(t *testing.T) {
	for _, p := range Protocols() {
		for name, tc := range map[string]struct {
			before func(w *world)
			within time.Duration
		}{
			"held":             {func(w *world) { w.pass(time.Minute) }, 10 * time.Millisecond},
			"lost answers":     {func(w *world) { w.pass(time.Minute); w.loss = 0.5 }, stopLimit},
			"just asked":       {func(w *world) {}, 10 * time.Millisecond},
			"while asked":      {func(w *world) { w.pass(1500 * time.Microsecond) }, 10 * time.Millisecond},
			"while UPnP asked": {func(w *world) { w.pass(patience + 500*time.Microsecond) }, 10 * time.Millisecond},
		} {
			t.Run(p.String()+", "+name, func(t *testing.T) {
				w, g := begin(t, speaking(p))
				tc.before(w)
				w.handle(Stop{})
				w.handle(Stop{}) // means nothing
				w.pass(tc.within)
				if !w.stopped || w.ours() != 0 || w.published != (Mapping{}) {
					t.Errorf("stopped %t, %v left, published %+v", w.stopped, g.table, w.published)
				}
			})
		}
	}
	w, _ := begin(t, nil)
	w.pass(time.Minute)
	w.loss = 1
	w.handle(Stop{})
	w.pass(stopLimit - time.Millisecond)
	if w.stopped {
		t.Error("gave up too soon")
	}
	w.pass(time.Millisecond)
	if !w.stopped {
		t.Error("a dead gateway holds the stop up")
	}
}

func TestNetworkChange(t *testing.T) {
	w, _ := begin(t, nil)
	w.pass(time.Minute)
	w.move(cafe)
	if w.published != (Mapping{}) {
		t.Error("the old network's mapping stays")
	}
	w.pass(10 * time.Millisecond)
	if !w.works() {
		t.Error("not mapped in the new network at once")
	}
	other := cafe
	other.Port++
	w.handle(SetNetwork{other})
	w.pass(10 * time.Millisecond)
	if n := len(w.gateways[cafe.Gateway].table); !w.works() || n != 1 {
		t.Errorf("another port: works %t, %d entries", w.works(), n)
	}
	w.gateways[cafe.Gateway].reboot(w.now) // another network with the same addresses
	w.handle(SetNetwork{other})
	w.pass(10 * time.Millisecond)
	if !w.works() || w.changes != 5 {
		t.Errorf("same addresses: works %t, published %d times", w.works(), w.changes)
	}
	w.loss = 1
	w.handle(SetNetwork{other})
	w.pass(10 * time.Second)
	if w.published != (Mapping{}) {
		t.Error("a mapping that the network does not confirm stays")
	}
	w.move(Network{})
	before := w.requests
	w.pass(24 * time.Hour)
	if w.requests != before {
		t.Error("requests without a network")
	}
}

func TestBackOff(t *testing.T) {
	w, _ := begin(t, speaking())
	attempts := []int{}
	for range 8 {
		w.pass(30 * time.Minute)
		attempts = append(attempts, w.attempts/3)
	}
	// Each round takes 8 s, and then 30 s, 1, 2, 4, 8, 16, 30 ... minutes.
	if diff := cmp.Diff([]int{6, 7, 8, 9, 10, 11, 12, 13}, attempts); diff != "" {
		t.Error(diff)
	}
	w.handle(SetNetwork{home})
	w.only(NATPMP)
	w.pass(time.Second)
	if !w.works() {
		t.Error("a network change does not end the back-off")
	}
}

func TestPortConflict(t *testing.T) {
	other := entry{to: netip.MustParseAddrPort("192.168.1.99:1"), until: time.Unix(2e9, 0)}
	for _, p := range Protocols() {
		w, _ := begin(t, func(w *world, g *gateway) { w.only(p); g.table[home.Port] = other })
		w.pass(time.Second)
		if !w.works() || w.published.External.Port() == home.Port {
			t.Errorf("%s: published %+v", p, w.published)
		}
	}
	w, _ := begin(t, func(w *world, g *gateway) {
		w.only(UPnP)
		for port := range 65536 {
			g.table[uint16(port)] = other
		}
	})
	w.pass(10 * time.Second)
	if want := []string{"UPnP: port conflict"}; !slices.Contains(w.failures, want[0]) || w.published != (Mapping{}) {
		t.Errorf("%q, %+v", w.failures, w.published)
	}
	if w.requests > 20 {
		t.Errorf("%d requests", w.requests)
	}
}

func TestRefusals(t *testing.T) {
	for _, p := range Protocols() {
		w, g := begin(t, func(w *world, g *gateway) { w.only(p); g.refuse = true })
		w.pass(10 * time.Second)
		want := p.String() + ": refused"
		r := w.core.Report()
		i := slices.IndexFunc(r.Protocols, func(r ProtocolReport) bool { return r.Protocol == p })
		if !slices.Contains(w.failures, want) || !r.Protocols[i].Answered || r.Protocols[i].Reason != Refused {
			t.Errorf("%q, want %q; report %+v", w.failures, want, r)
		}
		g.refuse = false
		w.pass(2 * time.Minute)
		if !w.works() {
			t.Errorf("%s: not asked again", p)
		}
		g.refuse = true
		w.pass(askLife)
		if w.published != (Mapping{}) {
			t.Errorf("%s: published though it was refused", p)
		}
	}
}

func TestDoubleNAT(t *testing.T) {
	for _, p := range Protocols() {
		for _, a := range []string{"10.0.0.5", "172.16.0.1", "192.168.0.2", "100.64.9.9", "192.0.0.2"} {
			w, g := begin(t, func(w *world, g *gateway) { w.only(p); g.external = netip.MustParseAddr(a) })
			w.pass(10 * time.Second)
			r := w.core.Report()
			i := slices.IndexFunc(r.Protocols, func(r ProtocolReport) bool { return r.Protocol == p })
			if w.published != (Mapping{}) || !r.DoubleNAT() || r.Protocols[i].External != g.external || w.ours() != 0 {
				t.Errorf("%s outside %s: published %+v, report %+v, %d entries", p, a, w.published, r, w.ours())
			}
		}
	}
}

// TestNonceOutlivesTheProcess: with the nonce of the one before, a process goes on with its mapping, and has the same port outside.
func TestNonceOutlivesTheProcess(t *testing.T) {
	w := newWorld(t, 1)
	g := w.only(PCP)
	cfg := Config{Random: w.core.cfg.Random, Nonce: pcp.Nonce{1, 2, 3}}
	w.core = New(cfg)
	w.handle(SetNetwork{home})
	w.pass(20 * time.Second)
	before, entries := w.published, len(g.table)
	if before.Protocol != PCP {
		t.Fatalf("published %+v", before)
	}
	w.core = New(cfg)
	w.handle(SetNetwork{home})
	w.pass(20 * time.Second)
	if w.published != before || len(g.table) != entries || !w.works() {
		t.Errorf("published %+v, was %+v; table %v", w.published, before, g.table)
	}
	for _, e := range g.table {
		if e.nonce != cfg.Nonce {
			t.Errorf("an entry has the nonce %x", e.nonce)
		}
	}
}

func TestUseOnlySome(t *testing.T) {
	w := newWorld(t, 1)
	w.core = New(Config{Random: func([]byte) {}, Use: []Protocol{UPnP}})
	w.handle(SetNetwork{home})
	w.pass(time.Second)
	if w.published.Protocol != UPnP || w.attempts != 1 {
		t.Errorf("%+v after %d attempts", w.published, w.attempts)
	}
	if diff := cmp.Diff([]ProtocolReport{{UPnP, true, NoReason, public}}, w.core.Report().Protocols,
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestParseProtocols(t *testing.T) {
	for text, want := range map[string][]Protocol{
		"off": {}, "pcp": {PCP}, "upnp, NAT-PMP": {UPnP, NATPMP}, "pcp,nat-pmp,upnp": Protocols(), "pcp,pcp": {PCP},
		"": nil, "none": nil, "pcp,": nil, "pcp,off": nil,
	} {
		got, err := ParseProtocols(text)
		if diff := cmp.Diff(want, got); diff != "" || (err != nil) != (want == nil) {
			t.Errorf("%q: %v\n%s", text, err, diff)
		}
	}
}

func TestUseful(t *testing.T) {
	for a, want := range map[string]Reason{
		"198.51.100.1": NoReason, "8.8.8.8": NoReason, "100.63.255.255": NoReason, "100.128.0.1": NoReason,
		"10.1.1.1": PrivateAddress, "100.64.0.1": PrivateAddress, "192.0.0.1": PrivateAddress,
		"0.0.0.0": NoAddress, "0.1.2.3": NoAddress, "127.0.0.1": NoAddress, "169.254.1.1": NoAddress, "224.0.0.1": NoAddress,
		"255.255.255.255": NoAddress, "240.0.0.1": NoAddress, "2001:db8::1": NoAddress,
	} {
		if got := Useful(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %q, want %q", a, got, want)
		}
	}
	if Useful(netip.Addr{}) != NoAddress {
		t.Error("no address is useful")
	}
}

func TestEpoch(t *testing.T) {
	for name, tc := range map[string]struct {
		first, second uint32
		after         time.Duration
		want          bool
	}{
		"in step":          {100, 700, 10 * time.Minute, false},
		"a second back":    {100, 99, 0, false},
		"restarted":        {100, 3, 10 * time.Minute, true},
		"restarted, older": {100, 400, 10 * time.Minute, true},
		"drifts":           {0, 960, 1000 * time.Second, false},
		"too slow":         {0, 900, 1000 * time.Second, true},
		"too fast":         {0, 1100, 1000 * time.Second, true},
		"as far as it can": {0, 1<<32 - 1, time.Second, true},
	} {
		var e epoch
		at := time.Unix(0, 0)
		if e.restarted(at, tc.first) {
			t.Errorf("%s: the first word counts as a restart", name)
		}
		if got := e.restarted(at.Add(tc.after), tc.second); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
