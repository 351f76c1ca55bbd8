package state

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"warren/proto/record"
)

var comparers = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func TestRoutingSaved(t *testing.T) {
	want := Routing{
		Advertise: []string{"192.168.10.0/24", "192.168.1.0/24=10.77.1.0/24"}, Site: []string{"10.1.0.0/16"}, AdvertiseExit: true, Priority: 200,
		Probe: []netip.Addr{netip.MustParseAddr("10.1.0.1")}, RefuseRoutes: true, PreferLAN: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		ExitNode: "auto", ExitAllowLAN: true, KillSwitch: true,
	}
	d := open(t, t.TempDir())
	s := enrolled(t)
	s.Routing = want
	if err := d.Save(s); err != nil {
		t.Fatal(err)
	}
	got, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.Routing, comparers); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	kept, err := d.Forget(got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Routing{KillSwitch: true}, kept.Routing, comparers); diff != "" {
		t.Errorf("after leaving (-want +got):\n%s", diff)
	}
}

// TestOlderLayout: a state from before there was routing is read as it was meant.
func TestOlderLayout(t *testing.T) {
	d := open(t, t.TempDir())
	file := filepath.Join(filepath.Dir(d.MapFile()), fileName)
	if err := os.WriteFile(file, []byte(`{"version":1,"up":true,"operator":"ann"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	if !s.Up || s.Operator != "ann" || s.Routing.Rank() != record.DefaultPriority || s.Routing.RefuseRoutes || s.Routing.KillSwitch {
		t.Errorf("got %+v", s)
	}
}

func TestDamagedRouting(t *testing.T) {
	d := open(t, t.TempDir())
	file := filepath.Join(filepath.Dir(d.MapFile()), fileName)
	for _, text := range []string{
		`{"version":2,"routing":{"advertise":["192.168.10.1/24"]}}`,
		`{"version":2,"routing":{"site":["0.0.0.0/0"]}}`,
		`{"version":2,"routing":{"probe":["x"]}}`,
		`{"version":2,"routing":{"priority":256}}`,
		`{"version":2,"routing":{"surprise":1}}`,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := d.Load(); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %+v, %v; want damaged", text, s, err)
		}
	}
}
