package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// associate opens an association and gives its connection and where datagrams go.
func associate(t *testing.T, address string) (control *net.TCPConn, relay netip.AddrPort) {
	t.Helper()
	c := dial(t, address)
	if _, err := c.Write([]byte{5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 12)
	if _, err := io.ReadFull(c, b); err != nil || !bytes.Equal(b[:6], []byte{5, 0, 5, 0, 0, 1}) {
		t.Fatalf("%x, %v", b, err)
	}
	return c, netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[6:])), uint16(b[10])<<8|uint16(b[11]))
}

func udpSocket(t *testing.T, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func datagram(host string, port uint16, payload string) []byte {
	b := append([]byte{0, 0, 0, 3, byte(len(host))}, host...)
	return append(append(b, byte(port>>8), byte(port)), payload...)
}

// TestAssociate: datagrams go to the hosts that they name, and only answers come back, to the socket that asked first.
func TestAssociate(t *testing.T) {
	peer, err := net.ListenUDP("udp", &net.UDPAddr{IP: here.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	peer.SetDeadline(time.Now().Add(20 * time.Second))
	at := peer.LocalAddr().(*net.UDPAddr).AddrPort()
	n := &fakeNetwork{hosts: map[string]netip.Addr{"peer": here}}
	s, address := start(t, n, Credentials{})
	control, relay := associate(t, address)
	client, other := udpSocket(t, relay), udpSocket(t, relay)
	buf := make([]byte, 2000)
	for _, bad := range [][]byte{{0}, {0, 0, 1, 3, 4, 'p', 'e', 'e', 'r', 0, 80, 'x'}, {0, 0, 0, 9, 1}} {
		if _, err := client.Write(bad); err != nil {
			t.Fatal(err)
		}
	}
	for _, word := range []string{"one", "two"} {
		client.Write(datagram(outside, 53, "lost"))
		client.Write(datagram("peer", at.Port(), word))
		k, from, err := peer.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:k]) != word {
			t.Fatalf("%q, %v", buf[:k], err)
		}
		other.Write(datagram("peer", at.Port(), "stranger"))
		stranger, err := net.ListenUDP("udp", &net.UDPAddr{IP: here.AsSlice()})
		if err != nil {
			t.Fatal(err)
		}
		stranger.WriteToUDPAddrPort([]byte("unasked"), from)
		stranger.Close()
		peer.WriteToUDPAddrPort([]byte("re: "+word), from)
		k, err = client.Read(buf)
		want := append(appendAddress([]byte{0, 0, 0}, at), "re: "+word...)
		if err != nil || !bytes.Equal(buf[:k], want) {
			t.Errorf("%q, want %q, %v", buf[:k], want, err)
		}
	}
	if n.resolved.Load() != 2 {
		t.Errorf("resolved %d times", n.resolved.Load())
	}
	counted(t, s, func(st Stats) bool { return st.Malformed == 3 && st.Refused == 1 && st.Open == 1 })
	control.CloseWrite()
	if _, err := control.Read(buf); !errors.Is(err, io.EOF) {
		t.Errorf("the connection after its end: %v", err)
	}
}

// TestAssociationBounds: a client that sends to ever more hosts makes nothing grow, and its oldest are forgotten.
func TestAssociationBounds(t *testing.T) {
	a := &association{
		s: New(Config{Network: &fakeNetwork{hosts: map[string]netip.Addr{"peer": here}}}), ctx: t.Context(), targets: map[target]resolved{}, answers: map[netip.AddrPort]target{},
	}
	for port := range uint16(3 * maxTargets) {
		if _, ok := a.resolve(target{"peer", port + 1}); !ok {
			t.Fatal("not resolved")
		}
		if len(a.targets) > maxTargets || len(a.answers) > maxTargets {
			t.Fatalf("%d and %d", len(a.targets), len(a.answers))
		}
	}
}

// TestIdleAssociation: datagrams keep it, and none ends it.
func TestIdleAssociation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		a := &association{ctx: t.Context(), end: func() { close(ended) }}
		began := time.Now()
		a.last.Store(began.UnixNano())
		go a.watch()
		<-time.After(idleAssociation - time.Second) // of the bubble's clock
		a.last.Store(time.Now().UnixNano())
		<-ended
		a.last.Store(time.Now().Add(time.Hour).UnixNano()) // once is enough
		if took := time.Since(began); took < 2*idleAssociation-time.Second || took > 3*idleAssociation {
			t.Errorf("ended after %s", took)
		}
	})
}
