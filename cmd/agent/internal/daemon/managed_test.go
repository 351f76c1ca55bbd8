package daemon

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"warren/cmd/agent/internal/state"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// everySetting has each setting with a value that is not the usual one.
func everySetting() *pb.Settings {
	return &pb.Settings{
		Name: proto.String("gw"), Operator: proto.String("ann"), Advertise: list("10.1.0.0/16"), Site: list("10.2.0.0/16"), AdvertiseExit: proto.Bool(true),
		Priority: proto.Uint32(7), Probe: list("10.1.0.9"), AcceptRoutes: proto.Bool(false), PreferLan: list("10.3.0.0/16"), ExitAllowLan: proto.Bool(true),
		KillSwitch: proto.Bool(true), ExitNode: proto.String(""),
	}
}

func managed(s *pb.Settings) Managed {
	return Managed{Settings: s, Origin: func(flag string) string { return "agent.toml:" + flag }}
}

var sameState = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmp.Comparer(func(a, b key.DevicePrivate) bool { return a.IsZero() == b.IsZero() }),
	cmp.Comparer(func(a, b key.NodePrivate) bool { return a.IsZero() == b.IsZero() }), cmpopts.EquateEmpty()}

// TestManagedOver: what is managed counts, of all the rest what is stored; and what is then stored again is as it was, setting by setting.
func TestManagedOver(t *testing.T) {
	stored := &state.State{Up: true, Port: 4, Name: "old", Operator: "bob", Routing: state.Routing{
		Advertise: []string{"192.168.1.0/24"}, Priority: 3, Probe: []netip.Addr{netip.MustParseAddr("192.168.1.1")}, ExitAllowLAN: true,
		PreferLAN: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}, RefuseRoutes: true, KillSwitch: true,
	}}
	all := everySetting()
	all.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		one := new(pb.Settings)
		one.ProtoReflect().Set(f, v)
		m := managed(one)
		over := m.over(stored, true)
		if diff := cmp.Diff(stored, m.under(over, stored), sameState); diff != "" {
			t.Errorf("%s: stored again: %s", f.Name(), diff)
		}
		name := settingFlag(f)
		changed := settingTexts(over)
		for what, text := range settingTexts(stored) {
			if what != name && changed[what] != text {
				t.Errorf("%s has changed %s to %s", name, what, changed[what])
			}
		}
		if want := settingTexts(managed(one).over(new(state.State), true))[name]; changed[name] != want {
			t.Errorf("%s is %s, want %s", name, changed[name], want)
		}
		return true
	})
	whole := managed(all)
	over := whole.over(new(state.State), true)
	want := map[string]string{
		"name": "gw", "operator": "ann", "advertise": "[10.1.0.0/16]", "site": "[10.2.0.0/16]", "advertise-exit": "true", "priority": "7", "probe": "[10.1.0.9]",
		"accept-routes": "false", "prefer-lan": "[10.3.0.0/16]", "exit-node": "", "exit-allow-lan": "true", "kill-switch": "true",
	}
	if diff := cmp.Diff(want, settingTexts(over)); diff != "" {
		t.Error(diff)
	}
	if got := settingNames(); len(got) != len(want) {
		t.Errorf("settings %q", got)
	}
	if (Managed{}).over(stored, false).Name != "old" || (Managed{}).under(over, stored).Name != "gw" {
		t.Error("where nothing is managed something is changed")
	}
}

// TestManagedMeetsStored: what is stored and contradicts what is managed gives way.
func TestManagedMeetsStored(t *testing.T) {
	for name, test := range map[string]struct {
		stored  state.Routing
		managed *pb.Settings
		kill    bool
		want    map[string]string
	}{
		"exit node here, another stored": {state.Routing{ExitNode: "far"}, &pb.Settings{AdvertiseExit: proto.Bool(true)}, false, map[string]string{"exit-node": "", "advertise-exit": "true"}},
		"uses one, is stored as one":     {state.Routing{AdvertiseExit: true}, &pb.Settings{ExitNode: proto.String("far")}, false, map[string]string{"exit-node": "far", "advertise-exit": "false"}},
		"lists that overlap":             {state.Routing{Site: []string{"10.1.0.0/16"}}, &pb.Settings{Advertise: list("10.1.2.0/24")}, false, map[string]string{"advertise": "[10.1.2.0/24]", "site": "[]"}},
		"lists that do not":              {state.Routing{Site: []string{"10.1.0.0/16"}}, &pb.Settings{Advertise: list("10.2.0.0/16")}, false, map[string]string{"advertise": "[10.2.0.0/16]", "site": "[10.1.0.0/16]"}},
		"kill switch before a tunnel":    {state.Routing{}, &pb.Settings{KillSwitch: proto.Bool(true)}, false, map[string]string{"kill-switch": "false"}},
		"kill switch with a tunnel":      {state.Routing{}, &pb.Settings{KillSwitch: proto.Bool(true)}, true, map[string]string{"kill-switch": "true"}},
		"kill switch lifted":             {state.Routing{KillSwitch: true}, &pb.Settings{KillSwitch: proto.Bool(false)}, true, map[string]string{"kill-switch": "false"}},
	} {
		got := settingTexts(managed(test.managed).over(&state.State{Routing: test.stored}, test.kill))
		for what, text := range test.want {
			if got[what] != text {
				t.Errorf("%s: %s is %s, want %s", name, what, got[what], text)
			}
		}
	}
}

