package daemon

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/cmd/agent/internal/sitecheck"
	"warren/cmd/agent/internal/state"
	"warren/internal/ipproto"
	pb "warren/proto/warrenv1"
)

// TestSiteFacts: what is checked is what this device advertises, and CIDRs of others, or the narrowest of those with the target.
func TestSiteFacts(t *testing.T) {
	o := newOffice(t, state.Routing{Site: []string{"10.3.0.0/16"}, Advertise: []string{"192.168.7.0/24", "fd07::/48"}})
	o.self.Routes = prefixes("10.3.0.0/16", "192.168.7.0/24")
	o.use()
	addr := netip.MustParseAddr
	f, err := o.siteFacts(netip.Addr{}, addr("192.168.7.9"))
	if err != nil {
		t.Fatal(err)
	}
	p := netip.MustParsePrefix
	sites := []sitecheck.Site{
		{Prefix: p("10.3.0.0/16"), State: "approved"},
		{Prefix: p("192.168.7.0/24"), State: "approved", Masqueraded: true, Host: addr("192.168.7.9")},
		{Prefix: p("fd07::/48"), State: "untold", Masqueraded: true},
	}
	equal := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	prefix := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	for _, s := range sites {
		found := false
		for _, got := range f.Sites {
			found = found || cmp.Equal(s, got, equal, prefix)
		}
		if !found || len(f.Sites) != len(sites) {
			t.Errorf("%+v is not among %+v", s, f.Sites)
		}
	}
	want := []sitecheck.Remote{{Prefix: p("10.0.0.0/8"), Gateway: "wide"}, {Prefix: p("10.1.0.0/16"), Gateway: "b"}}
	if diff := cmp.Diff(want, f.Remotes, equal, prefix); diff != "" {
		t.Errorf("behind others (-want +got):\n%s", diff)
	}
	f, err = o.siteFacts(addr("10.1.2.3"), netip.Addr{})
	want = []sitecheck.Remote{{Prefix: p("10.1.0.0/16"), Gateway: "b", Host: addr("10.1.2.3")}}
	if diff := cmp.Diff(want, f.Remotes, equal, prefix); diff != "" || err != nil || len(f.Sites) != 2 {
		t.Errorf("%v, %+v, behind others (-want +got):\n%s", err, f.Sites, diff)
	}
	if _, err := o.siteFacts(addr("172.16.0.1"), netip.Addr{}); err == nil || !strings.Contains(err.Error(), "172.16.0.1") {
		t.Errorf("a target that nobody carries: %v", err)
	}
	if _, err := o.siteFacts(netip.Addr{}, addr("10.1.2.3")); err == nil || !strings.Contains(err.Error(), "10.1.2.3") {
		t.Errorf("a host of another site: %v", err)
	}
	o.known = newKnown(nil)
	if _, err := o.siteFacts(netip.Addr{}, netip.Addr{}); err == nil {
		t.Error("facts without a map")
	}
}

// TestUnusedAddresses: the way back is tried from addresses that no host can have.
func TestUnusedAddresses(t *testing.T) {
	f := sitecheck.Facts{Overlay: prefixes("100.64.0.0/16"), Remotes: []sitecheck.Remote{
		{Prefix: netip.MustParsePrefix("10.2.0.0/16")}, {Prefix: netip.MustParsePrefix("10.2.0.8/31")}, {Prefix: netip.MustParsePrefix("fd00::7/128")},
	}}
	want := []netip.Addr{netip.MustParseAddr("100.64.0.0"), netip.MustParseAddr("10.2.0.0")}
	if diff := cmp.Diff(want, unusedAddresses(f), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSiteChecks: an answer is taken once, and only by who asked last.
func TestSiteChecks(t *testing.T) {
	var c siteChecks
	c.answered(1)
	first := c.expect(1)
	second := c.expect(2)
	c.answered(1)
	c.answered(2)
	c.answered(2)
	select {
	case <-first:
		t.Error("an answer that came too late is taken")
	default:
	}
	select {
	case <-second:
	default:
		t.Error("the answer is not taken")
	}
}

func TestSomeFlow(t *testing.T) {
	web, all := grant("web 10.1.0.0/16 10.2.0.0/16 6 443"), grant("all 10.1.7.0/24 10.2.0.0/16 0 0")
	for _, c := range []struct{ src, names, nearest string }{
		{"10.1.0.1", "web (", ""}, {"10.1.7.1", "all", ""}, {"10.9.0.1", "", "the grant all comes closest, but 10.9.0.1 is not among its sources"},
	} {
		names, nearest := someFlow([]*pb.Grant{web, all}, netip.MustParseAddr(c.src), netip.MustParseAddr("10.2.0.1"), ipproto.Flow{Protocol: ipproto.ICMP})
		if got := strings.Join(names, ", "); !strings.HasPrefix(got, c.names) || (got == "") != (c.names == "") || nearest != c.nearest {
			t.Errorf("%s: %q, %q", c.src, got, nearest)
		}
	}
}
