package client_test

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"warren/coord/backup"
	"warren/coord/client"
	"warren/coord/domain"
	"warren/coord/reason"
	"warren/proto/key"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
)

// After a backup was restored the devices follow it, whatever newer they had seen: one that was removed is back, one that enrolled is not known and is
// told so, another name and a longer life are forgotten. A relay serves again whom it had refused.
func TestRestored(t *testing.T) {
	n := startNetwork(t)
	tok := n.token(domain.TokenWish{Reusable: true})
	once := n.token(domain.TokenWish{})
	var devices []*device
	for _, name := range []string{"alpha", "beta", "gamma"} {
		d, err := n.enrol(tok, name)
		if err != nil {
			t.Fatal(err)
		}
		d.watch(tok, filepath.Join(t.TempDir(), "map"))
		devices = append(devices, d)
	}
	a, b, c := devices[0], devices[1], devices[2]
	relay := n.startRelay(n.token(domain.TokenWish{Relay: true}))
	a.awaitPeers("beta", "gamma")
	gone, err := n.enrol(tok, "gone-before")
	if err != nil {
		t.Fatal(err)
	}
	n.remove("gone-before")
	relay.await("the first removal", func() bool { return relay.blocked[gone.key.Public().Raw()] })
	var copied bytes.Buffer
	if _, err := backup.Create(t.Context(), backup.Source{StateDir: n.dir, Now: time.Now(), Scratch: t.TempDir()}, &copied); err != nil {
		t.Fatal(err)
	}

	n.remove("gamma")
	late, err := n.enrol(once, "late")
	if err != nil {
		t.Fatal(err)
	}
	late.watch(once, "")
	for _, name := range []string{"b1", "b2", "b3"} { // versions far above those of the backup
		if err := b.client.SetName(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	a.awaitPeers("b3", "late")
	c.await("its removal", func() bool { return c.state.Reason == reason.Removed })
	relay.await("gamma's removal", func() bool { return relay.blocked[c.key.Public().Raw()] })

	n.stop()
	r, err := backup.Restore(t.Context(), &copied, backup.Target{StateDir: n.dir, Replace: true, Now: time.Now, Scratch: t.TempDir()})
	if err != nil || r.Devices != 3 || r.Revoked != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	n.start()
	for _, d := range append(devices, late, relay) {
		d.client.Reset()
	}
	a.awaitPeers("beta", "gamma")
	b.awaitPeers("alpha", "gamma")
	c.awaitPeers("alpha", "beta")
	b.await("its old name", func() bool { return b.m.Self.Name == "beta" && b.m.Self.Version.Generation == r.Generation })
	a.await("the new epoch", func() bool { return a.m.Statement.GetEpoch() == a.m.Epoch && a.state.Connected })
	relay.await("who is served", func() bool { return !relay.blocked[c.key.Public().Raw()] && relay.blocked[gone.key.Public().Raw()] })
	late.await("what became of it", func() bool {
		return late.state.Rejected && late.state.Reason == reason.NotMember && strings.Contains(late.state.Err.Error(), "join again with a new token")
	})
	if _, err := n.enrol(once, "thief"); client.Reason(err) != reason.TokenRevoked {
		t.Errorf("a token that was used after the backup: %v", err)
	}
	// Life goes on: what changes now reaches all, and late comes back by a new token.
	if _, err := client.Enrol(t.Context(), client.EnrolConfig{Token: tok, Device: late.key, Node: late.node.Public(), Hostname: "late"}); err != nil {
		t.Fatal(err)
	}
	late.client.Reset()
	n.remove("gamma")
	a.awaitPeers("beta", "late")
	late.awaitPeers("alpha", "beta")
}

func (n *network) remove(name string) {
	n.t.Helper()
	if _, err := n.admin.RemoveDevice(context.Background(), connect.NewRequest(&pb.RemoveDeviceRequest{Device: name})); err != nil {
		n.t.Fatal(err)
	}
}

// startRelay has a separate relay enrol and follow its Watch.
func (n *network) startRelay(tok *token.Token) *device {
	n.t.Helper()
	d := &device{t: n.t, key: key.NewDevice(), blocked: map[[key.Size]byte]bool{}}
	desc := &pb.Relay{RelayKey: d.key.Public().Bytes(), Name: "far", Urls: []string{"https://relay.example"}, TlsMode: pb.TLSMode_TLS_MODE_PUBLIC}
	if _, err := client.Enrol(n.t.Context(), client.EnrolConfig{Token: tok, Device: d.key, Relay: desc}); err != nil {
		n.t.Fatal(err)
	}
	d.follow(client.Config{
		Network: tok.Network, Authority: tok.Authority, Device: d.key, Role: pb.Role_ROLE_RELAY, Endpoints: tok.Endpoints,
		OnBlocked: func(k key.DevicePublic, blocked bool) { d.update(func() { d.blocked[k.Raw()] = blocked }) },
		OnState:   func(s client.State) { d.update(func() { d.state = s }) },
	})
	return d
}
