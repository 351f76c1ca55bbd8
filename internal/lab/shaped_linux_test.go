package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"warren/internal/sim/linkmodel"
	"warren/internal/sim/natmodel"
)

// TestShapedLink sends numbered datagrams over a link that delays, loses and reorders.
//
//	host --- NAT ~~~ link ~~~ internet --- server
func TestShapedLink(t *testing.T) {
	l := newLab(t)
	o := linkmodel.Options{Delay: 20 * time.Millisecond, Loss: 0.1, Reorder: 0.1, ReorderBy: 5 * time.Millisecond}
	server := mustHost(t, l, "server", None)
	host := mustHostAt(t, l, "host", mustSite(t, l, "site", Access{NAT: natmodel.Easy(), Link: &o, Seed: 1}))
	s, c := socket(t, server, ":1000"), socket(t, host, ":1000")
	to := netip.AddrPortFrom(server.Public, 1000)
	if rtt := roundTrip(t, c, s, to); rtt < 2*o.Delay {
		t.Errorf("round trip %s, want %s at least", rtt, 2*o.Delay)
	}
	const batches, each = 8, 50 // a socket's buffer holds no more than a few hundred
	early, overtaken, got := 0, 0, 0
	for range batches {
		began, last := time.Now(), -1
		for i := range uint32(each) {
			send(t, c, to, string(binary.BigEndian.AppendUint32(nil, i)))
		}
		for {
			from, text := receive(t, s, 100*time.Millisecond)
			if !from.IsValid() {
				break
			}
			if time.Since(began) < o.Delay {
				early++
			}
			if n := int(binary.BigEndian.Uint32([]byte(text))); n < last {
				overtaken++
			} else {
				last = n
			}
			got++
		}
	}
	if count := batches * each; early > 0 || got < count*8/10 || got > count*97/100 || overtaken == 0 {
		t.Errorf("of %d datagrams %d arrived, %d of them early and %d overtaken", count, got, early, overtaken)
	}
}

// roundTrip sends until neither way loses it; the first may wait for ARP, which can be lost too.
func roundTrip(t *testing.T, c, s *net.UDPConn, to netip.AddrPort) time.Duration {
	t.Helper()
	for range 100 {
		began := time.Now()
		send(t, c, to, "ping")
		at, _ := receive(t, s, 100*time.Millisecond)
		if !at.IsValid() {
			continue
		}
		send(t, s, at, "pong")
		if from, _ := receive(t, c, 100*time.Millisecond); from.IsValid() {
			return time.Since(began)
		}
	}
	t.Fatal("no answer")
	return 0
}

// TestShapedRate has TCP fill a link: it takes at least as long as the rate says, and everything arrives.
//
//	host ~~~ link ~~~ internet --- server
func TestShapedRate(t *testing.T) {
	l := newLab(t)
	o := linkmodel.Options{Delay: time.Millisecond, Rate: 20_000_000}
	server := mustHost(t, l, "server", None)
	host := mustHostAt(t, l, "host", mustSite(t, l, "site", Access{Link: &o}))
	listener, err := server.Listen(":80")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	const size = 1 << 20
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		n, err := io.Copy(io.Discard, io.LimitReader(c, size))
		fmt.Fprint(c, n, err)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	began := time.Now()
	c, err := host.Dial(ctx, "tcp", netip.AddrPortFrom(server.Public, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != fmt.Sprint(size, nil) {
		t.Errorf("the server says %q, %v", b, err)
	}
	if took, least := time.Since(began), time.Duration(size*8*float64(time.Second)/float64(o.Rate)); took < least {
		t.Errorf("%d bytes took %s; at %d bit/s they take %s", size, took, o.Rate, least)
	}
}
