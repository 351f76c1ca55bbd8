package compile

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// byName gives a device of the office.
func byName(dir Directory, name string) End {
	i := slices.IndexFunc(dir.Devices, func(d Device) bool { return d.Name == name })
	if i < 0 {
		return End{Address: netip.MustParseAddr(name)}
	}
	return End{Device: dir.Devices[i].ID}
}

func nameOf(dir Directory, id ID) string {
	i := slices.IndexFunc(dir.Devices, func(d Device) bool { return d.ID == id })
	return dir.Devices[i].Name
}

func TestExplain(t *testing.T) {
	const text = `{
	"groups": {"group:eng": ["ann", "bob"]},
	"hosts": {"office": "10.1.0.0/16"},
	"postures": {"posture:mac": ["node:os == 'macos'"], "posture:new": ["node:osVersion >= '6.8'"]},
	"grants": [
		{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:443", "tcp:8000-8010"]},
		{"name": "office hours", "src": ["bob"], "dst": ["tag:db"], "ip": ["tcp:5432"], "when": {"days": ["mon-fri"], "hours": "08:00-18:00", "zone": "UTC"}},
		{"src": ["ann"], "dst": ["tag:db"], "ip": ["tcp:5432"], "until": "2030-01-01T00:00:00Z"},
		{"src": ["cyd"], "dst": ["tag:db"], "ip": ["tcp:5432"], "srcPosture": ["posture:mac", "posture:new"]},
		{"src": ["ann"], "dst": ["office"], "ip": ["*"], "via": ["tag:gw2"]},
		{"src": ["bob"], "dst": ["10.1.0.0/17"], "ip": ["*"], "via": ["tag:gw9"]},
		{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]},
		{"src": ["office"], "dst": ["tag:web"], "ip": ["udp:53"]},
		{"src": ["autogroup:member"], "dst": ["autogroup:internet"], "ip": ["80,443"]},
	],
}`
	dir := office()
	dir.Devices[3].Facts = map[string]string{"node:os": "linux"}
	c := New(parse(t, text), dir, start)
	wednesday := start
	night := wednesday.Add(11 * time.Hour)
	for _, q := range []struct {
		src, dst string
		protocol uint8
		port     uint16
		at       time.Time
		want     string
	}{
		{"ann-laptop", "web-1", 6, 443, wednesday, "ann-laptop (100.64.0.1) to web-1 (100.64.0.5), tcp:443: allowed by grants[0] (line 6 of the policy)\n"},
		{"ann-laptop", "fd00:1::5", 6, 443, wednesday, "ann-laptop (fd00:1::1) to web-1 (fd00:1::5), tcp:443: allowed by grants[0] (line 6 of the policy)\n"},
		{"bob-laptop", "db-1", 6, 5432, wednesday, "bob-laptop (100.64.0.3) to db-1 (100.64.0.7), tcp:5432: allowed by office hours (line 7 of the policy)\n"},
		{"10.1.2.3", "web-1", 17, 53, wednesday, "gw-1 (10.1.2.3) to web-1 (100.64.0.5), udp:53: allowed by grants[7] (line 13 of the policy)\n"},
		{"ann-laptop", "ann-phone", 1, 0, wednesday, "ann-laptop (100.64.0.1) to ann-phone (100.64.0.2), icmp: allowed by grants[6] (line 12 of the policy)\n"},
		{"ann-laptop", "10.1.200.1", 6, 22, wednesday, "ann-laptop (100.64.0.1) to gw-2 (10.1.200.1), tcp:22: allowed by grants[4] (line 10 of the policy)\n"},
		{"cyd-laptop", "1.1.1.1", 6, 443, wednesday, "cyd-laptop (100.64.0.4) to exit (1.1.1.1), tcp:443: allowed by grants[8] (line 14 of the policy)\n"},

		{"ann-laptop", "web-1", 6, 22, wednesday, `ann-laptop (100.64.0.1) to web-1 (100.64.0.5), tcp:22: denied
  grants[0] (line 6): it allows tcp:443, tcp:8000-8010, not tcp:22
`},
		{"bob-laptop", "db-1", 6, 22, night, `bob-laptop (100.64.0.3) to db-1 (100.64.0.7), tcp:22: denied
  office hours (line 7): it allows tcp:5432, not tcp:22; it holds mon-fri 08:00-18:00 UTC only
`},
		{"cyd-laptop", "db-1", 6, 5432, wednesday, `cyd-laptop (100.64.0.4) to db-1 (100.64.0.7), tcp:5432: denied
  grants[3] (line 9): posture:mac asks for node:os == 'macos', and of cyd-laptop it is "linux"; posture:new asks for node:osVersion >= '6.8', and of cyd-laptop it is not known
`},
		{"ann-laptop", "db-1", 6, 5432, wednesday, `ann-laptop (100.64.0.1) to db-1 (100.64.0.7), tcp:5432: denied
  grants[2] (line 8): it expired at 2030-01-01T00:00:00Z
`},
		{"bob-laptop", "10.1.3.3", 6, 22, wednesday, `bob-laptop (100.64.0.3) to gw-1 (10.1.3.3), tcp:22: denied
  grants[5] (line 11): it leads through devices with tag:gw9, which gw-1 has not
  grants[5] (line 11): it leads through devices with tag:gw9, which gw-2 has not
`},
		{"bob-laptop", "ann-phone", 6, 22, wednesday, `bob-laptop (100.64.0.3) to ann-phone (100.64.0.2), tcp:22: denied
  grants[6] (line 12): dst has autogroup:self, and the devices are not of one user
`},
		{"cyd-laptop", "web-1", 6, 22, wednesday, `cyd-laptop (100.64.0.4) to web-1 (100.64.0.5), tcp:22: denied
  grants[6] (line 12): dst has autogroup:self, and web-1 (tag:web) belongs to no user
  grants[0] (line 6): src has group:eng, which cyd-laptop (of cyd) is not; it allows tcp:443, tcp:8000-8010, not tcp:22
  grants[7] (line 13): src has office, which cyd-laptop (of cyd) is not; it allows udp:53, not tcp:22
  grants[8] (line 14): dst has autogroup:internet, which web-1 (tag:web) is not; it allows icmp:*, tcp:80, tcp:443, udp:80, udp:443, icmpv6:*, not tcp:22
  grants[3] (line 9): posture:mac asks for node:os == 'macos', and of cyd-laptop it is "linux"; posture:new asks for node:osVersion >= '6.8', and of cyd-laptop it is not known; dst has tag:db, which web-1 (tag:web) is not; it allows tcp:5432, not tcp:22
`},
		{"exit", "gw-1", 6, 22, wednesday, "exit (100.64.0.10) to gw-1 (100.64.0.8), tcp:22: denied\n  no grant has such a source or such a destination\n"},
		{"web-1", "web-1", 6, 22, wednesday, "web-1 is one device: what it sends to itself does not pass the network\n"},
		{"172.16.0.1", "web-1", 6, 22, wednesday, "no device has or carries 172.16.0.1\n"},
	} {
		got := c.Explain(Question{byName(dir, q.src), byName(dir, q.dst), q.protocol, q.port}, q.at).String()
		if got != q.want {
			t.Errorf("%s > %s %d/%d:\n%swant\n%s", q.src, q.dst, q.protocol, q.port, got, q.want)
		}
	}
	if got := c.Explain(Question{Src: End{Device: ID{99}}, Dst: byName(dir, "web-1")}, start).String(); got != "there is no such device\n" {
		t.Error(got)
	}
}
