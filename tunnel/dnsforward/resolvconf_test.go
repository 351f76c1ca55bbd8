package dnsforward

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var byValue = cmpopts.EquateComparable(netip.AddrPort{})

func servers(texts ...string) (out []netip.AddrPort) {
	for _, t := range texts {
		out = append(out, netip.MustParseAddrPort(t))
	}
	return out
}

func TestParseResolvConf(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []netip.AddrPort
	}{
		"empty":        {"", servers("127.0.0.1:53")},
		"no server":    {"search example.com\noptions edns0\n", servers("127.0.0.1:53")},
		"usual":        {"# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n", servers("127.0.0.53:53")},
		"in order":     {"nameserver 192.0.2.1\nnameserver 2001:db8::1\n", servers("192.0.2.1:53", "[2001:db8::1]:53")},
		"three":        {"nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n", servers("10.0.0.1:53", "10.0.0.2:53", "10.0.0.3:53")},
		"zone":         {"nameserver fe80::1%eth0\n", servers("[fe80::1%eth0]:53")},
		"mapped":       {"nameserver ::ffff:10.0.0.1\n", servers("10.0.0.1:53")},
		"tabs":         {"nameserver\t10.0.0.1 # ours\n", servers("10.0.0.1:53")},
		"commented":    {"#nameserver 10.0.0.1\n;nameserver 10.0.0.2\n", servers("127.0.0.1:53")},
		"not one":      {"nameserver\nnameserver example.com\nnameserver 224.0.0.1\nnameserver 10.0.0.9", servers("10.0.0.9:53")},
		"longer words": {"nameservers 10.0.0.1\n", servers("127.0.0.1:53")},
	} {
		if diff := cmp.Diff(c.want, parseResolvConf([]byte(c.text)), byValue); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	now := time.Unix(1_700_000_000, 0)
	f := NewFile(path, func() time.Time { return now })
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now, now); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when string, texts ...string) {
		t.Helper()
		if diff := cmp.Diff(servers(texts...), f.Resolvers(), byValue); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	want("no file yet")
	write("nameserver 10.0.0.1\n")
	want("written", "10.0.0.1:53")
	write("nameserver 10.0.0.22\n")
	want("changed, at the same moment", "10.0.0.1:53")
	now = now.Add(lookEvery)
	want("looked at again", "10.0.0.22:53")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	now = now.Add(lookEvery)
	want("gone for a moment", "10.0.0.22:53")
	write("nameserver 10.0.0.33\n")
	now = now.Add(lookEvery)
	want("back", "10.0.0.33:53")
	now = now.Add(-time.Hour)
	write("nameserver 10.0.0.4\n")
	want("the clock was set back", "10.0.0.4:53")
}
