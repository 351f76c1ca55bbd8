package daemon

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"warren/cmd/agent/internal/state"
	"warren/tunnel/gateway/carry"
)

// TestVRRPFile: the file says at once that a gateway is not well, and that it is well again only after a while. Devices that are no gateways have none.
func TestVRRPFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vrrp")
	log, now := slog.New(slog.DiscardHandler), time.Unix(1000, 0)
	check := func(what, want string) {
		t.Helper()
		b, err := os.ReadFile(path)
		if string(b) != want || (want == "") != os.IsNotExist(err) {
			t.Errorf("%s: the file says %q, %v, want %q", what, b, err, want)
		}
	}
	var none *vrrp
	none.tell(true, now)
	v := newVRRP(path, log)
	v.tell(false, now)
	check("no gateway", "")
	v.tell(true, now)
	check("well from the start", "0\n")
	v.tell(false, now)
	check("not well", "1\n")
	for _, c := range []struct {
		after time.Duration
		well  bool
		want  string
	}{{1, true, "1\n"}, {4, true, "1\n"}, {5, false, "1\n"}, {6, true, "1\n"}, {10, true, "1\n"}, {11, true, "0\n"}, {12, false, "1\n"}} {
		v.tell(c.well, now.Add(c.after*time.Second))
		check(c.after.String(), c.want)
	}
	v.tell(true, now.Add(20*time.Second))
	v.tell(true, now.Add(30*time.Second))
	check("well again", "0\n")
	v = newVRRP(path, log)
	check("the next run", "1\n")
	v.tell(true, now)
	check("the next run, not settled", "1\n")
	// It can be written again after it could not.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	v = newVRRP(filepath.Join(t.TempDir(), "gone", "vrrp"), log)
	v.tell(true, now)
	if err := os.Mkdir(filepath.Dir(v.path), 0o700); err != nil {
		t.Fatal(err)
	}
	v.tell(true, now)
	path = v.path
	check("the directory is there", "0\n")
}

// TestFit: a gateway is fit that reaches each LAN, by what it knows, and any gateway that it uses.
func TestFit(t *testing.T) {
	o := newOffice(t, state.Routing{Site: []string{"10.3.0.0/16"}, Probe: []netip.Addr{netip.MustParseAddr("10.3.0.9")}})
	if o.use(); o.fit() {
		t.Error("a device that carries nothing is fit")
	}
	o.self.Routes = prefixes("10.3.0.0/16")
	if o.use(); !o.fit() {
		t.Error("a gateway of which nothing bad is known is not fit")
	}
	path := filepath.Join(t.TempDir(), "vrrp")
	o.vrrp = newVRRP(path, o.log)
	o.noteVRRP()
	o.leave()
	if b, err := os.ReadFile(path); string(b) != vrrpSick {
		t.Errorf("after it has left the file says %q, %v", b, err)
	}
	o.carry(carry.SetCarried{})
	if o.fit() {
		t.Error("a gateway that carries nothing any more is fit")
	}
}
