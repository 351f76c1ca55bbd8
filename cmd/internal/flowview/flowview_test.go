package flowview

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"warren/tunnel/flowlog"
)

func TestLine(t *testing.T) {
	at := time.Date(2026, 11, 25, 12, 0, 5, 0, time.Local)
	r := flowlog.Record{
		At: at, Kind: "ended", Device: "desk", User: "ann", Protocol: "tcp", Source: netip.MustParseAddr("fd00::2"), SourcePort: 1000,
		Destination: netip.MustParseAddr("fd00::1"), DestinationPort: 443, Grant: "web", Reason: "idle", ReceivedBytes: 2048, ReceivedPackets: 3, Flows: 1,
	}
	merged, refused := r, r
	merged.Flows, merged.SourcePort, merged.Kind, merged.Reason = 12, 0, "new", ""
	refused.Kind, refused.Grant, refused.User, refused.Reason = "refused", "", "", ""
	for want, r := range map[string]flowlog.Record{
		"12:00:05|ended|desk|ann|tcp|[fd00::2]:1000|[fd00::1]:443|web|2.0 KiB in 3|-|idle\n":   r,
		"12:00:05|new|desk|ann|tcp x 12|fd00::2|[fd00::1]:443|web|2.0 KiB in 3|-\n":            merged,
		"12:00:05|refused|desk|-|tcp|[fd00::2]:1000|[fd00::1]:443|-|2.0 KiB in 3|-|no grant\n": refused,
		"12:00:05|omitted|desk|-|-|-|-|-|-|-|1 new, 2 ended, 3 refused\n":                      {At: at, Kind: "omitted", Device: "desk", OmittedNew: 1, OmittedEnded: 2, OmittedRefused: 3},
	} {
		var out strings.Builder
		if err := Line(&out, &r, "|"); err != nil || out.String() != want {
			t.Errorf("%v\n%swant\n%s", err, out.String(), want)
		}
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	at := time.Date(2026, 11, 25, 12, 0, 5, 0, time.Local)
	if err := Table(&out, []flowlog.Record{{At: at, Kind: "refused", Device: "desk", Protocol: "icmp"}}); err != nil {
		t.Fatal(err)
	}
	want := "TIME      KIND     PEER  USER  FLOW  FROM  TO  GRANT  RECEIVED  SENT  WHY\n12:00:05  refused  desk  -     icmp  -     -   -      -         -     no grant\n"
	if out.String() != want {
		t.Errorf("%s\nwant\n%s", &out, want)
	}
}
