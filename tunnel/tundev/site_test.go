package tundev

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestTransit: a hub that carries what its peers' networks are in forwards between them, and between them and other peers, as grants say; it
// forwards nothing between addresses of devices, nor back to where it came from, whatever grants say.
func TestTransit(t *testing.T) {
	const everyone = "0.0.0.0/0 0.0.0.0/0 17 53"
	for _, c := range []struct {
		what     string
		carries  []string
		from     string // which end sends
		src, dst string
		grants   []string
		to       string // which end receives, if it is forwarded
	}{
		{"site to site", []string{"10.0.0.0/8"}, "x", "10.2.0.1", "10.3.0.1", []string{"10.2.0.0/16 10.3.0.0/16 17 53"}, "y"},
		{"site to site without a grant", []string{"10.0.0.0/8"}, "x", "10.2.0.1", "10.3.0.1", []string{"10.3.0.0/16 10.2.0.0/16 17 53"}, ""},
		{"site to site through one that does not carry it", []string{"10.1.0.0/16"}, "x", "10.2.0.1", "10.3.0.1", []string{everyone}, ""},
		{"device to site", []string{"10.0.0.0/8"}, "x", "100.64.0.2", "10.3.0.1", []string{everyone}, "y"},
		{"site to device", []string{"10.0.0.0/8"}, "x", "10.2.0.1", "100.64.0.3", []string{everyone}, "y"},
		{"device to device", []string{"10.0.0.0/8"}, "x", "100.64.0.2", "100.64.0.3", []string{everyone}, ""},
		{"device to device through an exit node", []string{"0.0.0.0/0"}, "x", "100.64.0.2", "100.64.0.3", []string{everyone}, ""},
		{"device to site through an exit node", []string{"0.0.0.0/0"}, "x", "100.64.0.2", "10.3.0.1", []string{everyone}, "y"},
		{"back to where it came from", []string{"10.0.0.0/8"}, "x", "10.2.0.1", "10.2.0.2", []string{everyone}, ""},
		{"to an address of nobody's in the overlay, through an exit node", []string{"0.0.0.0/0"}, "x", "100.64.0.2", "100.64.0.99", []string{everyone}, ""},
		{"to the address of probes", []string{"0.0.0.0/0"}, "x", "100.64.0.2", "100.64.255.254", []string{everyone}, ""},
	} {
		m := newMesh(t)
		hub := m.add("hub", "100.64.0.1")
		m.add("x", "100.64.0.2")
		m.add("y", "100.64.0.3")
		hub.knows(plan{carries: c.carries, peers: map[string][]string{"x": {"10.2.0.0/16"}, "y": {"10.3.0.0/16"}}, grants: c.grants})
		reached := ""
		m.wire = func(from, to *end, b []byte) { reached = to.name }
		b := datagram(c.src, 1, c.dst, 53, 1, 100)
		hub.takes(b)
		got := hub.hears()
		if (len(got) == 1) != (c.to != "") {
			t.Errorf("%s: the hub's host received % x; %+v", c.what, got, hub.dev.Counters())
		}
		for _, b := range got {
			hub.sends(b)
		}
		if reached != c.to {
			t.Errorf("%s: reached %q", c.what, reached)
		}
		if reached == "" {
			continue
		}
		// The answer comes the other way, although no grant allows it; that it is a flow on either side shows in what is told of them.
		answer := datagram(c.dst, 53, c.src, 1, 2, 100)
		hub.takes(answer)
		for _, b := range hub.hears() {
			hub.sends(b)
		}
		if reached != c.from || hub.dev.Counters().Table.Flows != 2 {
			t.Errorf("%s: the answer reached %q; %+v", c.what, reached, hub.dev.Counters())
		}
	}
}

