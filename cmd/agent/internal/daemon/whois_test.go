package daemon

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/testing/protocmp"

	"warren/cmd/agent/internal/local"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

func TestWhoIs(t *testing.T) {
	k := grantsMap()
	desk, gate := k.m.Peers[0], k.m.Peers[1]
	for in, want := range map[string]*pb.WhoIsResponse{
		"100.64.0.2": {Device: "desk", User: "ann", Addresses: []string{"100.64.0.2", "fd00::2"}},
		"fd00::2":    {Device: "desk", User: "ann", Addresses: []string{"100.64.0.2", "fd00::2"}},
		"100.64.0.4": {Device: "gate", Tags: []string{"gateway"}, Addresses: []string{"100.64.0.4"}},
		"100.64.0.1": {Device: "me", User: "bob", Addresses: []string{"100.64.0.1", "fd00::1"}, Self: true},
		"10.2.0.9":   {Gateway: "desk", Route: "10.2.0.0/16"}, // and not ann
		"10.2.3.9":   {Gateway: "gate", Route: "10.2.3.0/24"},
	} {
		got, device, err := k.whoIs(netip.MustParseAddr(in), nil, notUsed)
		if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", in, err, diff)
		}
		if want.GetSelf() != device.IsZero() || strings.HasPrefix(in, "10.2.0") && !device.Equal(desk.Key) || strings.HasPrefix(in, "10.2.3") && !device.Equal(gate.Key) {
			t.Errorf("%s: flows of %s", in, device.Short())
		}
	}
	told := []*pb.UserGroups{{User: "ann", Groups: []string{"group:eng"}}, {User: "bob", Groups: []string{"group:all", "group:ops"}}}
	k.m.Statement = &record.Statement{MapStatement: &pb.MapStatement{Groups: told}}
	gate.Owner = "ann" // but it has tags
	for in, want := range map[string][]string{"100.64.0.2": {"group:eng"}, "100.64.0.1": {"group:all", "group:ops"}, "100.64.0.4": nil, "10.2.0.9": nil} {
		got, _, err := k.whoIs(netip.MustParseAddr(in), nil, notUsed)
		if err != nil || !slices.Equal(got.GetGroups(), want) {
			t.Errorf("%s: groups %q, %v; want %q", in, got.GetGroups(), err, want)
		}
	}
	if m, _, err := k.whoIs(netip.MustParseAddr("9.9.9.9"), nil, notUsed); err == nil || m != nil || !strings.Contains(err.Error(), "9.9.9.9") {
		t.Errorf("nobody's: %v, %v", m, err)
	}
	if _, _, err := newKnown(nil).whoIs(netip.MustParseAddr("9.9.9.9"), nil, notUsed); err == nil {
		t.Error("without a map")
	}
}

func notUsed(netip.Prefix) *record.Device { return nil }

// TestWhoIsBehindPair: of two gateways that carry a CIDR, the flows go through the one in use.
func TestWhoIsBehindPair(t *testing.T) {
	k := grantsMap()
	desk, gate := k.m.Peers[0], k.m.Peers[1]
	route := desk.Routes[0]
	gate.Routes = append(gate.Routes, route)
	for _, used := range []*record.Device{desk, gate} {
		inUse := func(p netip.Prefix) *record.Device {
			if p != route {
				t.Errorf("asked for %s", p)
			}
			return used
		}
		got, device, err := k.whoIs(netip.MustParseAddr("10.2.0.9"), nil, inUse)
		if err != nil || got.GetGateway() != used.Name || !device.Equal(used.Key) {
			t.Errorf("%v, %v, want %s", got, err, used.Name)
		}
	}
}

// TestWhoIsSocket: the socket for services is the group's, answers this one question, and goes away.
func TestWhoIsSocket(t *testing.T) {
	me, err := user.LookupGroupId("0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	d := &daemon{cfg: Config{Socket: filepath.Join(dir, "warren.sock"), WhoIsGroup: me.Name}}
	group, ctx := errgroup.WithContext(t.Context())
	ctx, cancel := context.WithCancel(ctx)
	if err := d.serveWhoIs(ctx, group); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "whois.sock")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	c := local.Dial(path)
	_, err = c.WhoIs(t.Context(), connect.NewRequest(&pb.WhoIsRequest{Address: "x"}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("nonsense: %v", err)
	}
	_, err = c.WhoIs(t.Context(), connect.NewRequest(&pb.WhoIsRequest{Address: "100.64.0.2"}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("while the tunnel is down: %v", err)
	}
	if _, err := c.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{})); connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("another question: %v", err)
	}
	if _, err := c.Down(t.Context(), connect.NewRequest(&pb.DownRequest{})); connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("a command: %v", err)
	}
	cancel()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("afterwards: %v", err)
	}
	// Somebody whom the kernel let through, but who is no member.
	stranger := &whoIsAPI{d: d}
	if _, err := stranger.WhoIs(t.Context(), connect.NewRequest(&pb.WhoIsRequest{})); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("a stranger: %v", err)
	}
	d.cfg.WhoIsGroup = "no-such-group"
	if err := d.serveWhoIs(t.Context(), group); err == nil || !strings.Contains(err.Error(), "--whois-group") {
		t.Errorf("an unknown group: %v", err)
	}
}
