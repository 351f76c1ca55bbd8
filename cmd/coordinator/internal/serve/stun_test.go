package serve

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"warren/cmd/coordinator/internal/handover"
	"warren/nat/stunmsg"
	"warren/nat/stunserver"
)

// openBoth opens STUN on two ports. The next port may be somebody's; then others are tried.
func openBoth(t *testing.T) stunSockets {
	t.Helper()
	for range 20 {
		s, err := openSTUN(new(handover.Sockets), "127.0.0.1:0", false, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.close)
		if len(s) == 2 {
			return s
		}
	}
	t.Fatal("never two ports in a row")
	return nil
}

func TestSTUNOnTwoPorts(t *testing.T) {
	s := openBoth(t)
	ctx, cancel := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	var log bytes.Buffer
	s.serve(ctx, group, stunserver.New(nil, nil), nil, slog.New(slog.NewTextHandler(&log, nil)))
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, port := range s.ports() {
		tx := stunmsg.NewTxID()
		if _, err := c.WriteToUDP(stunmsg.NewRequest(tx, nil, nil), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)}); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1500)
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := stunmsg.Parse(b[:n]); err != nil || m.Tx != tx || from.Port() != port || m.Mapped.String() != c.LocalAddr().String() {
			t.Errorf("port %d: %+v, %v from %s", port, m, err, from)
		}
	}
	cancel()
	if err := group.Wait(); err != nil || log.Len() != 0 {
		t.Errorf("%v, log %q", err, log.String())
	}
}

func TestSTUNWithoutTheSecondPort(t *testing.T) {
	both := openBoth(t)
	both[0].Close()
	s, err := openSTUN(new(handover.Sockets), both[0].UDPConn().LocalAddr().String(), false, nil) // both[1] still has the next port
	if err != nil {
		t.Fatal(err)
	}
	if len(s) != 1 {
		t.Fatalf("%d sockets", len(s))
	}
	ctx, cancel := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	var log bytes.Buffer
	s.serve(ctx, group, stunserver.New(nil, nil), nil, slog.New(slog.NewTextHandler(&log, nil)))
	cancel()
	if err := group.Wait(); err != nil || !strings.Contains(log.String(), "one port only") {
		t.Errorf("%v, log %q", err, log.String())
	}
}