// TestExit: what leaves through an exit node is what the grants name. Its own LAN is not, and addresses of the network are the network's.
func TestExit(t *testing.T) {
	m := newMesh(t)
	laptop, exit := m.add("laptop", "100.64.0.1", "fd00::1"), m.add("exit", "100.64.0.2", "fd00::2")
	m.add("server", "100.64.0.3", "fd00::3")
	grants := []string{"100.64.0.0/16 8.0.0.0/8 17 53", "fd00::/64 2000::/3 17 53"}
	laptop.knows(plan{peers: map[string][]string{"exit": {"0.0.0.0/0", "::/0"}, "server": nil}, grants: append(grants, "100.64.0.0/16 100.64.0.0/16 17 53", "100.64.0.0/16 192.168.0.0/16 17 53")})
	exit.knows(plan{carries: []string{"0.0.0.0/0", "::/0"}, peers: map[string][]string{"laptop": nil, "server": nil}, grants: grants})
	via := ""
	m.wire = func(from, to *end, _ []byte) { via += from.name + ">" + to.name + " " }
	for _, c := range []struct{ src, dst, via, at string }{
		{"100.64.0.1", "8.8.8.8", "laptop>exit ", "exit"},
		{"fd00::1", "2001:4860::8", "laptop>exit ", "exit"},
		{"100.64.0.1", "192.168.1.1", "laptop>exit ", ""},  // the exit node's LAN
		{"100.64.0.1", "100.64.0.3", "laptop>server ", ""}, // the server has no grant here
		{"100.64.0.1", "100.64.0.99", "", ""},
		{"100.64.0.1", "9.9.9.9", "", ""},
	} {
		via = ""
		laptop.sends(datagram(c.src, 1, c.dst, 53, 1, 100))
		at := ""
		for _, e := range m.ends {
			if len(e.hears()) > 0 {
				at += e.name
			}
		}
		if via != c.via || at != c.at {
			t.Errorf("%s: went %q, came to %q", c.dst, via, at)
		}
		if c.at == "" {
			continue
		}
		if exit.sends(datagram(c.dst, 53, c.src, 1, 2, 100)); len(laptop.hears()) != 1 {
			t.Errorf("%s: no answer came", c.dst)
		}
	}
	// The exit node cannot send as anybody of the network, nor as the laptop itself.
	for _, src := range []string{"100.64.0.99", "100.64.0.1", "100.64.255.254", "fd00::99"} {
		before := laptop.dev.Counters().Forged
		dst := "100.64.0.1"
		if netip.MustParseAddr(src).Is6() {
			dst = "fd00::1"
		}
		laptop.takes(datagram(src, 1, dst, 53, 1, 100))
		if got := laptop.hears(); len(got) > 0 || laptop.dev.Counters().Forged != before+1 {
			t.Errorf("from %s: received % x; %+v", src, got, laptop.dev.Counters())
		}
	}
}

// TestForgedSources: each is dropped and counted, whoever sends it and whatever grants say.
func TestForgedSources(t *testing.T) {
	m := newMesh(t)
	gateway := m.add("gateway", "100.64.0.1")
	m.add("liar", "100.64.0.2")
	other := m.add("other", "100.64.0.3")
	gateway.knows(plan{
		carries: []string{"10.1.0.0/16"}, peers: map[string][]string{"liar": {"0.0.0.0/0", "10.2.0.0/16"}, "other": {"10.3.0.0/16"}},
		grants: []string{"0.0.0.0/0 0.0.0.0/0 17 53"},
	})
	liar := m.ends["liar"]
	liar.knows(plan{peers: map[string][]string{"gateway": {"0.0.0.0/0"}}, carries: []string{"10.0.0.0/8"}, grants: []string{"0.0.0.0/0 0.0.0.0/0 17 53"}})
	for _, configured := range []bool{true, false} {
		gateway.dev.Configured(other.node, configured)
		for _, c := range []struct {
			src    string
			forged bool
		}{
			{"100.64.0.2", false}, {"10.2.0.1", false}, {"9.9.9.9", false},
			{"10.3.0.1", true}, {"100.64.0.3", true}, // of another peer
			{"10.1.0.7", true}, {"100.64.0.1", true}, // of our network, and our own
			{"100.64.0.77", true}, {"100.64.255.254", true}, // of nobody
		} {
			before := gateway.dev.Counters().Forged + uint64(m.disallowed)
			liar.transmit(datagram(c.src, 1, "10.1.0.8", 53, 1, 100))
			after := gateway.dev.Counters().Forged + uint64(m.disallowed)
			if got := len(gateway.hears()) == 0; got != c.forged || (after == before+1) != c.forged {
				t.Errorf("other configured %v, from %s: dropped %v, %d counted", configured, c.src, got, after-before)
			}
		}
	}
}

