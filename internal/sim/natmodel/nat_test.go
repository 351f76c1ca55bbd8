package natmodel

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	began    = time.Unix(1_000_000, 0)
	external = netip.MustParseAddr("203.0.113.2")
	inside   = netip.MustParseAddrPort("192.168.1.2:41000")
	inside2  = netip.MustParseAddrPort("192.168.1.3:41000")
	// Two servers of two ports each, as RFC 5780 has them.
	one   = netip.MustParseAddrPort("198.51.100.1:3478")
	oneB  = netip.MustParseAddrPort("198.51.100.1:3479")
	two   = netip.MustParseAddrPort("198.51.100.2:3478")
	mute  = netip.MustParseAddrPort("198.51.100.3:1")
	allTo = []netip.AddrPort{one, oneB, two}
)

func udp(src, dst netip.AddrPort) Packet { return Packet{Proto: UDP, Src: src, Dst: dst} }

// out sends from inside and gives the source that the world sees.
func out(t *testing.T, n *NAT, now time.Time, src, dst netip.AddrPort) netip.AddrPort {
	t.Helper()
	p, v := n.Out(now, udp(src, dst))
	if v != ToOutside || p.Dst != dst {
		t.Fatalf("from %s to %s: %s, to %s", src, dst, v, p.Dst)
	}
	return p.Src
}

func in(n *NAT, now time.Time, src, dst netip.AddrPort) (netip.AddrPort, Verdict) {
	p, v := n.In(now, udp(src, dst))
	return p.Dst, v
}

// seen is what the tests of RFC 5780, sections 4.3 and 4.4, find out, and whether the port was kept.
type seen struct {
	Mapping   Mapping
	Filtering Filtering
	Kept      bool
}

func classify(t *testing.T, n *NAT) seen {
	t.Helper()
	s := seen{Mapping: AddressAndPortDependent, Filtering: FilterAddressAndPort}
	m1 := out(t, n, began, inside, one)
	s.Kept = m1.Port() == inside.Port()
	if _, v := in(n, began, two, m1); v == ToInside {
		s.Filtering = FilterNone
	} else if _, v := in(n, began, oneB, m1); v == ToInside {
		s.Filtering = FilterAddress
	}
	m1b, m2 := out(t, n, began, inside, oneB), out(t, n, began, inside, two)
	switch {
	case m2 == m1:
		s.Mapping = EndpointIndependent
	case m1b == m1:
		s.Mapping = AddressDependent
	}
	return s
}

// Every combination shows the behaviour that it is named for.
func TestBehaviour(t *testing.T) {
	for _, m := range []Mapping{EndpointIndependent, AddressDependent, AddressAndPortDependent} {
		for _, f := range []Filtering{FilterNone, FilterAddress, FilterAddressAndPort} {
			for _, p := range []Ports{PreservePort, RandomPort, SequentialPort} {
				o := Options{Mapping: m, Filtering: f, Ports: p}
				want := seen{Mapping: m, Filtering: f, Kept: p == PreservePort}
				if diff := cmp.Diff(want, classify(t, New(o, external, 1))); diff != "" {
					t.Errorf("%s: (-want +got)\n%s", o, diff)
				}
			}
		}
	}
}

func TestReplyComesBack(t *testing.T) {
	for _, proto := range []Protocol{UDP, TCP, ICMP} {
		for _, o := range []*Options{Easy(), Hard(), {Mapping: EndpointIndependent, Ports: SequentialPort}} {
			n := New(*o, external, 1)
			p, v := n.Out(began, Packet{proto, inside, one})
			if v != ToOutside || p.Src.Addr() != external || p.Dst != one {
				t.Fatalf("%s, %s: %+v, %s", o, proto, p, v)
			}
			back, v := n.In(began, Packet{proto, one, p.Src})
			if want := (Packet{proto, one, inside}); v != ToInside || back != want {
				t.Errorf("%s, %s: the reply becomes %+v, %s; want %+v", o, proto, back, v, want)
			}
			for _, other := range []Protocol{UDP, TCP, ICMP} {
				if _, v := n.In(began, Packet{other, one, p.Src}); other != proto && v != Unmapped {
					t.Errorf("%s: %s passes by a mapping of %s: %s", o, other, proto, v)
				}
			}
		}
	}
}

