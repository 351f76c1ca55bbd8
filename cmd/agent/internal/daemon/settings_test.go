package daemon

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"warren/cmd/agent/internal/state"
	"warren/internal/unixsock"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

var equalRouting = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty(),
}

func to[T any](v T) *T { return &v }

func list(texts ...string) *pb.TextList { return &pb.TextList{Values: texts} }

// settled is a daemon with routing, and with a session that knows the office's map unless that is nil. It can keep nothing.
func settled(o *office, r state.Routing) *daemon {
	d := &daemon{state: &state.State{Operator: "ann", Name: "self", Up: true, Routing: r}}
	if o != nil {
		d.session = new(session)
		d.session.known.Store(newKnown(o.m))
	}
	return d
}

var (
	root     = unixsock.Caller{}
	somebody = unixsock.Caller{UID: uint32(os.Geteuid()) + 4711}
)

func TestSettingsRefused(t *testing.T) {
	o := newOffice(t, state.Routing{}).use()
	before := state.Routing{
		Advertise: []string{"192.168.10.0/24"}, Site: []string{"10.9.0.0/16"}, Probe: []netip.Addr{netip.MustParseAddr("10.9.0.1")},
		PreferLAN: prefixes("10.0.0.0/8"), Priority: 7, RefuseRoutes: true,
	}
	const bad, not = connect.CodeInvalidArgument, connect.CodeFailedPrecondition
	for name, c := range map[string]struct {
		s      *pb.Settings
		caller unixsock.Caller
		code   connect.Code
		says   string
	}{
		"name":                    {&pb.Settings{Name: to("no name!")}, root, bad, "no name!"},
		"operator by an operator": {&pb.Settings{Operator: to("")}, somebody, connect.CodePermissionDenied, "only root"},
		"operator unknown":        {&pb.Settings{Operator: to("nobody-of-that-name")}, root, not, "nobody-of-that-name"},
		"host bits":               {&pb.Settings{Advertise: list("192.168.10.1/24")}, root, bad, "192.168.10.0/24"},
		"no CIDR":                 {&pb.Settings{Site: list("office")}, root, bad, "office"},
		"default route":           {&pb.Settings{Advertise: list("0.0.0.0/0")}, root, bad, "--advertise-exit"},
		"too wide":                {&pb.Settings{Advertise: list("10.0.0.0/7")}, root, bad, "10.0.0.0/7"},
		"overlay":                 {&pb.Settings{Site: list("100.64.0.0/24")}, root, bad, "100.64.0.0"},
		"twice":                   {&pb.Settings{Site: list("10.9.0.0/16", "10.9.0.0/16")}, root, bad, "10.9.0.0/16"},
		"twice with what is set":  {&pb.Settings{Site: list("192.168.10.0/24")}, root, bad, "192.168.10.0/24"},
		"lengths":                 {&pb.Settings{Advertise: list("192.168.1.0/24=10.77.0.0/16")}, root, bad, "10.77.0.0/16"},
		"priority 0":              {&pb.Settings{Priority: to(uint32(0))}, root, bad, "priority 0"},
		"priority 256":            {&pb.Settings{Priority: to(uint32(256))}, root, bad, "priority 256"},
		"probe elsewhere":         {&pb.Settings{Probe: list("10.8.0.1")}, root, bad, "10.8.0.1"},
		"probe no address":        {&pb.Settings{Probe: list("printer")}, root, bad, `"printer"`},
		"probe with a zone":       {&pb.Settings{Probe: list("fe80::1%eth0")}, root, bad, "fe80::1%eth0"},
		"probe of CIDR dropped":   {&pb.Settings{Site: list(), Probe: list("10.9.0.1")}, root, bad, "10.9.0.1"},
		"prefer no CIDR":          {&pb.Settings{PreferLan: list("10.0.0.0")}, root, bad, `"10.0.0.0"`},
		"prefer with host bits":   {&pb.Settings{PreferLan: list("10.0.0.1/8")}, root, bad, "write 10.0.0.0/8"},
		"exit of an exit":         {&pb.Settings{AdvertiseExit: to(true), ExitNode: to("auto")}, root, bad, "turn one off"},
		"exit unknown":            {&pb.Settings{ExitNode: to("nowhere")}, root, not, `"nowhere"; exit nodes are exit`},
		"exit that is none":       {&pb.Settings{ExitNode: to("plain")}, root, not, "plain is no exit node for this device; those are exit"},
		"good and bad":            {&pb.Settings{AcceptRoutes: to(true), KillSwitch: to(true), Advertise: list(), ExitNode: to("nowhere")}, root, not, "nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			d := settled(o, before)
			err := d.set(t.Context(), c.caller, c.s) // which would fail to keep anything
			if connect.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %s and %q", err, c.code, c.says)
			}
			if diff := cmp.Diff(before, d.state.Routing, equalRouting); diff != "" || d.state.Name != "self" || d.state.Operator != "ann" {
				t.Errorf("changed all the same: %+v\n%s", d.state, diff)
			}
		})
	}
}

