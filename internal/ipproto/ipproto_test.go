package ipproto

import (
	"strings"
	"testing"
)

func TestParseFlow(t *testing.T) {
	for in, want := range map[string]Flow{
		"tcp/443": {TCP, 443}, "TCP/22": {TCP, 22}, "udp/53": {UDP, 53}, "sctp/36412": {SCTP, 36412}, "tcp/0": {TCP, 0}, "udp/65535": {UDP, 65535},
		"icmp": {Protocol: ICMP}, "icmpv6": {Protocol: ICMPv6}, "gre": {Protocol: 47}, "ip/47": {Protocol: 47}, "ip/253": {Protocol: 253}, "ip/1": {Protocol: 1},
	} {
		got, err := ParseFlow(in)
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
		if again, err := ParseFlow(got.String()); err != nil || again != got {
			t.Errorf("%s is written %s, which is read as %v, %v", in, got, again, err)
		}
	}
	for in, want := range map[string]string{
		"": "write tcp/PORT", "ssh": "write tcp/PORT", "443": "Write tcp/443 or udp/443, or ip/443", "tcp": "needs a port, such as tcp/443", "tcp/": "needs a port",
		"tcp/80-90": "one port at a time, such as tcp/80", "tcp/80,443": "such as tcp/80", "udp/*": "such as udp/443", "tcp/65536": "ports are 0 to 65535",
		"tcp/-1": "such as tcp/443", "tcp/https": `"https" is no port`, "icmp/8": "icmp has no ports; write icmp", "icmp/": "has no ports", "ip/0": "from 1 to 255",
		"ip/256": "from 1 to 255", "ip/x": "from 1 to 255", "ip/6": "tcp needs a port, such as tcp/443", "ip": "write tcp/PORT", "tcp/1/2": "is no port",
	} {
		if f, err := ParseFlow(in); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `"`+in+`"`) {
			t.Errorf("%q: %v, %v; want %q", in, f, err, want)
		}
	}
}

// TestName: every protocol has a name that Number and ParseFlow know.
func TestName(t *testing.T) {
	for _, bad := range []string{"", "ip/6", "ip/256", "ip/", "6", "tcp/80", "ip/ip/47"} {
		if n, ok := Number(bad); ok {
			t.Errorf("%q is protocol %d", bad, n)
		}
	}
	for _, name := range Names() {
		if n, ok := Named(name); !ok || Name(n) != name && name != "ipip" && name != "ipv4" && name != "ipv6-icmp" {
			t.Errorf("%s is %d, %v, which is named %s", name, n, ok, Name(n))
		}
	}
	for p := 1; p < 256; p++ {
		if n, ok := Number(Name(uint8(p))); !ok || n != uint8(p) {
			t.Errorf("%s is protocol %d, %v", Name(uint8(p)), n, ok)
		}
		f, err := ParseFlow(Flow{uint8(p), 7}.String())
		if err != nil || f.Protocol != uint8(p) || f.Port != map[bool]uint16{true: 7}[HasPorts(uint8(p))] {
			t.Errorf("protocol %d is named %s: %v, %v", p, Name(uint8(p)), f, err)
		}
	}
}