func TestProbe(t *testing.T) {
	m := newMesh(t)
	gateway := m.add("gateway", "100.64.0.1", "fd00::1")
	m.add("laptop", "100.64.0.2", "fd00::2")
	gateway.knows(plan{carries: []string{"10.1.0.0/16", "fd01::/64"}, peers: map[string][]string{"laptop": nil}, grants: []string{"0.0.0.0/0 0.0.0.0/0 1 0"}})
	for _, c := range []struct {
		target, from   string
		request, reply byte
	}{{"10.1.0.7", "100.64.255.254", 8, 0}, {"fd01::7", "fd00::ffff", 128, 129}} {
		target := netip.MustParseAddr(c.target)
		if err := gateway.dev.Probe(target, 7, 300); err != nil {
			t.Fatal(err)
		}
		got := gateway.hears()
		if len(got) != 1 {
			t.Fatalf("the host received % x", got)
		}
		src, dst := addressesIn(t, got[0])
		icmp := payloadOf(got[0])
		if src != c.from || dst != c.target || icmp[0] != c.request || checksum(pseudo(got[0]), icmp) != 0 || protocol(got[0]) == protoICMP && checksum(0, got[0][:20]) != 0 {
			t.Errorf("the host received % x", got[0])
		}
		echo := func(kind byte) []byte {
			b := raw(protocol(got[0]), c.target, c.from, bytes.Clone(icmp))
			payloadOf(b)[0] = kind
			return b
		}
		cut := echo(c.reply)
		for _, b := range [][]byte{echo(c.request), echo(3), cut[:len(cut)-1], datagram(c.target, 1, c.from, 53, 1, 100), raw(protocol(got[0]), c.target, c.from, []byte{c.reply, 0, 0})} {
			gateway.sends(b)
		}
		if len(gateway.probes) > 0 {
			t.Errorf("told of %q", gateway.probes)
		}
		gateway.sends(echo(c.reply))
		if diff := cmp.Diff([]string{fmt.Sprint(target, uint16(7), uint16(300))}, gateway.probes); diff != "" {
			t.Errorf("answers (-want +got):\n%s", diff)
		}
		gateway.probes = nil
		// Peers know nothing of that address.
		before := gateway.dev.Counters()
		gateway.takes(raw(protocol(got[0]), "100.64.0.2", "100.64.255.254", bytes.Clone(icmp)))
		gateway.takes(raw(protocol(got[0]), "100.64.255.254", "10.1.0.7", bytes.Clone(icmp)))
		after := gateway.dev.Counters()
		if after.NotOurs != before.NotOurs+1 || after.Forged != before.Forged+1 || len(gateway.hears()) > 0 || len(gateway.probes) > 0 {
			t.Errorf("counted %+v", after)
		}
	}
	if n := gateway.dev.Counters(); n.ProbeAnswers != 2 || n.Filter.Out != [4]uint64{} {
		t.Errorf("counted %+v", n)
	}
	gateway.dev.Update(Update{Probe: probeAddresses[:1]})
	if err := gateway.dev.Probe(netip.MustParseAddr("fd01::7"), 1, 1); err == nil || len(gateway.hears()) > 0 {
		t.Error("a probe without an address to come from")
	}
}

// TestProbeFrom: the answer to a borrowed address is taken wherever it comes out of the LAN, and nothing else that is for it.
func TestProbeFrom(t *testing.T) {
	for _, c := range []struct{ target, from, other string }{{"10.1.0.7", "10.3.0.0", "10.3.0.9"}, {"fd01::7", "fd00::", "fd00::1"}} {
		o := newOffice(t, "0.0.0.0/0 0.0.0.0/0 1 0", "::/0 ::/0 58 0")
		target, from := netip.MustParseAddr(c.target), netip.MustParseAddr(c.from)
		if err := o.a.dev.ProbeFrom(from, target, 7, 300); err == nil {
			t.Error("a probe from an address that is not borrowed")
		}
		o.a.dev.Borrow(from)
		if err := o.a.dev.ProbeFrom(from, netip.MustParseAddr("100.64.0.1"), 7, 300); err == nil {
			t.Error("a probe of another device")
		}
		if err := o.a.dev.ProbeFrom(from, target, 7, 300); err != nil {
			t.Fatal(err)
		}
		got := o.a.hears()
		if len(got) != 1 {
			t.Fatalf("the host received % x", got)
		}
		if src, dst := addressesIn(t, got[0]); src != c.from || dst != c.target {
			t.Errorf("probed %s from %s", dst, src)
		}
		echo := func(kind byte, to string) []byte {
			b := raw(protocol(got[0]), c.target, to, bytes.Clone(payloadOf(got[0])))
			payloadOf(b)[0] = kind
			return b
		}
		reply := byte(0)
		if target.Is6() {
			reply = 129
		}
		o.a.sends(echo(reply, c.from))
		if target.Is4() { // of 10.3.0.0/16, for which the sibling knows whom the laptop uses
			o.b.sends(echo(reply, c.from))
		} else {
			o.a.sends(echo(reply, c.from))
		}
		told := fmt.Sprint(target, uint16(7), uint16(300))
		if diff := cmp.Diff([]string{told, told}, o.a.probes); diff != "" {
			t.Errorf("answers (-want +got):\n%s", diff)
		}
		o.a.sends(echo(reply, c.other))
		o.a.dev.Borrow()
		o.a.sends(echo(reply, c.from))
		if len(o.a.probes) != 2 {
			t.Errorf("told of %q", o.a.probes)
		}
	}
}