func TestPortsThatAreTaken(t *testing.T) {
	n := New(*Easy(), external, 1)
	first, second := out(t, n, began, inside, one), out(t, n, began, inside2, one)
	if first.Port() != inside.Port() || second.Port() == inside.Port() || second.Addr() != external {
		t.Errorf("two hosts with one port are mapped to %s and %s", first, second)
	}
	if at := out(t, n, began, inside2, two); at != second {
		t.Errorf("the second host's mapping depends on the destination: %s, %s", second, at)
	}
	// After the first has timed out its port is free again.
	later := began.Add(DefaultTimeout + 1)
	if at := out(t, n, later, inside2, one); at.Port() != inside.Port() {
		t.Errorf("the port is free, and the second host gets %s", at)
	}
	// Per destination with the port kept: it goes to the first destination.
	n = New(Options{Mapping: AddressAndPortDependent, Filtering: FilterAddressAndPort}, external, 1)
	if a, b := out(t, n, began, inside, one), out(t, n, began, inside, two); a.Port() != inside.Port() || b == a {
		t.Errorf("mapped to %s and %s", a, b)
	}
}

func TestSequentialPorts(t *testing.T) {
	n := New(Options{Mapping: AddressAndPortDependent, Ports: SequentialPort}, external, 1)
	last := out(t, n, began, inside, one).Port()
	for i := range 100 {
		to := netip.AddrPortFrom(two.Addr(), uint16(i+1))
		if at := out(t, n, began, inside, to).Port(); at != last+1 {
			t.Fatalf("port %d after %d", at, last)
		}
		last++
	}
	n.next = 1<<16 - 1
	if a, b := out(t, n, began, inside2, one), out(t, n, began, inside2, two); a.Port() != 65535 || b.Port() != lowPort {
		t.Errorf("at the end come %s and %s", a, b)
	}
	// Ports that are taken are left out.
	n.next = last
	if a := out(t, n, began, inside2, oneB); a.Port() != last+1 {
		t.Errorf("port %s, when %d is taken", a, last)
	}
}

func TestRandomPortsAreOnlyTheSeeds(t *testing.T) {
	ports := func(seed uint64) (all []uint16) {
		n := New(*Hard(), external, seed)
		for i := range 200 {
			all = append(all, out(t, n, began, inside, netip.AddrPortFrom(one.Addr(), uint16(i+1))).Port())
		}
		return all
	}
	if diff := cmp.Diff(ports(7), ports(7)); diff != "" {
		t.Error(diff)
	}
	if cmp.Equal(ports(7), ports(8)) {
		t.Error("two seeds give the same ports")
	}
	taken := map[uint16]bool{}
	for _, p := range ports(9) {
		if p < lowPort || taken[p] {
			t.Errorf("port %d is low or comes twice", p)
		}
		taken[p] = true
	}
}

func TestHairpin(t *testing.T) {
	for _, f := range []Filtering{FilterNone, FilterAddress, FilterAddressAndPort} {
		n := New(Options{Mapping: EndpointIndependent, Filtering: f, Hairpin: true}, external, 1)
		a, b := out(t, n, began, inside, one), out(t, n, began, inside2, one)
		p, v := n.Out(began, udp(inside, b))
		if want := map[Filtering]Verdict{FilterNone: ToInside}[f]; f == FilterNone && (v != want || p != udp(a, inside2)) || f != FilterNone && v != Filtered {
			t.Errorf("%s filtering: %+v, %s", f, p, v)
		}
		// Once both have sent, both get in, and each sees the other's external endpoint.
		if p, v = n.Out(began, udp(inside2, a)); v != ToInside || p != udp(b, inside) {
			t.Errorf("%s filtering, answer: %+v, %s", f, p, v)
		}
		if p, v = n.Out(began, udp(inside, b)); v != ToInside || p != udp(a, inside2) {
			t.Errorf("%s filtering, again: %+v, %s", f, p, v)
		}
		if _, v = n.Out(began, udp(inside, netip.AddrPortFrom(external, 9))); v != Unmapped {
			t.Errorf("to a port that nobody has: %s", v)
		}
	}
	n := New(*Easy(), external, 1)
	b := out(t, n, began, inside2, one)
	if _, v := n.Out(began, udp(inside, b)); v != NotHairpin {
		t.Errorf("without hairpin: %s", v)
	}
}

