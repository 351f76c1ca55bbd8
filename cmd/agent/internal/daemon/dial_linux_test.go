package daemon

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRelayPatience: on good links a relay's death is noticed so soon that 2 s are kept; on poor ones two losses in a row are borne.
func TestRelayPatience(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct{ rto, rtt, want time.Duration }{
		{0, 0, 900 * ms},
		{201 * ms, 500 * time.Microsecond, 900 * ms},
		{250 * ms, 50 * ms, 900 * ms},
		{350 * ms, 150 * ms, 1200 * ms},
		{400 * ms, 200 * ms, 1400 * ms},
		{800 * ms, 600 * ms, 3000 * ms},
		{1500 * ms, 700 * ms, 5200 * ms},
		{120 * time.Second, 3 * time.Second, 6 * time.Second}, // backed off
	} {
		if got := relayPatience(tc.rto, tc.rtt); got != tc.want {
			t.Errorf("RTO %s, round trip %s: %s, want %s", tc.rto, tc.rtt, got, tc.want)
		}
	}
}

// TestHasten: the kernel takes it, and what is no TCP connection is left alone.
func TestHasten(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hasten(c)
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	var optErr error
	if err := raw.Control(func(fd uintptr) { got, optErr = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); err != nil || optErr != nil {
		t.Fatal(err, optErr)
	}
	if got != 900 {
		t.Errorf("TCP_USER_TIMEOUT is %d ms", got)
	}
	pipe, other := net.Pipe()
	defer other.Close()
	hasten(pipe)
	hasten(nil)
}