func TestSettingsTaken(t *testing.T) {
	o := newOffice(t, state.Routing{}).use()
	before := state.Routing{Advertise: []string{"192.168.10.0/24"}, ExitNode: "gone", KillSwitch: true, Probe: []netip.Addr{netip.MustParseAddr("192.168.10.1")}}
	with := func(change func(*state.Routing)) state.Routing {
		r := before
		change(&r)
		return r
	}
	for name, c := range map[string]struct {
		s    *pb.Settings
		want state.Routing
	}{
		"none":                               {nil, before},
		"nothing":                            {&pb.Settings{}, before},
		"one, though the exit node has gone": {&pb.Settings{Priority: to(uint32(255))}, with(func(r *state.Routing) { r.Priority = 255 })},
		"routes refused":                     {&pb.Settings{AcceptRoutes: to(false)}, with(func(r *state.Routing) { r.RefuseRoutes = true })},
		"lists emptied":                      {&pb.Settings{Advertise: list(), Probe: list()}, with(func(r *state.Routing) { r.Advertise, r.Probe = nil, nil })},
		"probe of the LAN's side": {
			&pb.Settings{Advertise: list("192.168.1.0/24=10.77.1.0/24"), Probe: list("192.168.1.9")},
			with(func(r *state.Routing) {
				r.Advertise, r.Probe = []string{"192.168.1.0/24=10.77.1.0/24"}, []netip.Addr{netip.MustParseAddr("192.168.1.9")}
			}),
		},
		"exit node by name":  {&pb.Settings{ExitNode: to("exit"), ExitAllowLan: to(true)}, with(func(r *state.Routing) { r.ExitNode, r.ExitAllowLAN = "exit", true })},
		"exit node auto":     {&pb.Settings{ExitNode: to("auto")}, with(func(r *state.Routing) { r.ExitNode = "auto" })},
		"exit for an exit":   {&pb.Settings{ExitNode: to(""), AdvertiseExit: to(true)}, with(func(r *state.Routing) { r.ExitNode, r.AdvertiseExit = "", true })},
		"kill switch off":    {&pb.Settings{KillSwitch: to(false)}, with(func(r *state.Routing) { r.KillSwitch = false })},
		"networks preferred": {&pb.Settings{PreferLan: list("10.0.0.0/8", "fd00::/8")}, with(func(r *state.Routing) { r.PreferLAN = prefixes("10.0.0.0/8", "fd00::/8") })},
		"sites":              {&pb.Settings{Site: list("10.9.0.0/16")}, with(func(r *state.Routing) { r.Site = []string{"10.9.0.0/16"} })},
	} {
		t.Run(name, func(t *testing.T) {
			d := settled(o, before)
			next, err := d.withSettings(root, c.s, true)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, next.Routing, equalRouting); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, d.state.Routing, equalRouting); diff != "" {
				t.Errorf("what is in use has changed:\n%s", diff)
			}
		})
	}
}

// TestSettingsUnknown: without a map nothing is known of the network, and what only a network makes wrong is taken.
func TestSettingsUnknown(t *testing.T) {
	d := settled(nil, state.Routing{})
	for _, s := range []*pb.Settings{{ExitNode: to("nowhere")}, {Site: list("100.64.0.0/24")}} {
		if _, err := d.withSettings(root, s, true); err != nil {
			t.Errorf("%v: %v", s, err)
		}
	}
	d.session = new(session) // that waits for its first map
	d.session.known.Store(newKnown(nil))
	if _, err := d.withSettings(root, &pb.Settings{ExitNode: to("nowhere")}, true); err != nil {
		t.Error(err)
	}
}

// TestSettingsOfNobody: an operator who is named, and a name, are taken over.
func TestSettingsOfNobody(t *testing.T) {
	d := settled(nil, state.Routing{})
	next, err := d.withSettings(root, &pb.Settings{Operator: to(""), Name: to("desk")}, true)
	if err != nil || next.Operator != "" || next.Name != "desk" || d.state.Operator != "ann" {
		t.Errorf("%+v, %v; in use is %+v", next, err, d.state)
	}
}

// TestKillSwitchDown: without the tunnel nothing at all would leave.
func TestKillSwitchDown(t *testing.T) {
	d := settled(nil, state.Routing{})
	if _, err := d.withSettings(root, &pb.Settings{KillSwitch: to(true)}, false); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("%v", err)
	}
	if _, err := d.withSettings(root, &pb.Settings{KillSwitch: to(false)}, false); err != nil {
		t.Error(err)
	}
}

// TestNoExitNode says what is to be done, whatever is missing.
func TestNoExitNode(t *testing.T) {
	o := newOffice(t, state.Routing{})
	var routes []record.Route
	for _, r := range o.m.Statement.Routes {
		if r.Prefix.Bits() > 0 {
			routes = append(routes, r)
		}
	}
	o.m.Statement.Routes = routes
	for text, want := range map[string]string{
		"plain":   "plain is no exit node for this device, nor is any other; an exit node needs --advertise-exit",
		"nowhere": `no peer is called "nowhere", and there is no exit node yet`,
	} {
		if _, err := newKnown(o.m).exitNode(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestRoutingProblem: without a session nothing is said of the host, and with one what is in the way now.
func TestRoutingProblem(t *testing.T) {
	o := newOffice(t, state.Routing{}).use()
	d := settled(nil, state.Routing{})
	if err := d.routingProblem(); err != nil {
		t.Error(err)
	}
	d.session = &session{networks: o.networks}
	o.host.refuses = os.ErrPermission
	o.networks.reapply()
	if err := d.routingProblem(); err != os.ErrPermission {
		t.Errorf("%v", err)
	}
	o.host.refuses = nil
	if err := d.routingProblem(); err != nil {
		t.Errorf("what was in the way is gone: %v", err)
	}
}