func addressesIn(t *testing.T, b []byte) (src, dst string) {
	t.Helper()
	if b[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(b[12:])).String(), netip.AddrFrom4([4]byte(b[16:])).String()
	}
	return netip.AddrFrom16([16]byte(b[8:])).String(), netip.AddrFrom16([16]byte(b[24:])).String()
}

// TestTraffic: what went to each prefix and came from it is noted by the hundredth of a second, from when the peer carries it on.
func TestTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		laptop, gateway := m.add("laptop", "100.64.0.1"), m.add("gateway", "100.64.0.2")
		grants := []string{"100.64.0.1/32 0.0.0.0/0 17 53"}
		laptop.knows(plan{peers: map[string][]string{"gateway": {"10.1.0.0/16", "10.2.0.0/16"}}, grants: grants})
		gateway.knows(plan{peers: map[string][]string{"laptop": nil}, carries: []string{"10.1.0.0/16", "10.2.0.0/16"}, grants: grants})
		began := time.Now()
		check := func(what string, want ...Traffic) {
			t.Helper()
			got := laptop.dev.Traffic(gateway.id)
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b time.Time) bool { return a.Sub(b).Abs() < 10*time.Millisecond }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		wide, other, own := netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.0/16"), netip.MustParsePrefix("100.64.0.2/32")
		check("nothing yet", Traffic{Prefix: wide}, Traffic{Prefix: other}, Traffic{Prefix: own})
		laptop.sends(datagram("100.64.0.1", 1, "10.1.0.7", 53, 1, 100))
		laptop.sends(datagram("100.64.0.1", 1, "10.2.0.7", 54, 1, 100)) // not allowed
		check("sent", Traffic{Prefix: wide, Sent: began}, Traffic{Prefix: other}, Traffic{Prefix: own})
		<-time.After(time.Second)
		gateway.sends(datagram("10.1.0.7", 53, "100.64.0.1", 1, 1, 100))
		gateway.sends(datagram("10.2.0.7", 53, "100.64.0.1", 1, 1, 100)) // not allowed
		check("answered", Traffic{wide, began, began.Add(time.Second)}, Traffic{Prefix: other}, Traffic{Prefix: own})
		laptop.knows(plan{peers: map[string][]string{"gateway": {"10.1.0.0/16"}}, grants: grants})
		check("after a change elsewhere", Traffic{wide, began, began.Add(time.Second)}, Traffic{Prefix: own})
		laptop.knows(plan{peers: map[string][]string{"gateway": nil}, grants: grants})
		laptop.knows(plan{peers: map[string][]string{"gateway": {"10.1.0.0/16"}}, grants: grants})
		check("when it is carried again", Traffic{Prefix: wide}, Traffic{Prefix: own})
		laptop.knows(plan{})
		check("of a device that has left")
	})
}

// TestOnUse: the first packet to or from a CIDR after a while is told, and none besides; device addresses are no CIDRs.
func TestOnUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		laptop, gateway := m.add("laptop", "100.64.0.1"), m.add("gateway", "100.64.0.2")
		grants := []string{"100.64.0.1/32 0.0.0.0/0 17 53"}
		laptop.knows(plan{peers: map[string][]string{"gateway": {"10.1.0.0/16"}}, grants: grants})
		gateway.knows(plan{peers: map[string][]string{"laptop": nil}, carries: []string{"10.1.0.0/16"}, grants: grants})
		expect := func(what string, after time.Duration, want int, who *end, b []byte) {
			t.Helper()
			<-time.After(after)
			laptop.begun = 0
			if who.sends(b); laptop.begun != want {
				t.Errorf("%s: told %d times, want %d", what, laptop.begun, want)
			}
		}
		there, back := datagram("100.64.0.1", 1, "10.1.0.7", 53, 1, 100), datagram("10.1.0.7", 53, "100.64.0.1", 1, 1, 100)
		expect("the gateway itself", 1, 0, laptop, datagram("100.64.0.1", 1, "100.64.0.2", 53, 1, 100))
		expect("refused", 1, 0, laptop, datagram("100.64.0.1", 1, "10.1.0.7", 54, 1, 100))
		expect("the first", 1, 1, laptop, there)
		expect("soon after", UnusedFor-time.Millisecond, 0, laptop, there)
		expect("the first answer", 0, 1, gateway, back)
		expect("another", time.Second, 0, gateway, back)
		expect("after a while", UnusedFor, 1, laptop, there)
		if gateway.begun != 0 {
			t.Errorf("the gateway was told %d times, and uses no CIDR", gateway.begun)
		}
	})
}

