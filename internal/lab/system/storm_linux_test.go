package system

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/proto/relayframe"
	"warren/proto/warrenv1/warrenv1connect"
)

// capture reads real datagrams of a host's cable, as anybody on the way could: checks, handshakes, transport data, STUN.
func capture(t *testing.T, h *lab.Host, n int, traffic func()) (all [][]byte) {
	t.Helper()
	var fd int
	must(t, h.Do(func() (err error) {
		const everything = 0x0300 // ETH_P_ALL in network order
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, everything)
		return err
	}))
	defer unix.Close(fd)
	buf := make([]byte, 65536)
	for range 10 * n {
		traffic()
		for len(all) < n {
			size, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
			if err != nil {
				break // none are left
			}
			if payload, ok := udpPayload(buf[:size]); ok {
				all = append(all, payload)
			}
		}
		if len(all) == n {
			return all
		}
	}
	t.Fatalf("only %d datagrams were seen", len(all))
	return nil
}

// udpPayload is that of an IPv4 packet.
func udpPayload(b []byte) ([]byte, bool) {
	if len(b) < 28 || b[0]>>4 != 4 || b[9] != unix.IPPROTO_UDP {
		return nil, false
	}
	header := int(b[0]&15)*4 + 8
	length := int(binary.BigEndian.Uint16(b[2:]))
	if length > len(b) || length <= header {
		return nil, false
	}
	return append([]byte{}, b[header:length]...), true
}

// spoil cuts a real datagram, changes bits of it, or leaves it as it was.
func spoil(rng *rand.Rand, real [][]byte) []byte {
	b := append([]byte{}, real[rng.IntN(len(real))]...)
	switch rng.IntN(3) {
	case 0:
		b = b[:rng.IntN(len(b))]
	case 1:
		for range 1 + rng.IntN(4) {
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		}
	}
	return b
}

// TestStorm replays, cuts and spoils what a stranger on the way has seen, toward every UDP port, and speaks spoilt TLS, HTTP and WebSocket to the
// coordinator's port. Nobody ends, and the tunnel goes on.
//
//	left --- internet --- right
//	            |     \--- stranger
//	       coordinator (STUN, relay)
func TestStorm(t *testing.T) {
	ctx, n, x, y, p := pair(t, lab.None, lab.None)
	awaitDirect(t, ctx, x, y)
	pids := func() [3]int { return [3]int{n.Serving().PID(), x.Daemon().PID(), y.Daemon().PID()} }
	before := pids()
	real := capture(t, x.Host, 200, func() { _, _ = p.Ping(time.Second) })
	stranger, err := n.Lab.Host("stranger", lab.None)
	must(t, err)
	rng := rand.New(rand.NewPCG(13, 17))
	udpStorm(t, stranger, rng, real, ports(t, ctx, n, x, y))
	webSocketStorm(t, ctx, stranger, netip.AddrPortFrom(n.Coordinator.Addr, 443), rng)
	if lost := losses(t, p, time.Second); lost > 2 {
		t.Errorf("%d pings were lost after the storm", lost)
	}
	late := device(t, ctx, n, "late", lab.Hard) // which needs STUN server, relay and coordinator
	ping(t, ctx, late, x)
	for _, d := range []*warrennet.Device{x, y} {
		_, err := d.Await(ctx, "well", func(s *warrennet.Status) bool {
			return s.Coordinator.Connected && len(s.Peers) == 2 && s.Peer("late").Online
		})
		must(t, err)
		if strings.Contains(d.Daemon().Log(), "panic") {
			t.Errorf("%s panicked:\n%s", d.Name, d.Daemon().Log())
		}
	}
	if strings.Contains(n.Serving().Log(), "panic") || pids() != before {
		t.Errorf("the coordinator panicked, or somebody was started again:\n%s", n.Serving().Log())
	}
}

// ports are all the UDP ports that are open.
func ports(t *testing.T, ctx context.Context, n *warrennet.Network, x, y *warrennet.Device) []netip.AddrPort {
	t.Helper()
	out := []netip.AddrPort{netip.AddrPortFrom(n.Coordinator.Addr, 3478), netip.AddrPortFrom(n.Coordinator.Addr, 3479)}
	for _, d := range [][2]*warrennet.Device{{x, y}, {y, x}} {
		st, err := d[0].Status(ctx)
		must(t, err)
		a, err := netip.ParseAddrPort(st.Peer(d[1].Name).Path.Remote)
		must(t, err)
		out = append(out, a)
	}
	return out
}

