package bind

import (
	"net"
	"net/netip"
	"testing"

	"warren/proto/key"
)

type extraPacket struct {
	id     uint16
	remote netip.AddrPort
	text   string
}

// opened is a Bind that is open, and what its extra sockets bring.
func opened(t *testing.T) (*Bind, chan extraPacket) {
	t.Helper()
	got := make(chan extraPacket, 16)
	b := New(Config{Private: key.NewNode(), OnExtra: func(id uint16, _ netip.Addr, remote netip.AddrPort, m []byte) {
		got <- extraPacket{id, remote, string(m)}
	}})
	if _, _, err := b.Open(0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b, got
}

func TestExtraSockets(t *testing.T) {
	b, got := opened(t)
	ids := b.OpenExtra(64)
	if len(ids) != 64 || b.Extras() != 64 {
		t.Fatalf("%d ids, %d sockets", len(ids), b.Extras())
	}
	far, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	ports, buf := map[uint16]uint16{}, make([]byte, 100)
	for _, id := range ids {
		if err := b.WriteExtra(id, netip.Addr{}, far.LocalAddr().(*net.UDPAddr).AddrPort(), []byte("out")); err != nil {
			t.Fatal(err)
		}
		_, from, err := far.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		if ports[from.Port()] != 0 || from.Port() == b.LocalPort() {
			t.Fatalf("port %d twice", from.Port())
		}
		ports[from.Port()] = id
		if _, err := far.WriteToUDPAddrPort([]byte("back"), from); err != nil {
			t.Fatal(err)
		}
		if p := <-got; p.id != id || p.text != "back" || p.remote != far.LocalAddr().(*net.UDPAddr).AddrPort() {
			t.Errorf("socket %d: %+v", id, p)
		}
	}
	b.CloseExtra(append([]uint16{9999}, ids[1:]...))
	if b.Extras() != 1 {
		t.Errorf("%d sockets stay", b.Extras())
	}
	if err := b.WriteExtra(ids[1], netip.Addr{}, far.LocalAddr().(*net.UDPAddr).AddrPort(), nil); err == nil {
		t.Error("a closed socket sends")
	}
	b.Close()
	if b.Extras() != 0 {
		t.Errorf("%d sockets stay open after Close", b.Extras())
	}
	if ids := b.OpenExtra(3); len(ids) != 0 {
		t.Errorf("a closed Bind opens %v", ids)
	}
}

func TestExtraSocketsAreBounded(t *testing.T) {
	b, _ := opened(t)
	ids := b.OpenExtra(extraMax + 100)
	if len(ids) > extraMax || b.Extras() != len(ids) {
		t.Errorf("%d sockets", len(ids))
	}
	b.CloseExtra(ids[:10])
	if more := b.OpenExtra(20); len(more) != 10 && len(ids) == extraMax {
		t.Errorf("%d more sockets, want the 10 that were closed", len(more))
	}
}

// TestExtraPath sends WireGuard's packets by an extra socket, and takes them from one.
func TestExtraPath(t *testing.T) {
	a, b := newStation(t, nil, nil), newStation(t, nil, nil)
	ids := append(a.OpenExtra(1), b.OpenExtra(1)...)
	port := b.extras.find(ids[1]).conn.Port()
	loop := netip.MustParseAddr("127.0.0.1")
	a.SetPath(b.key.Public(), Path{Kind: Direct, Socket: ids[0], Remote: netip.AddrPortFrom(loop, port)})
	b.index.learn(2, b.endpoints.get(a.key.Public()), 1)
	peer := b.key.Public()
	ep, err := a.ParseEndpoint(peer.String())
	if err != nil {
		t.Fatal(err)
	}
	sent := transport(2, repeat(1452, 40)...)
	if err := a.Send(sent, ep); err != nil {
		t.Fatal(err)
	}
	for i := range sent {
		if p := <-b.received; p.data != string(sent[i]) {
			t.Fatalf("packet %d differs", i)
		}
	}
	if b.LastDirect(a.key.Public()).IsZero() {
		t.Error("what came to an extra socket does not count as direct")
	}
	a.CloseExtra(ids[:1])
	a.SetPath(b.key.Public(), Path{Kind: Direct, Socket: ids[0], Remote: netip.AddrPortFrom(loop, port)})
	if err := a.Send(sent[:1], ep); err != nil {
		t.Fatal(err)
	}
	if got := <-a.relayed; got != string(sent[0]) {
		t.Errorf("the relay got %q", got)
	}
}
