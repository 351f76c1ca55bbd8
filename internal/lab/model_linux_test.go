package lab

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"warren/internal/sim/natmodel"
)

// TestModelledBoxes proves the NATs that the simulator's model runs by the tests of RFC 5780. Those that the kernel has too are tried with
// both.
//
//	host --- router with TUN and model --- internet --- one (ports 1000, 2000)
//	                                               \--- two (port 1000)
func TestModelledBoxes(t *testing.T) {
	const (
		independent = natmodel.EndpointIndependent
		each        = natmodel.AddressAndPortDependent
	)
	for _, tc := range []struct {
		o    natmodel.Options
		want behaviour
	}{
		{*natmodel.Easy(), behaviour{udp: true, sameMapping: true, portKept: true, filtersAddress: true, filtersPort: true}},
		{*natmodel.Hard(), behaviour{udp: true, filtersAddress: true, filtersPort: true}},
		{natmodel.Options{Mapping: independent}, behaviour{udp: true, sameMapping: true, portKept: true}},
		{natmodel.Options{Mapping: independent, Filtering: natmodel.FilterAddress, Ports: natmodel.RandomPort},
			behaviour{udp: true, sameMapping: true, filtersAddress: true}},
		{natmodel.Options{Mapping: each, Filtering: natmodel.FilterAddressAndPort, Ports: natmodel.SequentialPort},
			behaviour{udp: true, filtersAddress: true, filtersPort: true}},
		{natmodel.Options{Mapping: each, Filtering: natmodel.FilterAddress}, behaviour{udp: true, portKept: true, filtersAddress: true}},
		{natmodel.Options{Mapping: natmodel.AddressDependent, Filtering: natmodel.FilterAddressAndPort, Ports: natmodel.RandomPort},
			behaviour{udp: true, filtersAddress: true, filtersPort: true}},
	} {
		for _, model := range []bool{false, true} {
			if !model && !expressible(&tc.o) {
				continue
			}
			t.Run(fmt.Sprintf("%s, model=%t", tc.o, model), func(t *testing.T) {
				l := newLab(t)
				one, two := mustHost(t, l, "one", None), mustHost(t, l, "two", None)
				site := mustSite(t, l, "site", Access{NAT: &tc.o, Model: model})
				if got := len(site.models) == 1; got != model {
					t.Fatalf("the model runs: %t", got)
				}
				if got := probe(t, mustHostAt(t, l, "host", site), one, two, soon); got != tc.want {
					t.Errorf("got %+v, want %+v", got, tc.want)
				}
			})
		}
	}
}

// TestSequentialPorts sees a NAT's next port coming.
//
//	host --- NAT of sequential ports --- internet --- server
func TestSequentialPorts(t *testing.T) {
	l := newLab(t)
	o := natmodel.Options{Mapping: natmodel.AddressAndPortDependent, Filtering: natmodel.FilterAddressAndPort, Ports: natmodel.SequentialPort}
	server, host := mustHost(t, l, "server", None), mustHostAt(t, l, "host", mustSite(t, l, "site", Access{NAT: &o}))
	c := socket(t, host, ":41000")
	last := uint16(0)
	for i := range uint16(5) {
		s := socket(t, server, fmt.Sprintf(":%d", 1000+i))
		send(t, c, netip.AddrPortFrom(server.Public, 1000+i), "x")
		at, _ := receive(t, s, soon)
		if i > 0 && at.Port() != last+1 {
			t.Errorf("port %d after %d", at.Port(), last)
		}
		last = at.Port()
	}
}

// TestHairpin has two hosts that cannot reach each other on their LAN meet at their external addresses.
//
//	a ---\
//	      NAT that hairpins --- internet --- server
//	b ---/
func TestHairpin(t *testing.T) {
	l := newLab(t)
	access := SameNATHairpin.Access()
	access.Isolated = true
	site := mustSite(t, l, "site", access)
	server, a, b := mustHost(t, l, "server", None), mustHostAt(t, l, "a", site), mustHostAt(t, l, "b", site)
	sa, sb, ss := socket(t, a, ":41000"), socket(t, b, ":42000"), socket(t, server, ":1000")
	send(t, sa, netip.AddrPortFrom(server.Public, 1000), "a")
	ma, _ := receive(t, ss, soon)
	send(t, sb, netip.AddrPortFrom(server.Public, 1000), "b")
	mb, _ := receive(t, ss, soon)
	if ma.Addr() != a.Public || mb.Addr() != a.Public || ma == mb {
		t.Fatalf("mapped to %s and %s, want %s", ma, mb, a.Public)
	}
	send(t, sa, mb, "opens the way back")
	if from, _ := receive(t, sb, never); from.IsValid() {
		t.Errorf("b hears from %s, to whom it has not sent", from)
	}
	send(t, sb, ma, "hello")
	if from, text := receive(t, sa, soon); from != mb || text != "hello" {
		t.Errorf("a hears %q from %s, want %s", text, from, mb)
	}
	send(t, sa, mb, "hello yourself")
	if from, text := receive(t, sb, soon); from != ma || text != "hello yourself" {
		t.Errorf("b hears %q from %s, want %s", text, from, ma)
	}
	send(t, sa, netip.AddrPortFrom(b.Addr, 42000), "lan")
	if from, _ := receive(t, sb, never); from.IsValid() {
		t.Errorf("isolated, and b hears from %s", from)
	}
}

