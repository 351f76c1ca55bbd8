package config

import (
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"

	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "coordinator.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefault(t *testing.T) {
	c := Default("/state")
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	was := c
	if err := c.Load(file(t, "# nothing\n")); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(was, c, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("an empty file changed %s", diff)
	}
}

func TestLoad(t *testing.T) {
	c := Default("/state")
	err := c.Load(file(t, `
state = "/elsewhere"
listen = "127.0.0.1:8443"
url = ["https://a.example", "https://b.example:8443"]
stun = "off"
tls = "off"
metrics = "127.0.0.1:9100"
relay = false
relay-rate = 250
region = "eu"
ipv4 = "100.99.0.0/16"
ipv6 = "fd12:3456:789a::/48"
map-max-age = "240h"
log-level = "warn"
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		State: "/elsewhere", Listen: "127.0.0.1:8443", URLs: []string{"https://a.example", "https://b.example:8443"}, STUN: "off", TLS: "off",
		Metrics: "127.0.0.1:9100", RelayRate: 250, Region: "eu", IPv4: "100.99.0.0/16", IPv6: "fd12:3456:789a::/48", MapMaxAge: 240 * time.Hour, LogLevel: "warn",
	}
	if diff := cmp.Diff(want, c, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Error(diff)
	}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	v4, v6, err := c.Prefixes()
	if err != nil || v4 != netip.MustParsePrefix(c.IPv4) || v6 != netip.MustParsePrefix(c.IPv6) {
		t.Errorf("%s, %s, %v", v4, v6, err)
	}
}

// An error names the file, and what in it.
func TestBadFiles(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"listn = \":443\"", "listn"},
		{"[server]\nlisten = \":443\"", "server"},
		{"listen = 443", "listen"},
		{"url = \"https://a.example\"", "url"},
		{"relay = \"yes\"", "relay"},
		{"relay-rate = \"fast\"", "whole number of Mbit/s"},
		{"relay-rate = 1.5", "whole number of Mbit/s"},
		{"region = 1", "region"},
		{"log-level = 4", `["debug" "info" "warn" "error"]`},
		{"map-max-age = \"a month\"", "want a duration"},
		{"stun = \"off\"\nlisten = ", ":2: "},
		{"state = \"a\"\nstate = \"b\"", "state"},
		{"state = \"\xff\"", ":1: "},
		{"\x00", ":1: "},
	} {
		path := file(t, test.text)
		c := Default("/state")
		was := c
		err := c.Load(path)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want it to name %s and %q", test.text, err, path, test.want)
		}
		if diff := cmp.Diff(was, c, cmpopts.IgnoreUnexported(Config{})); diff != "" {
			t.Errorf("%q is refused and has changed %s", test.text, diff)
		}
	}
	c := Default("/state")
	if err := c.Load("/does/not/exist"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := c.Load(t.TempDir()); err == nil {
		t.Error("a directory was read")
	}
}

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Config)
		want   string // in the error; empty: none
	}{
		"any port":            {func(c *Config) { c.Listen = "[::1]:0" }, ""},
		"named port":          {func(c *Config) { c.Listen = ":https" }, ":https"},
		"no listen":           {func(c *Config) { c.Listen = "" }, "listen"},
		"no port":             {func(c *Config) { c.Listen = "192.0.2.1" }, "192.0.2.1"},
		"IPv6 unbracketed":    {func(c *Config) { c.Listen = "::1:443" }, "::1:443"},
		"port too high":       {func(c *Config) { c.Listen = ":65536" }, ":65536"},
		"negative port":       {func(c *Config) { c.STUN = ":-1" }, ":-1"},
		"port of no name":     {func(c *Config) { c.Metrics = ":nonsense" }, "nonsense"},
		"listen off":          {func(c *Config) { c.Listen = "off" }, "off"},
		"no STUN":             {func(c *Config) { c.STUN = "off" }, ""},
		"STUN unset":          {func(c *Config) { c.STUN = "" }, "stun"},
		"certificate":         {func(c *Config) { c.TLS, c.URLs = "a.pem,b.pem", []string{"https://a.example"} }, ""},
		"certificate alone":   {func(c *Config) { c.TLS = "a.pem" }, "a.pem"},
		"half of a pair":      {func(c *Config) { c.TLS = "a.pem," }, "a.pem"},
		"TLS unset":           {func(c *Config) { c.TLS = "" }, "tls"},
		"URL with path":       {func(c *Config) { c.URLs = []string{"https://a.example/x"} }, "https://a.example/x"},
		"plain URL with TLS":  {func(c *Config) { c.URLs = []string{"http://a.example"} }, "http://a.example"},
		"plain URL":           {func(c *Config) { c.TLS, c.URLs = "off", []string{"http://127.0.0.1:80"} }, ""},
		"proxy's URL":         {func(c *Config) { c.TLS, c.URLs = "off", []string{"https://a.example"} }, ""},
		"17 URLs":             {func(c *Config) { c.URLs = strings.Fields(strings.Repeat("https://a.example ", 17)) }, "17"},
		"prefix of no form":   {func(c *Config) { c.IPv4 = "100.64.0.0" }, "100.64.0.0"},
		"IPv6 for IPv4":       {func(c *Config) { c.IPv4 = "fd00::/48" }, "fd00::/48"},
		"IPv4 for IPv6":       {func(c *Config) { c.IPv6 = "100.64.0.0/16" }, "100.64.0.0/16"},
		"prefix with bits":    {func(c *Config) { c.IPv4 = "100.64.0.1/16" }, "100.64.0.1/16"},
		"prefix for nobody":   {func(c *Config) { c.IPv4 = "100.64.0.0/32" }, "100.64.0.0/32"},
		"more than a year":    {func(c *Config) { c.MapMaxAge = maxMapMaxAge + 1 }, "map-max-age"},
		"files without name":  {func(c *Config) { c.TLS = "a.pem,b.pem" }, "--url"},
		"an hour":             {func(c *Config) { c.MapMaxAge = time.Hour }, ""},
		"less than an hour":   {func(c *Config) { c.MapMaxAge = time.Hour - 1 }, "map-max-age"},
		"maps of no duration": {func(c *Config) { c.MapMaxAge = 0 }, "map-max-age"},
		"a rate":              {func(c *Config) { c.RelayRate = maxRelayRate }, ""},
		"too high a rate":     {func(c *Config) { c.RelayRate = maxRelayRate + 1 }, "relay-rate: 1000001: want 0"},
		"negative rate":       {func(c *Config) { c.RelayRate = -1 }, "relay-rate: -1"},
		"region of no form":   {func(c *Config) { c.Region = "two words\n" }, "region"},
		"negative":            {func(c *Config) { c.MapMaxAge = -time.Hour }, "map-max-age"},
	} {
		c := Default("/state")
		test.change(&c)
		err := c.Check()
		if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestEndpoints(t *testing.T) {
	self, public, off := pb.TLSMode_TLS_MODE_SELF, pb.TLSMode_TLS_MODE_PUBLIC, pb.TLSMode_TLS_MODE_OFF
	for name, test := range map[string]struct {
		change  func(*Config)
		host    string
		want    []*pb.Endpoint
		private bool
		fails   bool
	}{
		"configured": {
			change: func(c *Config) { c.URLs = []string{"https://a.example"} }, host: "192.168.1.1",
			want: []*pb.Endpoint{{Url: "https://a.example", TlsMode: self}},
		},
		"behind a proxy": {
			change: func(c *Config) { c.TLS, c.URLs = "off", []string{"https://a.example", "http://127.0.0.1:80"} },
			want:   []*pb.Endpoint{{Url: "https://a.example", TlsMode: public}, {Url: "http://127.0.0.1:80", TlsMode: off}},
		},
		"public first, IPv4 before IPv6": {
			host: "fd00::1 192.168.1.1 2001:db8::1 203.0.113.1",
			want: []*pb.Endpoint{
				{Url: "https://203.0.113.1:8443", TlsMode: self}, {Url: "https://[2001:db8::1]:8443", TlsMode: self},
				{Url: "https://192.168.1.1:8443", TlsMode: self}, {Url: "https://[fd00::1]:8443", TlsMode: self},
			},
		},
		"four at most": {
			host: "203.0.113.1 203.0.113.2 203.0.113.3 203.0.113.4 203.0.113.5",
			want: []*pb.Endpoint{
				{Url: "https://203.0.113.1:8443", TlsMode: self}, {Url: "https://203.0.113.2:8443", TlsMode: self},
				{Url: "https://203.0.113.3:8443", TlsMode: self}, {Url: "https://203.0.113.4:8443", TlsMode: self},
			},
		},
		"private alone":     {host: "10.0.0.1", want: []*pb.Endpoint{{Url: "https://10.0.0.1:8443", TlsMode: self}}, private: true},
		"a provider's NAT":  {host: "100.64.0.9", want: []*pb.Endpoint{{Url: "https://100.64.0.9:8443", TlsMode: self}}, private: true},
		"bound":             {change: func(c *Config) { c.Listen = "203.0.113.7:1" }, host: "10.0.0.1", want: []*pb.Endpoint{{Url: "https://203.0.113.7:8443", TlsMode: self}}},
		"bound to loopback": {change: func(c *Config) { c.Listen = "127.0.0.1:1" }, want: []*pb.Endpoint{{Url: "https://127.0.0.1:8443", TlsMode: self}}, private: true},
		"bound to all":      {change: func(c *Config) { c.Listen = "[::]:1" }, host: "203.0.113.1", want: []*pb.Endpoint{{Url: "https://203.0.113.1:8443", TlsMode: self}}},
		"plain":             {change: func(c *Config) { c.TLS = "off" }, host: "203.0.113.1", want: []*pb.Endpoint{{Url: "http://203.0.113.1:8443", TlsMode: off}}},
		"nothing reachable": {host: "127.0.0.1 fe80::1 ::1", fails: true},
		"no address":        {fails: true},
		"files, no name":    {change: func(c *Config) { c.TLS = "a,b" }, host: "203.0.113.1", fails: true},
		"bad mode":          {change: func(c *Config) { c.TLS = "x" }, host: "203.0.113.1", fails: true},
	} {
		c := Default("/state")
		if test.change != nil {
			test.change(&c)
		}
		var host []netip.Addr
		for _, a := range strings.Fields(test.host) {
			host = append(host, netip.MustParseAddr(a))
		}
		got, private, err := c.Endpoints(host, 8443)
		if (err != nil) != test.fails || private != test.private {
			t.Errorf("%s: private %t, %v", name, private, err)
		}
		if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Each host has every port; when a map has no room for all of them, first ports count more.
func TestSTUNHosts(t *testing.T) {
	got := STUNHosts([]string{"a.example", "2001:db8::1"}, []uint16{3478, 3479})
	want := []string{"a.example:3478", "[2001:db8::1]:3478", "a.example:3479", "[2001:db8::1]:3479"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	many := strings.Fields(strings.Repeat("a.example ", record.MaxURLs))
	if got := STUNHosts(many, []uint16{3478, 3479}); len(got) != record.MaxURLs || got[record.MaxURLs-1] != "a.example:3478" {
		t.Errorf("%d addresses: %v", len(got), got)
	}
	if got := STUNHosts(nil, []uint16{3478}); len(got) != 0 {
		t.Errorf("no hosts gave %v", got)
	}
}

// TestChanges: each setting is compared, and only those that differ are told.
func TestChanges(t *testing.T) {
	a, b := Default("/a"), Default("/a")
	if got := a.Changes(&b); len(got) != 0 {
		t.Errorf("no change: %v", got)
	}
	b = Config{State: "/b", Listen: ":1", URLs: []string{"https://x"}, STUN: "off", TLS: "off", Metrics: ":2", Region: "r", RelayRate: 1, IPv4: "4", IPv6: "6",
		LogLevel: "warn", MapMaxAge: time.Hour}
	var names []string
	for _, c := range a.Changes(&b) {
		names = append(names, c.Setting)
	}
	slices.Sort(names)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(forms())), names); diff != "" {
		t.Error(diff)
	}
	b = a
	b.URLs = []string{"https://x"}
	if diff := cmp.Diff([]Change{{"url", "[]", "[https://x]"}}, a.Changes(&b)); diff != "" {
		t.Error(diff)
	}
}
