package system

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	pb "warren/proto/warrenv1"
)

// member makes a device of a user.
func member(t *testing.T, ctx context.Context, n *warrennet.Network, user string, nat lab.NAT) *warrennet.Device {
	t.Helper()
	d, err := n.Device(ctx, user+"s", nat)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s:\n%s", d.Name, d.Daemon().Log())
		}
	})
	token, err := n.Token(ctx, "--user", user)
	must(t, err)
	must(t, d.Up(ctx, token))
	return d
}

// setPolicy puts a policy into force, with more arguments for "policy set".
func setPolicy(t *testing.T, ctx context.Context, n *warrennet.Network, text string, args ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.hujson")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	must(t, n.Admin(ctx, nil, append([]string{"policy", "set", file}, args...)...))
}

// flow is an established TCP connection through the tunnel, the other end of which sends back what it gets.
type flow struct {
	net.Conn
	last atomic.Int64 // when the last byte came back, Unix nanoseconds
}

func establish(t *testing.T, ctx context.Context, from, to *warrennet.Device) *flow {
	t.Helper()
	st, err := to.Status(ctx)
	must(t, err)
	l, err := to.Listen(net.JoinHostPort(st.Self.Addresses[0], "0"))
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		if c, err := l.Accept(); err == nil {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}
	}()
	c, err := from.Dial(ctx, "tcp", l.Addr().String())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	f := &flow{Conn: c}
	back := make(chan struct{})
	go func() {
		b := make([]byte, 4096)
		for first := true; ; first = false {
			if _, err := c.Read(b); err != nil {
				return
			}
			f.last.Store(time.Now().UnixNano())
			if first {
				close(back)
			}
		}
	}()
	_, err = c.Write([]byte{0})
	must(t, err)
	select {
	case <-back:
	case <-ctx.Done():
		t.Fatalf("nothing came back from %s", to.Name)
	}
	return f
}

func (f *flow) lastBack() time.Time { return time.Unix(0, f.last.Load()) }

// keepTalking sends on all flows, often, until then.
func keepTalking(t *testing.T, until time.Time, flows ...*flow) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for now := range tick.C {
		if now.After(until) {
			return
		}
		for _, f := range flows {
			must(t, f.SetWriteDeadline(now.Add(time.Second)))
			_, err := f.Write([]byte{0})
			must(t, err)
		}
	}
}

const annReachesBoth = `{"grants": [
	{"name": "bob", "src": ["ann"], "dst": ["bob"], "ip": ["tcp:*", "icmp:*"]},
	{"name": "cat", "src": ["ann"], "dst": ["cat"], "ip": ["tcp:*"]},
]}`

// TestPolicyCutsFlows: a flow that a new policy forbids ends within a second, whether the devices still see each other or not, and other flows
// do not notice.
func TestPolicyCutsFlows(t *testing.T) {
	for name, next := range map[string]string{
		"grant narrowed": strings.Replace(annReachesBoth, `"tcp:*", "icmp:*"`, `"icmp:*"`, 1),
		"grant gone":     strings.Replace(annReachesBoth, `"dst": ["bob"]`, `"dst": ["dan"]`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, n := start(t)
			setPolicy(t, ctx, n, annReachesBoth)
			ann, bob, cat := member(t, ctx, n, "ann", lab.Easy), member(t, ctx, n, "bob", lab.Easy), member(t, ctx, n, "cat", lab.None)
			for _, d := range []*warrennet.Device{bob, cat} {
				_, err := ann.Await(ctx, "aware of "+d.Name, func(s *warrennet.Status) bool { return s.Peer(d.Name) != nil })
				must(t, err)
			}
			cut, stays := establish(t, ctx, ann, bob), establish(t, ctx, ann, cat)
			keepTalking(t, time.Now().Add(300*time.Millisecond), cut, stays)
			setPolicy(t, ctx, n, next)
			set := time.Now()
			keepTalking(t, set.Add(2*time.Second), cut, stays)
			late := cut.lastBack().Sub(set)
			t.Logf("the last byte of the forbidden flow came %s after the policy was set", late)
			if late > time.Second {
				t.Errorf("the forbidden flow went on for %s", late)
			}
			if silent := time.Since(stays.lastBack()); silent > 500*time.Millisecond {
				t.Errorf("the other flow has been silent for %s", silent)
			}
			st, err := ann.Status(ctx)
			must(t, err)
			if sees := st.Peer(bob.Name) != nil; sees != (name == "grant narrowed") {
				t.Errorf("ann's device sees bob's: %v", sees)
			}
		})
	}
}

// TestPolicyMaps: a device without grants has no peers, neither in its status nor in the map on its disk; and a policy on trial that nobody confirms
// ends by itself.
func TestPolicyMaps(t *testing.T) {
	ctx, n := start(t)
	setPolicy(t, ctx, n, annReachesBoth)
	ann, bob := member(t, ctx, n, "ann", lab.None), member(t, ctx, n, "bob", lab.Easy)
	alone := member(t, ctx, n, "eve", lab.Easy)
	_, err := ann.Await(ctx, "aware of bob's", func(s *warrennet.Status) bool { return len(s.Peers) == 1 })
	must(t, err)
	st, err := alone.Status(ctx)
	must(t, err)
	if len(st.Peers) > 0 || st.State != "up" {
		t.Errorf("%s with peers %v", st.State, st.Peers)
	}
	if records, grants := savedMap(t, alone); records != 1 || grants != 0 {
		t.Errorf("%d records and %d grants on disk, want its own record and no grant", records, grants)
	}
	if records, grants := savedMap(t, ann); records != 2 || grants != 1 {
		t.Errorf("%d records and %d grants on the disk of who has a peer, want 2 and 1", records, grants)
	}

	set := time.Now()
	setPolicy(t, ctx, n, "{}\n", "--confirm-within", "10s")
	for _, d := range []*warrennet.Device{ann, bob} {
		_, err := d.Await(ctx, "rid of its peers", func(s *warrennet.Status) bool { return len(s.Peers) == 0 })
		must(t, err)
	}
	_, err = ann.Await(ctx, "aware of bob's again", func(s *warrennet.Status) bool { return len(s.Peers) == 1 })
	must(t, err)
	if took := time.Since(set); took < 10*time.Second {
		t.Errorf("rolled back after %s, want 10 s", took)
	}
	establish(t, ctx, ann, bob)
}

// savedMap counts what is on a device's disk.
func savedMap(t *testing.T, d *warrennet.Device) (records, grants int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.Dir(), "map"))
	must(t, err)
	var m pb.SavedMap
	var st pb.MapStatement
	must(t, proto.Unmarshal(b, &m))
	must(t, proto.Unmarshal(m.GetStatement().GetPayload(), &st))
	return len(m.GetRecords()), len(st.GetGrants())
}
