package system

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// TestWgShow reads the interface with the program that everybody has.
func TestWgShow(t *testing.T) {
	ctx, _, x, y, _ := pair(t, lab.Easy, lab.Easy)
	awaitDirect(t, ctx, x, y)
	peer, err := y.Status(ctx)
	must(t, err)
	out, err := x.Command(ctx, "wg", "show", "warren0").CombinedOutput()
	must(t, err)
	for _, want := range []string{
		"interface: warren0",
		"peer: " + peer.Self.NodeKey,
		fmt.Sprintf("endpoint: %s:", y.Public),
		"allowed ips: ", peer.Self.Addresses[0] + "/32",
		"latest handshake: ",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	if out, err := x.Command(ctx, "wg", "set", "warren0", "listen-port", "1").CombinedOutput(); err == nil || !strings.Contains(string(out), "not permitted") {
		t.Errorf("wg set: %v: %s", err, out)
	}
}

// TestChecksAreSTUN captures on the wire and lets tshark read the checks: requests with USERNAME, answers, and in both MESSAGE-INTEGRITY and a
// FINGERPRINT that it finds to be right.
func TestChecksAreSTUN(t *testing.T) {
	ctx, n := start(t)
	x := device(t, ctx, n, "left", lab.Easy)
	capture, err := warrennet.Start(x.Host, "tshark", "-l", "-n", "-i", "eth0", "-Y", "stun && stun.att.hmac", "-T", "fields", "-E", "separator=,",
		"-e", "stun.type", "-e", "stun.att.username", "-e", "stun.att.hmac", "-e", "stun.att.crc32.status")
	must(t, err)
	defer capture.Signal(syscall.SIGTERM)
	must(t, capture.AwaitLog(ctx, "Capturing on"))
	y := device(t, ctx, n, "right", lab.Easy)
	ping(t, ctx, x, y)
	awaitDirect(t, ctx, x, y)
	must(t, capture.AwaitLog(ctx, "0x0001,"))
	must(t, capture.AwaitLog(ctx, "0x0101,"))
	st, err := y.Status(ctx)
	must(t, err)
	good := regexp.MustCompile(`^(0x0001,[0-9a-f]{16}|0x0101,),[0-9a-f]{40},1$`) // 1: tshark computed the same CRC
	for _, line := range regexp.MustCompile(`(?m)^0x.*\n`).FindAllString(capture.Log(), -1) {
		line = strings.TrimSuffix(line, "\n")
		if !good.MatchString(line) {
			t.Errorf("tshark reads %q", line)
		}
		if strings.Contains(line, st.Self.NodeKey[:8]) {
			t.Errorf("%q shows a node key", line)
		}
	}
}

// TestHostileDatagrams showers every open port with garbage, cut and replayed datagrams from a stranger. The tunnel goes on.
//
//	left --- internet --- right
//	            |     \--- stranger
//	       coordinator
func TestHostileDatagrams(t *testing.T) {
	ctx, n, x, y, p := pair(t, lab.None, lab.None)
	awaitDirect(t, ctx, x, y)
	stranger, err := n.Lab.Host("stranger", lab.None)
	must(t, err)
	st, err := x.Status(ctx)
	must(t, err)
	remote, err := netip.ParseAddrPort(st.Peer("right").Path.Remote)
	must(t, err)
	local, err := netip.ParseAddrPort(st.Peer("right").Path.Local)
	must(t, err)
	c, err := stranger.ListenUDP(":0")
	must(t, err)
	defer c.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, to := range []netip.AddrPort{remote, netip.AddrPortFrom(x.Addr, local.Port()), netip.AddrPortFrom(n.Coordinator.Addr, 3478)} {
		for range 3000 {
			_, err := c.WriteToUDPAddrPort(hostile(rng), to)
			must(t, err)
		}
	}
	if lost := losses(t, p, time.Second); lost > 2 {
		t.Errorf("%d pings were lost under garbage", lost)
	}
	tcpGarbage(t, ctx, stranger, n.Coordinator)
	if _, err := x.Status(ctx); err != nil {
		t.Error(err)
	}
	must(t, n.Admin(ctx, nil, "status"))
}

// hostile makes a datagram: noise, or something that looks like WireGuard or STUN at first.
func hostile(rng *rand.Rand) []byte {
	b := make([]byte, rng.IntN(1400))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	switch kind := rng.IntN(8); {
	case kind < 4: // WireGuard's types and sizes
		size := []int{148, 92, 64, 32 + rng.IntN(64)*16}[kind]
		b = append(b, make([]byte, size)...)[:size]
		copy(b, []byte{byte(kind + 1), 0, 0, 0})
	case kind < 6 && len(b) >= 20: // a STUN header over noise
		b = b[:len(b)/4*4]
		copy(b, []byte{0, 1, byte((len(b) - 20) >> 8), byte(len(b) - 20), 0x21, 0x12, 0xa4, 0x42})
	}
	return b
}

// tcpGarbage speaks nonsense to the coordinator's port.
func tcpGarbage(t *testing.T, ctx context.Context, from, to *lab.Host) {
	t.Helper()
	for _, text := range [][]byte{nil, []byte("GET / HTTP/1.0\r\n\r\n"), bytes.Repeat([]byte{0}, 4096), []byte("\x16\x03\x01\xff\xff")} {
		c, err := from.Dial(ctx, "tcp", net.JoinHostPort(to.Addr.String(), "443"))
		must(t, err)
		_, err = c.Write(text)
		must(t, err)
		c.Close()
	}
}