func TestTimeouts(t *testing.T) {
	const limit = ShortTimeout
	for _, tc := range []struct {
		name            string
		outboundRefresh bool
		direction       string // of what is sent at half the time
		alive           bool   // after one and a half
	}{
		{"silence", false, "", false},
		{"refreshed from inside", false, "out", true},
		{"refreshed from outside", false, "in", true},
		{"refreshed from inside only", true, "out", true},
		{"not refreshed from outside", true, "in", false},
	} {
		n := New(Options{Mapping: EndpointIndependent, Filtering: FilterAddressAndPort, Ports: RandomPort, Timeout: limit, OutboundRefresh: tc.outboundRefresh}, external, 1)
		at := out(t, n, began, inside, one)
		switch half := began.Add(limit / 2); tc.direction {
		case "out":
			out(t, n, half, inside, one)
		case "in":
			in(n, half, one, at)
		}
		late := began.Add(limit + limit/2)
		if _, v := in(n, late, one, at); (v == ToInside) != tc.alive {
			t.Errorf("%s: %s", tc.name, v)
		}
		if again := out(t, n, late, inside, one); (again == at) != tc.alive {
			t.Errorf("%s: mapped to %s, then to %s", tc.name, at, again)
		}
	}
	n := New(Options{Mapping: EndpointIndependent, Filtering: FilterAddressAndPort, Timeout: limit}, external, 1)
	at := out(t, n, began, inside, one)
	if _, v := in(n, began.Add(limit), one, at); v != ToInside {
		t.Errorf("exactly at the limit: %s", v)
	}
	p, _ := n.Out(began, Packet{TCP, inside, one})
	if _, v := n.In(began.Add(TCPTimeout), Packet{TCP, one, p.Src}); v != ToInside {
		t.Errorf("TCP after %s: %s", TCPTimeout, v)
	}
}

// One destination kept alive keeps the mapping, and not the way in from another.
func TestFilterTimesOutByItself(t *testing.T) {
	for f, want := range map[Filtering]Verdict{FilterNone: ToInside, FilterAddress: Filtered, FilterAddressAndPort: Filtered} {
		n := New(Options{Mapping: EndpointIndependent, Filtering: f, Timeout: ShortTimeout}, external, 1)
		at := out(t, n, began, inside, one)
		out(t, n, began.Add(ShortTimeout/2), inside, two)
		out(t, n, began.Add(ShortTimeout), inside, two)
		if _, v := in(n, began.Add(ShortTimeout+1), one, at); v != want {
			t.Errorf("%s filtering: %s, want %s", f, v, want)
		}
	}
}

func TestForget(t *testing.T) {
	n := New(*Hard(), external, 1)
	at := out(t, n, began, inside, one)
	n.Forget()
	if _, v := in(n, began, one, at); v != Unmapped || n.Len() != 0 {
		t.Errorf("after a reboot: %s, %d entries", v, n.Len())
	}
}

func TestFirewall(t *testing.T) {
	a, b := netip.MustParseAddrPort("[2001:db8:1::2]:1000"), netip.MustParseAddrPort("[2001:db8:2::2]:2000")
	n := New(Options{Filtering: FilterAddressAndPort}, netip.Addr{}, 1)
	if _, v := in(n, began, b, a); v != Unmapped {
		t.Errorf("unsolicited: %s", v)
	}
	if at := out(t, n, began, a, b); at != a {
		t.Errorf("translated to %s", at)
	}
	if to, v := in(n, began, b, a); v != ToInside || to != a {
		t.Errorf("the reply: %s, to %s", v, to)
	}
	if _, v := in(n, began, netip.AddrPortFrom(b.Addr(), 1), a); v != Filtered {
		t.Errorf("from another port: %s", v)
	}
	open := New(Options{}, netip.Addr{}, 1)
	if to, v := in(open, began, b, a); v != ToInside || to != a || open.Len() != 0 {
		t.Errorf("with nothing in the way: %s, to %s", v, to)
	}
	if at := out(t, open, began, a, b); at != a || open.Len() != 0 {
		t.Errorf("with nothing in the way: from %s", at)
	}
}