func udpStorm(t *testing.T, from *lab.Host, rng *rand.Rand, real [][]byte, to []netip.AddrPort) {
	t.Helper()
	c, err := from.ListenUDP(":0")
	must(t, err)
	defer c.Close()
	for range 4000 {
		b := hostile(rng)
		if rng.IntN(2) == 0 {
			b = spoil(rng, real)
		}
		_, err := c.WriteToUDPAddrPort(b, to[rng.IntN(len(to))])
		must(t, err)
	}
}

// webSocketStorm opens relay connections, as far as a stranger gets, and goes on with noise.
func webSocketStorm(t *testing.T, ctx context.Context, from *lab.Host, to netip.AddrPort, rng *rand.Rand) {
	t.Helper()
	upgraded := 0
	calls := []string{
		warrenv1connect.CoordinatorServiceEnrolProcedure, warrenv1connect.CoordinatorServiceLoginProcedure,
		warrenv1connect.CoordinatorServiceApplyProcedure,
	}
	for range 60 {
		raw, err := from.Dial(ctx, "tcp", to.String())
		must(t, err)
		must(t, raw.SetDeadline(time.Now().Add(5*time.Second)))
		if rng.IntN(4) == 0 { // a TLS record that promises more than it holds
			_, _ = raw.Write(append([]byte{22, 3, 1, byte(rng.Uint32()), byte(rng.Uint32())}, noise(rng, rng.IntN(600))...))
			raw.Close()
			continue
		}
		c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		must(t, c.HandshakeContext(ctx))
		if rng.IntN(4) == 0 { // a call that holds nothing a coordinator understands
			body := noise(rng, rng.IntN(1000))
			_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/proto\r\nContent-Length: %d\r\n\r\n%s",
				calls[rng.IntN(len(calls))], len(body), body)
			must(t, err)
			if answer, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.HasPrefix(answer, "HTTP/1.1 4") {
				t.Errorf("noise was answered with %q, %v", answer, err)
			}
		} else if upgrade(t, c, rng) {
			upgraded++
			for range 20 {
				if _, err := c.Write(frame(rng)); err != nil {
					break // it was shown the door
				}
			}
		}
		c.Close()
	}
	if upgraded < 10 {
		t.Errorf("only %d connections got as far as WebSocket frames", upgraded)
	}
}

func noise(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// upgrade asks for a WebSocket, sometimes wrongly, and reports whether it got one.
func upgrade(t *testing.T, c net.Conn, rng *rand.Rand) bool {
	t.Helper()
	key := base64.StdEncoding.EncodeToString(noise(rng, 16))
	path := relayframe.Path
	if rng.IntN(8) == 0 {
		path += string(noise(rng, 20))
	}
	_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n"+
		"Sec-WebSocket-Protocol: %s\r\n\r\n", path, key, relayframe.Subprotocol)
	must(t, err)
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil || !strings.Contains(line, " 101 ") {
		return false
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455 section 1.3
	want := base64.StdEncoding.EncodeToString(sum[:])
	for {
		line, err := r.ReadString('\n')
		if err != nil || line == "\r\n" {
			return err == nil
		}
		if name, value, _ := strings.Cut(line, ": "); strings.EqualFold(name, "Sec-WebSocket-Accept") && strings.TrimSpace(value) != want {
			t.Errorf("accepted with %q, want %q", value, want)
		}
	}
}

// frame is a masked WebSocket frame (RFC 6455 section 5.2): well-formed around noise, or with a wrong length or kind.
func frame(rng *rand.Rand) []byte {
	payload := noise(rng, rng.IntN(2000))
	if len(payload) > 0 {
		payload[0] = byte(rng.IntN(16)) // a type of relay frame, as often as not
	}
	length := len(payload)
	kind := byte(0x82) // one whole binary message
	switch rng.IntN(6) {
	case 0:
		kind = byte(rng.Uint32())
	case 1:
		length = rng.IntN(1 << 16)
	}
	b := []byte{kind, 0x80 | 126, byte(length >> 8), byte(length), 0, 0, 0, 0} // masked by zeros
	return append(b, payload...)
}
