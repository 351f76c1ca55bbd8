package bind

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/internal/netnstest"
	"warren/proto/key"
)

// TestUplinks has a namespace with two ways out, of which the kernel prefers the first: what is pinned to the second's address leaves by the
// second once the Bind knows of it.
func TestUplinks(t *testing.T) {
	netnstest.Run(t, uplinks)
}

func uplinks(t *testing.T) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	index := map[string]int{}
	for i, name := range []string{"d0", "d1"} {
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "far" + name}
		check(netlink.LinkAdd(link))
		check(netlink.LinkSetARPOff(link)) // nobody answers
		for _, end := range []string{link.PeerName, name} {
			l, err := netlink.LinkByName(end)
			check(err)
			check(netlink.LinkSetUp(l))
		}
		index[name] = link.Attrs().Index
		for _, a := range []string{"192.0.2." + string(rune('1'+i)) + "/32", "2001:db8::" + string(rune('1'+i)) + "/128"} {
			addr, err := netlink.ParseAddr(a)
			check(err)
			addr.Flags = unix.IFA_F_NODAD // of use at once
			check(netlink.AddrAdd(link, addr))
		}
		for _, d := range []string{"0.0.0.0/0", "::/0"} {
			to, err := netlink.ParseIPNet(d)
			check(err)
			check(netlink.RouteAdd(&netlink.Route{LinkIndex: index[name], Dst: to, Priority: 100 * (1 + i)}))
		}
	}
	b := New(Config{})
	_, _, err := b.Open(0)
	check(err)
	defer b.Close()
	peer := key.NewNode().Public()
	ep, err := b.ParseEndpoint(peer.String())
	check(err)
	const many = 100 // the kernel sends a few of its own
	left := func(name string) uint64 {
		link, err := netlink.LinkByName(name)
		check(err)
		return link.Attrs().Statistics.TxPackets
	}
	by := func(send func()) (out []string) {
		before := map[string]uint64{"d0": left("d0"), "d1": left("d1")}
		for range many {
			send()
		}
		for _, name := range []string{"d0", "d1"} {
			if left(name)-before[name] >= many {
				out = append(out, name)
			}
		}
		return out
	}
	for _, f := range []struct{ local, remote string }{{"192.0.2.2", "198.51.100.1:9"}, {"2001:db8::2", "[2001:db8:1::1]:9"}} {
		local, remote := netip.MustParseAddr(f.local), netip.MustParseAddrPort(f.remote)
		b.SetPath(peer, Path{Kind: Direct, Local: local, Remote: remote})
		for _, step := range []struct {
			uplinks map[netip.Addr]int
			want    string
		}{
			{nil, "d0"},
			{map[netip.Addr]int{local: index["d1"]}, "d1"},
			{map[netip.Addr]int{netip.MustParseAddr("192.0.2.9"): index["d1"]}, "d0"},
		} {
			b.SetUplinks(step.uplinks)
			want := []string{step.want}
			if diff := cmp.Diff(want, by(func() { check(b.WriteTo(local, remote, make([]byte, 100))) })); diff != "" {
				t.Errorf("WriteTo from %s with uplinks %v: %s", local, step.uplinks, diff)
			}
			if diff := cmp.Diff(want, by(func() { check(b.Send([][]byte{make([]byte, 100)}, ep)) })); diff != "" {
				t.Errorf("Send from %s with uplinks %v: %s", local, step.uplinks, diff)
			}
		}
	}
}
