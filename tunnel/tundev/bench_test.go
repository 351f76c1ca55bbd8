package tundev

import (
	"fmt"
	"net/netip"
	"testing"

	pb "warren/proto/warrenv1"
	"warren/tunnel/filter"
)

// pathDevice is a device with many peers, the first of which is configured, and batches from and to it: of one stream, or of 128 flows.
func pathDevice(tb testing.TB, peers int, cfg filter.Config, rules *filter.Rules, flows int) (d *Device, out, in [][]byte) {
	ks := keys(2)
	list := []Peer{{Node: ks[0]}, {Node: ks[1]}}
	for i := range peers {
		p := &list[min(i, 1)]
		p.Prefixes = append(p.Prefixes, netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.1/32", i>>8, i&255)))
	}
	inner := newFakeTUN()
	d = Wrap(inner, Config{Filter: cfg})
	tb.Cleanup(func() { d.Close() })
	d.Update(Update{Self: ours(), Put: list, Rules: rules})
	d.Configured(ks[0], true)
	for n := range 128 {
		there, back := packet(us, "10.0.0.1", n, 1400), packet("10.0.0.1", us, n, 1400)
		there[20], back[20] = byte(n%flows), byte(n%flows)
		out, in = append(out, there), append(in, append(make([]byte, room), back...))
	}
	return d, out, in
}

// manyRules are as many grants, all of the addresses that benchmarks use, each of one port; the last is of the port that packets go to. None
// is one of everything.
func manyRules(tb testing.TB, n int) *filter.Rules {
	all := &pb.Prefix{Address: make([]byte, 4)}
	var list []*pb.Grant
	for i := range n {
		port := uint32(10_000 + i)
		if i == n-1 {
			port = 2
		}
		list = append(list, &pb.Grant{
			Id: fmt.Sprint(i), Sources: []*pb.Prefix{all}, Destinations: []*pb.Prefix{all}, Flows: []*pb.Flow{{Protocol: protoUDP, FirstPort: port, LastPort: port}},
		})
	}
	if n == 0 {
		list = []*pb.Grant{{Sources: []*pb.Prefix{all}, Destinations: []*pb.Prefix{all}, Flows: []*pb.Flow{{}}}}
	}
	r, err := filter.Compile(list)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// BenchmarkPath is one batch of 128 full packets through the wrapper, without state under a grant of everything, and with flows under many grants.
func BenchmarkPath(b *testing.B) {
	for _, c := range []struct {
		name    string
		grants  int
		records bool
	}{{"no state", 0, false}, {"everything", 0, true}, {"10 grants", 10, true}, {"10000 grants", 10_000, true}} {
		for _, flows := range []int{1, 128} {
			d, out, in := pathDevice(b, 10_000, filter.Config{Records: c.records}, manyRules(b, c.grants), flows)
			bufs, sizes := buffers(len(out))
			d.inner.close()
			d.inner = &direct{packets: out}
			d.Device.(*fakeTUN).discard = true
			d.Read(bufs, sizes, room) // the first packet between two kinds of addresses has their grants compiled
			d.Write(in, room)
			b.Run(fmt.Sprintf("%s, %d flows, read", c.name, flows), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if n, err := d.Read(bufs, sizes, room); n != len(out) || err != nil {
						b.Fatal(n, err)
					}
				}
			})
			b.Run(fmt.Sprintf("%s, %d flows, write", c.name, flows), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if n, err := d.Write(in, room); n != len(in) || err != nil {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}

// BenchmarkHandOver is one batch of full packets of the LAN that one gateway hands to the other, and what that makes of it.
func BenchmarkHandOver(b *testing.B) {
	o := newOffice(b, "0.0.0.0/0 0.0.0.0/0 17 53")
	var out, in [][]byte
	for i := range 128 {
		plain := datagram("10.1.0.7", uint16(i), "100.64.0.1", 53, i, 1380)
		out, in = append(out, plain), append(in, append(make([]byte, room), raw(protoIPv4, "100.64.0.3", "100.64.0.2", plain)...))
	}
	bufs, sizes := buffers(len(out))
	b.Run("hand", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for i := range out {
				sizes[i] = copy(bufs[i][room:], out[i])
			}
			if n := o.b.dev.outgoing(bufs, sizes, room); n != len(out) {
				b.Fatal(n)
			}
		}
	})
	b.Run("take", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := o.a.dev.Write(in, room); err != nil {
				b.Fatal(err)
			}
			if n := o.a.dev.takeInjected(bufs, sizes, room); n != len(in) {
				b.Fatal(n)
			}
		}
	})
}

// TestNoAllocations: a packet of a flow that goes on costs none, either way.
func TestNoAllocations(t *testing.T) {
	d, out, in := pathDevice(t, 100, filter.Config{Records: true}, rulesOf(t, all), 1)
	bufs, sizes := buffers(len(out))
	d.inner.close()
	d.inner = &direct{packets: out}
	d.Device.(*fakeTUN).discard = true
	if n := testing.AllocsPerRun(20, func() {
		d.Read(bufs, sizes, room)
		d.Write(in, room)
	}); n != 0 {
		t.Errorf("%v allocations for %d packets each way", n, len(out))
	}
	if c := d.Counters(); c.Filter.Out[0] != 21*128 || c.Filter.In[0] != 21*128 {
		t.Errorf("not all packets passed: %+v", c)
	}
}
