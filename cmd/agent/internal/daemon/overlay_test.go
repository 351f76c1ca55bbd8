package daemon

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/cmd/agent/internal/forward"
	"warren/cmd/agent/internal/proxy"
	"warren/cmd/agent/internal/state"
	pb "warren/proto/warrenv1"
	"warren/tunnel/netstack"
	"warren/tunnel/router"
)

// overlayOf is the network of an office, where TCP port 80 is granted everywhere, and the names that the host's resolver knows.
func overlayOf(t *testing.T, o *office, names map[string]string) *overlay {
	t.Helper()
	st, err := netstack.New(netstack.Config{MTU: defaultMTU})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	h := &userspaceHost{stack: st}
	if err := h.Apply(router.State{Addresses: hostPrefixes(o.self.Addresses), MTU: 1300}); err != nil {
		t.Fatal(err)
	}
	if mtu, err := h.TUN().MTU(); mtu != 1300 || err != nil {
		t.Errorf("MTU %d, %v", mtu, err)
	}
	everywhere := []*pb.Prefix{{Address: make([]byte, 4)}, {Address: make([]byte, 16)}}
	o.m.Statement.Grants = []*pb.Grant{{Id: "web", Sources: everywhere, Destinations: everywhere, Flows: []*pb.Flow{{Protocol: 6, FirstPort: 80, LastPort: 80}}}}
	o.use()
	s := &session{router: h, networks: o.networks, self: o.self}
	s.known.Store(newKnown(o.m))
	return &overlay{current: func() *session { return s }, lookUp: func(_ context.Context, name string) ([]netip.Addr, error) {
		if a, ok := names[name]; ok {
			return []netip.Addr{netip.MustParseAddr(a)}, nil
		}
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}}
}

// TestOverlay: peers by name and address and what is behind gateways is reached as far as the policy grants it, and nothing else.
func TestOverlay(t *testing.T) {
	o := overlayOf(t, newOffice(t, state.Routing{}), map[string]string{"wiki.corp.example": "10.1.2.3", "www.example": "203.0.113.1"})
	for _, tc := range []struct {
		host string
		port uint16
		want string // an address, or nothing
		err  error
	}{
		{"plain", 80, "100.64.0.6", nil},
		{"PLAIN.", 80, "100.64.0.6", nil},
		{"100.64.0.6", 80, "100.64.0.6", nil},
		{"::ffff:100.64.0.6", 80, "100.64.0.6", nil},
		{"self", 22, "100.64.0.1", nil},
		{"10.1.2.3", 80, "10.1.2.3", nil},
		{"wiki.corp.example", 80, "10.1.2.3", nil},
		{"plain", 22, "", proxy.ErrPolicy},
		{"10.1.2.3", 443, "", proxy.ErrPolicy},
		{"100.64.9.9", 80, "", proxy.ErrUnknown},
		{"nobody", 80, "", proxy.ErrUnknown},
		{"203.0.113.1", 80, "", proxy.ErrOutside},
		{"www.example", 80, "", proxy.ErrOutside},
		{"127.0.0.1", 80, "", proxy.ErrOutside},
		{"2001:db8::1", 80, "", proxy.ErrOutside},
	} {
		got, err := o.Resolve(t.Context(), "tcp", tc.host, tc.port)
		var want []netip.AddrPort
		if tc.want != "" {
			want = []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(tc.want), tc.port)}
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" || !errors.Is(err, tc.err) {
			t.Errorf("%s port %d: %v, %v", tc.host, tc.port, got, err)
		}
	}
	if _, err := o.Resolve(t.Context(), "udp", "plain", 80); !errors.Is(err, proxy.ErrPolicy) {
		t.Errorf("UDP where TCP is granted: %v", err)
	}
	if _, err := o.Dial(t.Context(), forward.TCP, "www.example", 80); !errors.Is(err, proxy.ErrOutside) {
		t.Errorf("a forward to elsewhere: %v", err)
	}
	down := &overlay{current: func() *session { return nil }}
	if _, err := down.Resolve(t.Context(), "tcp", "plain", 80); !errors.Is(err, proxy.ErrDown) {
		t.Errorf("without a session: %v", err)
	}
	if _, err := down.ListenUDP(false); !errors.Is(err, proxy.ErrDown) {
		t.Errorf("without a session: %v", err)
	}
}

// TestOverlayExit: with an exit node everything goes, and the host's resolver is not asked, whatever becomes of the exit node.
func TestOverlayExit(t *testing.T) {
	office := newOffice(t, state.Routing{ExitNode: "exit"})
	o := overlayOf(t, office, nil)
	o.lookUp = func(_ context.Context, name string) ([]netip.Addr, error) {
		t.Errorf("the host's resolver was asked for %s", name)
		return nil, errors.New("no")
	}
	if got, err := o.Resolve(t.Context(), "tcp", "203.0.113.1", 80); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := o.Resolve(ended, "tcp", "www.example", 80); err == nil {
		t.Errorf("resolved to %v by nobody", got)
	}
	office.set(state.Routing{ExitNode: "gone"})
	if _, err := o.Resolve(t.Context(), "tcp", "www.example", 80); !errors.Is(err, proxy.ErrDown) {
		t.Errorf("without the exit node: %v", err)
	}
	if _, err := o.Resolve(t.Context(), "tcp", "203.0.113.1", 80); !errors.Is(err, proxy.ErrOutside) && !errors.Is(err, proxy.ErrDown) {
		t.Errorf("without the exit node: %v", err)
	}
}

// TestRoutingUserspace: what needs an interface is refused, and what does not is not.
func TestRoutingUserspace(t *testing.T) {
	for _, r := range []state.Routing{{Advertise: []string{"10.1.0.0/16"}}, {Site: []string{"10.1.0.0/16"}}, {AdvertiseExit: true}, {KillSwitch: true}} {
		if checkRoutingUserspace(&r) == nil {
			t.Errorf("%+v was taken", r)
		}
	}
	if err := checkRoutingUserspace(&state.Routing{ExitNode: "auto", RefuseRoutes: true, Priority: 7}); err != nil {
		t.Error(err)
	}
}