// TestModelCarriesEverything sends TCP, fragments and ICMP through two models in a row, where the innermost cable is too narrow.
//
//	host --- router (model) --- 100.64.N.0/24 --- CGNAT (model) === 1280 bytes === internet --- server
func TestModelCarriesEverything(t *testing.T) {
	l := newLab(t)
	server := mustHost(t, l, "server", None)
	serve(t, server, ":80")
	site := mustSite(t, l, "site", Access{NAT: natmodel.Easy(), CGNAT: natmodel.Hard(), Model: true, MTU: 1280})
	host := mustHostAt(t, l, "host", site)
	if len(site.models) != 2 {
		t.Fatalf("%d models run", len(site.models))
	}
	if got := ask(t, host, netip.AddrPortFrom(server.Public, 80), soon); got != host.Public.String() {
		t.Errorf("TCP: the server sees %q, want %s", got, host.Public)
	}
	to := netip.AddrPortFrom(server.Public, 1000)
	s, c, d := socket(t, server, ":1000"), socket(t, host, ":41000"), unfragmented(t, host, "udp4", 41001)
	text := strings.Repeat("0123456789", 500)
	send(t, c, to, text)
	from, got := receive(t, s, soon)
	if from.Addr() != host.Public || got != text {
		t.Fatalf("of a fragmented datagram %d bytes came from %s", len(got), from)
	}
	send(t, s, from, text)
	if _, got := receive(t, c, soon); got != text {
		t.Errorf("of a fragmented answer %d bytes came", len(got))
	}
	if from := echo(t, host, server.Public); from != server.Public {
		t.Errorf("the ping is answered by %s", from)
	}
	send(t, d, to, strings.Repeat("y", 1400)) // an ICMP error comes back, through both
	deadline := time.Now().Add(soon)
	for {
		if _, err := d.WriteToUDPAddrPort(make([]byte, 1400), to); err != nil {
			break
		}
		if from, _ := receive(t, d, 10*time.Millisecond); from.IsValid() || time.Now().After(deadline) {
			t.Fatalf("nobody says that a datagram was too big; heard from %s", from)
		}
	}
}

// TestForget reboots each kind of box: what was mapped is mapped anew, to another port, and strangers to the new mapping stay out.
func TestForget(t *testing.T) {
	for _, model := range []bool{false, true} {
		t.Run(fmt.Sprintf("model=%t", model), func(t *testing.T) {
			l := newLab(t)
			site := mustSite(t, l, "site", Access{NAT: natmodel.Hard(), Model: model})
			server, host := mustHost(t, l, "server", None), mustHostAt(t, l, "host", site)
			s, c := socket(t, server, ":1000"), socket(t, host, ":1000")
			send(t, c, netip.AddrPortFrom(server.Public, 1000), "1")
			first, _ := receive(t, s, soon)
			if err := host.Forget(); err != nil {
				t.Fatal(err)
			}
			send(t, s, first, "to nobody")
			if _, text := receive(t, c, never); text != "" {
				t.Errorf("%q came in by a mapping of before", text)
			}
			send(t, c, netip.AddrPortFrom(server.Public, 1000), "2")
			if second, _ := receive(t, s, soon); second == first || !second.IsValid() {
				t.Errorf("mapped to %s, then to %s", first, second)
			}
		})
	}
}

// echo pings once and gives who answers.
func echo(t *testing.T, h *Host, to netip.Addr) netip.Addr {
	t.Helper()
	var c *icmp.PacketConn
	if err := h.Do(func() (err error) {
		c, err = icmp.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 4711, Seq: 1, Data: []byte("ping")}}
	b, err := m.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	b = make([]byte, 1500)
	n, from, err := c.ReadFrom(b)
	if err != nil {
		t.Error(err)
		return netip.Addr{}
	}
	got, err := icmp.ParseMessage(1, b[:n])
	if err != nil || got.Type != ipv4.ICMPTypeEchoReply || got.Body.(*icmp.Echo).ID != 4711 {
		t.Errorf("answer %+v, %v", got, err)
	}
	a, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
	return a.Unmap()
}
