package engine

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"warren/proto/key"
	"warren/tunnel/tundev"
)

// TestWords: two agents talk through their tunnel, which comes up for it, and no host sees anything.
func TestWords(t *testing.T) {
	type said struct {
		from    key.DevicePublic
		payload string
	}
	heard := make(chan said, 16)
	a, b := relayed(t, func(c *Config) {
		c.OnWord = func(from key.DevicePublic, payload []byte) { heard <- said{from, string(payload)} }
	})
	for n, o := range map[*node]*node{a: b, b: a} {
		n.engine.SetMap(Map{Self: []netip.Addr{n.addr}, Peers: []Peer{{
			Device: o.device, NodeKey: o.key.Public(), Prefixes: []netip.Prefix{netip.PrefixFrom(o.addr, 32)}, Addresses: []netip.Addr{o.addr},
		}}})
	}
	say := func(from, to *node, payload string) {
		t.Helper()
		if err := from.engine.SendWord(to.device, []byte(payload)); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-heard:
			if !got.from.Equal(from.device) || got.payload != payload {
				t.Errorf("heard %q from %s", got.payload, got.from.Short())
			}
		case <-time.After(patience):
			t.Fatalf("%q was not heard", payload)
		}
	}
	if a.isConfigured(b) {
		t.Error("a peer is configured before anything was said")
	}
	for range 20 {
		say(a, b, "ping")
		say(b, a, "pong")
	}
	if !a.isConfigured(b) || !b.isConfigured(a) {
		t.Error("the peers are not configured")
	}
	if err := a.engine.SendWord(key.NewDevice().Public(), []byte("x")); !errors.Is(err, tundev.ErrNoPeer) {
		t.Errorf("to a stranger: %v", err)
	}
	if n := len(a.tun.received) + len(b.tun.received); n > 0 {
		t.Errorf("hosts received %d packets", n)
	}
	if c := b.engine.Packets(); c.Words != 20 {
		t.Errorf("counted %+v", c)
	}
}
