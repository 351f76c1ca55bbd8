package client_test

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	"warren/coord/client"
	"warren/coord/domain"
	"warren/coord/reason"
	"warren/proto/cidr"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// What a device advertises comes to be in its own record once it is approved, and until then in its statement as waiting.
func TestAdvertise(t *testing.T) {
	n := startNetwork(t)
	tok := n.token(domain.TokenWish{Reusable: true})
	gw, err := n.enrol(tok, "gw")
	if err != nil {
		t.Fatal(err)
	}
	gw.watch(tok, "")
	routes, err := cidr.Parse([]string{"10.1.0.0/16", "192.168.1.0/24=10.77.1.0/24"}, []string{"10.2.0.0/16"}, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // telling it again changes nothing
		if err := gw.client.Advertise(t.Context(), routes, 200); err != nil {
			t.Fatal(err)
		}
	}
	gw.await("what waits", func() bool { return gw.m != nil && len(gw.m.Statement.GetWaitingRoutes()) == 5 })
	r, err := n.admin.ApproveRoutes(t.Context(), connect.NewRequest(&pb.ApproveRoutesRequest{Device: "gw"}))
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]*pb.Route{}
	for _, m := range r.Msg.GetRoutes() {
		p, err := record.PrefixFromProto(m.GetPrefix())
		if err != nil || m.GetPriority() != 200 || !m.GetAdvertised() || m.GetState() != "approved" {
			t.Errorf("%v, %v", m, err)
		}
		kinds[p.String()] = m
	}
	if !kinds["10.2.0.0/16"].GetSite() || kinds["10.1.0.0/16"].GetSite() || !kinds["::/0"].GetExit() || len(kinds["10.77.1.0/24"].GetLan().GetAddress()) != 4 {
		t.Errorf("the coordinator has %v", kinds)
	}
	gw.await("its own record", func() bool {
		return len(gw.m.Self.Routes) == 5 && len(gw.m.Statement.GetWaitingRoutes()) == 0
	})
	version := gw.m.Self.Version
	if err := gw.client.Advertise(t.Context(), routes, 200); err != nil {
		t.Fatal(err)
	}
	bad := []cidr.Route{{Kind: cidr.Masqueraded, Prefix: netip.MustParsePrefix("10.0.0.0/7"), LAN: netip.MustParsePrefix("10.0.0.0/7")}}
	if err := gw.client.Advertise(t.Context(), bad, 1); !errors.Is(err, client.ErrRefused) || !strings.Contains(err.Error(), "10.0.0.0/7 is too wide") {
		t.Errorf("too wide: %v", err)
	}
	if err := gw.client.Advertise(t.Context(), nil, 1); err != nil {
		t.Fatal(err)
	}
	gw.await("nothing carried", func() bool { return len(gw.m.Self.Routes) == 0 })
	if got := gw.m.Self.Version.Counter; got != version.Counter+1 {
		t.Errorf("version %d after %d", got, version.Counter)
	}
	n.stop()
	if err := gw.client.Advertise(t.Context(), routes, 200); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("while the coordinator is away: %v", err)
	}
	n.start()
}

// A coordinator from before there were routes says that it knows no such change, and a person is told what to do.
func TestAdvertiseToOldCoordinator(t *testing.T) {
	n := &network{t: t, dir: t.TempDir(), addr: "127.0.0.1:0"}
	var applied atomic.Bool
	n.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/Apply") {
				next.ServeHTTP(w, r)
				return
			}
			applied.Store(true)
			e := connect.NewError(connect.CodeInvalidArgument, errors.New("malformed request: no change that this coordinator knows"))
			e.Meta().Set(reason.Header, "malformed")
			_ = connect.NewErrorWriter().Write(w, r, e)
		})
	}
	n.start()
	t.Cleanup(func() { n.stop() })
	tok := n.token(domain.TokenWish{})
	gw, err := n.enrol(tok, "gw")
	if err != nil {
		t.Fatal(err)
	}
	stop := gw.watch(tok, "")
	gw.await("a map", func() bool { return gw.m != nil })
	err = gw.client.Advertise(t.Context(), cidr.Exits(), 1)
	if !errors.Is(err, client.ErrOldCoordinator) || !strings.Contains(err.Error(), "upgrade warren-coordinator") {
		t.Errorf("an old coordinator: %v", err)
	}
	stop()
	if !applied.Load() {
		t.Error("nothing was asked of it")
	}
}
