package tundev

import (
	"fmt"
	"net/netip"
	"testing"
)

// pathDevice is a device with many peers, the first of which is configured.
func pathDevice(tb testing.TB, peers int) (d *Device, out, in [][]byte) {
	ks := keys(2)
	list := []Peer{{Node: ks[0]}, {Node: ks[1]}}
	for i := range peers {
		p := &list[min(i, 1)]
		p.Prefixes = append(p.Prefixes, netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.1/32", i>>8, i&255)))
	}
	inner := newFakeTUN()
	d = Wrap(inner, Config{})
	tb.Cleanup(func() { d.Close() })
	d.Update(Update{Self: ours(), Put: list, Rules: rulesOf(tb, all)})
	d.Configured(ks[0], true)
	for n := range 128 {
		out = append(out, packet(us, "10.0.0.1", n, 1400))
		in = append(in, append(make([]byte, room), packet("10.0.0.1", us, n, 1400)...))
	}
	return d, out, in
}

// BenchmarkPath is one batch of 128 full packets through the wrapper.
func BenchmarkPath(b *testing.B) {
	d, out, in := pathDevice(b, 10_000)
	bufs, sizes := buffers(len(out))
	r := &direct{packets: out}
	d.inner.close()
	d.inner = r
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if n, err := d.Read(bufs, sizes, room); n != len(out) || err != nil {
				b.Fatal(n, err)
			}
		}
	})
	b.Run("write", func(b *testing.B) {
		d.Device.(*fakeTUN).discard = true
		b.ReportAllocs()
		for b.Loop() {
			if n, err := d.Write(in, room); n != len(in) || err != nil {
				b.Fatal(n, err)
			}
		}
	})
}

// TestNoAllocations: a packet of a flow that goes on costs none, either way.
func TestNoAllocations(t *testing.T) {
	d, out, in := pathDevice(t, 100)
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
