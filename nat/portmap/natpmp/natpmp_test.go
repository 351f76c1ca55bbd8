package natpmp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRequests(t *testing.T) {
	for name, tc := range map[string]struct {
		got  []byte
		want string
	}{
		"address": {AddressRequest(), "0000"},
		"map":     {MapRequest(0x1234, 0x5678, 2*time.Hour), "000100001234567800001c20"},
		"delete":  {MapRequest(0x1234, 0, 0), "000100001234000000000000"},
	} {
		if got := hex.EncodeToString(tc.got); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want Response
	}{
		"address": {"008000000000000acb007105", Response{Op: Address, Epoch: 10, External: netip.MustParseAddr("203.0.113.5")}},
		"mapping": {"00810000000000ff1234567800000e10",
			Response{Op: MapUDP, Epoch: 255, Internal: 0x1234, Mapped: 0x5678, Life: time.Hour}},
		"longest life": {"008100000000000012345678ffffffff", Response{Op: MapUDP, Internal: 0x1234, Mapped: 0x5678, Life: (1<<32 - 1) * time.Second}},
		"refused":      {"0081000200000001", Response{Op: MapUDP, Result: NotAuthorized, Epoch: 1}},
		"refused, whole": {"00810004000000011234000000000000",
			Response{Op: MapUDP, Result: OutOfResources, Epoch: 1}},
		"PCP not known": {"0081000100000001" + "0000000000000000", Response{Op: MapUDP, Result: UnsupportedVersion, Epoch: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(unhex(t, tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	for name, in := range map[string]string{
		"empty":             "",
		"a request":         "000100001234567800001c20",
		"another version":   "028000000000000acb007105",
		"cut header":        "00800000000000",
		"cut address":       "008000000000000acb0071",
		"address too long":  "008000000000000acb00710500",
		"cut mapping":       "00810000000000ff12345678",
		"TCP mapping":       "00820000000000ff1234567800000e10",
		"address as mapped": "00810000000000ffcb007105",
	} {
		if got, err := Parse(unhex(t, in)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %+v, %v; want %v", name, got, err, ErrFormat)
		}
	}
	if _, err := Parse(append([]byte{0, 0x81, 0, 1, 0, 0, 0, 0}, make([]byte, maxSize)...)); err == nil {
		t.Error("an oversized response was taken")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"008000000000000acb007105", "00810000000000ff1234567800000e10", "0081000200000001", "00"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		r, err := Parse(b)
		if !bytes.Equal(before, b) {
			t.Fatal("Parse changed its input")
		}
		if err != nil {
			if r != (Response{}) {
				t.Fatalf("an error and %+v", r)
			}
			return
		}
		if r.Result != Success && (r.External.IsValid() || r.Internal != 0 || r.Mapped != 0 || r.Life != 0) {
			t.Fatalf("a refusal that grants: %+v", r)
		}
		if r.Result == Success && r.Op == Address && !r.External.Is4() {
			t.Fatalf("no IPv4 address: %+v", r)
		}
	})
}