func TestBlocked(t *testing.T) {
	o := Easy()
	o.NoUDP = true
	n := New(*o, external, 1)
	if _, v := n.Out(began, udp(inside, one)); v != Blocked {
		t.Errorf("UDP: %s", v)
	}
	if _, v := n.Out(began, Packet{TCP, inside, one}); v != ToOutside {
		t.Errorf("TCP: %s", v)
	}
	six := netip.MustParseAddrPort("[2001:db8::1]:1")
	for _, p := range []Packet{udp(six, six), udp(inside, six), udp(six, one)} {
		if _, v := New(*Easy(), external, 1).Out(began, p); v != Blocked {
			t.Errorf("%+v: %s", p, v)
		}
	}
}

func TestTableIsBounded(t *testing.T) {
	o := Options{Mapping: EndpointIndependent, Filtering: FilterAddressAndPort, Capacity: 10, Timeout: ShortTimeout}
	n := New(o, external, 1)
	for i := range 10 {
		out(t, n, began.Add(time.Duration(i)*time.Second), inside, netip.AddrPortFrom(one.Addr(), uint16(i+1)))
	}
	now := began.Add(10 * time.Second)
	for _, p := range []Packet{udp(inside, two), udp(inside2, two), {TCP, inside, two}} {
		if _, v := n.Out(now, p); v != TableFull || n.Len() != 10 {
			t.Errorf("%+v in a full table: %s, %d entries", p, v, n.Len())
		}
	}
	out(t, n, now, inside, netip.AddrPortFrom(one.Addr(), 10)) // what is there goes on
	// The first entries time out and make room, in the midst of a live mapping.
	now = began.Add(ShortTimeout + 2500*time.Millisecond)
	for i := range 3 {
		out(t, n, now, inside, netip.AddrPortFrom(two.Addr(), uint16(i+1)))
	}
	if _, v := n.Out(now, udp(inside, mute)); v != TableFull || n.Len() != 10 {
		t.Errorf("full again: %s, %d entries", v, n.Len())
	}
	now = now.Add(time.Hour)
	out(t, n, now, inside2, one)
	if n.Len() != 1 {
		t.Errorf("%d entries after an hour of silence", n.Len())
	}
}

// Even with more room in the table, there are only so many ports.
func TestPortsRunOut(t *testing.T) {
	n := New(Options{Mapping: AddressAndPortDependent, Ports: SequentialPort, Capacity: 1 << 20}, external, 1)
	to := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 1)
	}
	for i := range 1<<16 - lowPort {
		out(t, n, began, inside, to(i))
	}
	for _, p := range []Ports{PreservePort, RandomPort, SequentialPort} {
		n.o.Ports = p
		if _, v := n.Out(began, udp(inside, one)); v != TableFull {
			t.Errorf("%s ports, none free: %s", p, v)
		}
		freed := n.byInside[insideKey{UDP, inside, to(7)}].outside
		n.remove(n.byOutside[outsideKey{UDP, freed}])
		if at := out(t, n, began, inside, to(7)); at != freed {
			t.Errorf("%s ports, only %s is free: %s", p, freed, at)
		}
	}
}

func TestQuoted(t *testing.T) {
	n := New(*Hard(), external, 1)
	at := out(t, n, began, inside, one)
	if p, v := n.Quoted(began, udp(at, one)); v != ToInside || p != udp(inside, one) {
		t.Errorf("an error about what was sent: %+v, %s", p, v)
	}
	if _, v := n.Quoted(began, udp(at, two)); v != Filtered {
		t.Errorf("an error about what was not sent there: %s", v)
	}
	if _, v := n.Quoted(began, udp(netip.AddrPortFrom(external, 9), one)); v != Unmapped {
		t.Errorf("an error about nothing: %s", v)
	}
	if _, v := n.Quoted(began.Add(DefaultTimeout+1), udp(at, one)); v.Passes() {
		t.Errorf("a late error: %s", v)
	}
}

func TestNames(t *testing.T) {
	o := Options{Mapping: AddressDependent, Filtering: FilterAddress, Ports: SequentialPort, Hairpin: true, NoUDP: true, Timeout: ShortTimeout}
	const want = "address-dependent mapping, sequential ports, address-dependent filtering, hairpin, no UDP, 20s time-out"
	if got := o.String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := fmt.Sprint(Mapping(9), Verdict(99), ICMP); got != "unknown (9) unknown (99) ICMP" {
		t.Error(got)
	}
}