// TestManagedRefuses: nobody changes what is managed, but to say the same again is fine.
func TestManagedRefuses(t *testing.T) {
	m := managed(&pb.Settings{Advertise: list("10.1.0.0/16"), KillSwitch: proto.Bool(true), ExitNode: proto.String("")})
	for _, s := range []*pb.Settings{{}, {Name: proto.String("x")}, {Advertise: list("10.1.0.0/16")}, {KillSwitch: proto.Bool(true), Priority: proto.Uint32(1)}} {
		if err := m.refuse(s); err != nil {
			t.Errorf("%v: %v", s, err)
		}
	}
	for want, s := range map[string]*pb.Settings{
		"advertise is set by agent.toml:advertise": {Advertise: list()}, "kill-switch is set by agent.toml:kill-switch": {KillSwitch: proto.Bool(false)},
		"exit-node is set by agent.toml:exit-node": {ExitNode: proto.String("x")},
	} {
		if err := m.refuse(s); connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", s, err, want)
		}
	}
	if err := m.mayLiftKillSwitch(); err == nil || !strings.Contains(err.Error(), "agent.toml:kill-switch") {
		t.Errorf("down: %v", err)
	}
	if err := (Managed{}).mayLiftKillSwitch(); err != nil {
		t.Error(err)
	}
}

// TestSettingsShown: each is shown with its value and where it was set.
func TestSettingsShown(t *testing.T) {
	stored := &state.State{Name: "old", Routing: state.Routing{ExitNode: "far"}}
	d := &daemon{stored: stored, state: stored, cfg: Config{
		Managed: managed(&pb.Settings{Name: proto.String("gw"), AcceptRoutes: proto.Bool(true)}),
		Options: []Option{{"port", "7", "WARREN_PORT"}, {"tun", "warren0", ""}},
	}}
	d.state = d.effective(stored)
	shown := map[string]string{}
	for i, s := range d.settings() {
		shown[s.GetName()] = s.GetValue() + " by " + s.GetOrigin()
		if all := d.settings(); i > 0 && all[i-1].GetName() >= s.GetName() {
			t.Errorf("%s comes before %s", all[i-1].GetName(), s.GetName())
		}
	}
	for name, want := range map[string]string{
		"name": "gw by agent.toml:name", "accept-routes": "true by agent.toml:accept-routes", "exit-node": "far by warren set", "priority": "100 by ",
		"port": "7 by WARREN_PORT", "tun": "warren0 by ",
	} {
		if shown[name] != want {
			t.Errorf("%s: %q, want %q", name, shown[name], want)
		}
	}
}

// TestFind: the token itself goes before files, of which the first that is there counts.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	if f := (Join{Files: []TokenFile{{dir + "/none", true}}}).find(); f.text != "" || f.err != nil {
		t.Errorf("no file: %+v", f)
	}
	if f := (Join{Text: "wrn1x", Origin: "WARREN_TOKEN", Files: []TokenFile{{dir, true}}}).find(); f.err == nil || f.origin != "WARREN_TOKEN" || f.remove != "" {
		t.Errorf("itself: %+v", f)
	}
	loose := filepath.Join(dir, "token")
	if err := os.WriteFile(loose, []byte("wrn1y"), 0o604); err != nil {
		t.Fatal(err)
	}
	if f := (Join{Files: []TokenFile{{dir + "/none", true}, {loose, false}, {dir, true}}}).find(); f.text != "wrn1y" || f.mode != 0o604 || f.remove != "" || f.err == nil {
		t.Errorf("a file: %+v", f)
	}
	if f := (Join{Files: []TokenFile{{dir + "/none", true}, {dir, true}}}).find(); f.err == nil || f.origin != dir || f.remove != dir {
		t.Errorf("a directory: %+v", f)
	}
}
