package client_test

import (
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"testing"

	"warren/coord/client"
	"warren/coord/domain"
	"warren/internal/broadcast"
	"warren/internal/connectproxy"
	"warren/internal/connectproxy/connectproxytest"
	"warren/proto/key"
)

// TestThroughAProxy: a host that may talk to nothing but an HTTP proxy enrols and keeps its map, TLS and streams included.
func TestThroughAProxy(t *testing.T) {
	n := startNetwork(t)
	p := &connectproxytest.Proxy{User: "host", Password: "secret"}
	s := httptest.NewServer(p)
	defer s.Close()
	tok := n.token(domain.TokenWish{})
	enrol := func(proxy string) (*client.Enrolled, key.DevicePrivate, key.NodePrivate, client.DialFunc, error) {
		d, err := connectproxy.New(proxy, new(net.Dialer).DialContext)
		if err != nil {
			t.Fatal(err)
		}
		device, node := key.NewDevice(), key.NewNode()
		e, err := client.Enrol(t.Context(), client.EnrolConfig{
			Token: tok, Device: device, Node: node.Public(), Hostname: "inside", Dial: d.DialContext,
		})
		return e, device, node, d.DialContext, err
	}
	if _, _, _, _, err := enrol(s.URL); !errors.Is(err, client.ErrUnreachable) {
		t.Fatalf("without a password: %v", err)
	}
	_, device, node, dial, err := enrol("http://host:secret@" + s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var changed broadcast.Broadcast
	c, err := client.New(client.Config{
		Network: tok.Network, Authority: tok.Authority, Device: device, Node: node.Public, Endpoints: tok.Endpoints, Dial: dial,
		OnMap: func(*client.Map) { changed.Wake() },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		c.Run(ctx)
		close(done)
	}()
	for next := changed.Next(); c.Map() == nil; next = changed.Next() {
		<-next
	}
	cancel()
	<-done
	if p.Connected() < 2 {
		t.Errorf("%d tunnels through the proxy", p.Connected())
	}
}