// TestHosts: hosts that have sent something allowed are learnt, a few of each prefix, the newest first.
func TestHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		gateway := m.add("gateway", "100.64.0.2", "fd00::2")
		m.add("laptop", "100.64.0.1", "fd00::1")
		p := plan{
			peers: map[string][]string{"laptop": nil}, carries: []string{"10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0", "fd01::/64"},
			grants: []string{"0.0.0.0/0 0.0.0.0/0 17 53", "::/0 ::/0 17 53"},
		}
		gateway.knows(p)
		began := time.Now()
		send := func(src string, port uint16) {
			dst := "100.64.0.1"
			if netip.MustParseAddr(src).Is6() {
				dst = "fd00::1"
			}
			gateway.sends(datagram(src, 1, dst, port, 1, 100))
			<-time.After(learnAgain)
		}
		for _, src := range []string{"10.1.0.1", "10.1.0.2", "10.1.0.1", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.2.1", "100.64.0.2", "8.8.8.8", "fd01::7"} {
			send(src, 53)
		}
		send("10.1.0.9", 54) // not allowed
		check := func(cidr string, want ...string) {
			t.Helper()
			var got []string
			for _, h := range gateway.dev.Hosts(netip.MustParsePrefix(cidr)) {
				got = append(got, fmt.Sprint(h.Addr, " ", int(h.Seen.Sub(began)/learnAgain)))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", cidr, diff)
			}
		}
		check("10.1.0.0/16", "10.1.0.5 5", "10.1.0.4 4", "10.1.0.3 3", "10.1.0.1 2")
		check("10.1.2.0/24", "10.1.2.1 6")
		check("fd01::/64", "fd01::7 9")
		check("0.0.0.0/0")
		p.carries = slices.Delete(p.carries, 1, 3)
		gateway.knows(p)
		check("10.1.0.0/16", "10.1.0.5 5", "10.1.0.4 4", "10.1.0.3 3", "10.1.0.1 2")
		check("10.1.2.0/24")
		gateway.sends(datagram("10.1.0.6", 1, "100.64.0.1", 53, 1, 100))
		gateway.sends(datagram("10.1.0.7", 1, "100.64.0.1", 53, 1, 100)) // too soon to look again
		check("10.1.0.0/16", "10.1.0.6 11", "10.1.0.5 5", "10.1.0.4 4", "10.1.0.3 3")
	})
}

// TestInjectedWakes: what is to be sent comes out of a Read that waits for the host.
func TestInjectedWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		a, b := m.add("a", "100.64.0.1"), m.add("b", "100.64.0.2")
		a.knows(plan{peers: map[string][]string{"b": nil}, grants: []string{"0.0.0.0/0 0.0.0.0/0 17 53"}})
		r := readAll(a.dev, 4)
		for i := range 10 {
			synctest.Wait()
			if err := a.dev.SendWord(b.id, fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
			if got := <-r.got; string(payloadOf(got)) != fmt.Sprint(i) {
				t.Errorf("read % x", got)
			}
			a.inner.feed(datagram("100.64.0.1", 1, "100.64.0.2", 53, i, 100))
			if got := <-r.got; protocol(got) != protoUDP {
				t.Errorf("read % x", got)
			}
		}
		a.dev.Close()
		<-r.err
	})
}

// TestHostsTurn: the host's packets come out while there is always something else to be sent.
func TestHostsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		a, b := m.add("a", "100.64.0.1"), m.add("b", "100.64.0.2")
		a.knows(plan{peers: map[string][]string{"b": nil}, grants: []string{"0.0.0.0/0 0.0.0.0/0 17 53"}})
		fill := func() {
			for a.dev.SendWord(b.id, []byte("x")) == nil {
			}
		}
		fill()
		var feeding sync.WaitGroup
		feeding.Go(func() {
			for i := range 5 {
				a.inner.feed(datagram("100.64.0.1", 1, "100.64.0.2", 53, i, 100))
			}
		})
		bufs, sizes := buffers(4)
		hosts, words := 0, 0
		for range 10 {
			synctest.Wait()
			n, err := a.dev.Read(bufs, sizes, room)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				if protocol(bufs[i][room:]) == protoWord {
					words++
				} else {
					hosts++
				}
			}
			fill()
		}
		if hosts != 5 || words != 5*4 {
			t.Errorf("of ten rounds the host had %d, and others %d packets", hosts, words)
		}
		feeding.Wait()
	})
}
