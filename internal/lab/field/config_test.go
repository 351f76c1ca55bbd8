package field

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// golden compares with a file of testdata. With WARREN_UPDATE=1 it writes the file anew.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("WARREN_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("not as in %s (-want +got):\n%s", file, diff)
	}
}

func TestConfigurations(t *testing.T) {
	device := nebulaConfig{
		CA: "/lab/ca.crt", Cert: "/lab/1.crt", Key: "/lab/1.key",
		Lighthouse: netip.MustParseAddr("10.98.0.1"), LighthouseAt: netip.MustParseAddrPort("203.0.113.2:4242"),
	}
	lighthouse := device
	lighthouse.IsLighthouse = true
	for name, got := range map[string][]byte{
		"nebula-device.yml":     device.yaml(),
		"nebula-lighthouse.yml": lighthouse.yaml(),
		"headscale.yml": headscaleConfig{
			Dir: "/lab", Address: netip.MustParseAddr("203.0.113.2"), Cert: "/lab/server.crt", Key: "/lab/server.key",
		}.yaml(),
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, string(got)) })
	}
}

func TestFilesWithOddNamesAreQuoted(t *testing.T) {
	const odd = "/a \"b\": #\nc"
	const want = `"/a \"b\": #\nc`
	for name, got := range map[string][]byte{
		"nebula":    nebulaConfig{CA: odd, Cert: odd, Key: odd}.yaml(),
		"headscale": headscaleConfig{Dir: odd, Cert: odd, Key: odd}.yaml(),
	} {
		if n := strings.Count(string(got), want); n < 3 || strings.Contains(string(got), "\nc") {
			t.Errorf("%s: %d quoted names in\n%s", name, n, got)
		}
	}
}

func TestJoinKey(t *testing.T) {
	for _, c := range []struct{ name, text, want, err string }{
		{"as printed", `{"id": 1, "key": "hskey-auth-1-abc", "reusable": true, "user": {"id": 1}}`, "hskey-auth-1-abc", ""},
		{"none", `{"id": 1}`, "", "printed no join key"},
		{"not JSON", "Error: no such user", "", "invalid character"},
		{"empty", "", "", "unexpected end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseJoinKey(c.text)
			checkError(t, err, c.err)
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// checkError wants an error with a text in it, or none if that is empty.
func checkError(t *testing.T, err error, text string) {
	t.Helper()
	switch {
	case text == "" && err != nil:
		t.Fatal(err)
	case text != "" && (err == nil || !strings.Contains(err.Error(), text)):
		t.Errorf("the error is %v, without %q", err, text)
	}
}
