package version

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestForms(t *testing.T) {
	for text, want := range map[string][3]string{
		"v1.2.3":                             {"1.2.3", "1.2.3", "1.2.3"},
		"v1.2.3-rc.1":                        {"1.2.3-rc.1", "1.2.3~rc.1", "1.2.3_rc1"},
		"v1.2.3-beta2":                       {"1.2.3-beta2", "1.2.3~beta2", "1.2.3_beta2"},
		"v0.0.0-20261126022149-4d0929331512": {"0.0.0-20261126022149-4d0929331512", "0.0.0~20261126022149.4d0929331512", "0.0.0_pre20261126022149"},
		"v1.2.4-0.20261126022149-4d0929331512+dirty": {"1.2.4-0.20261126022149-4d0929331512+dirty", "1.2.4~0.20261126022149.4d0929331512+dirty", "1.2.4_pre20261126022149"},
		"v1.2.3-rc.1.0.20261126022149-4d0929331512":  {"1.2.3-rc.1.0.20261126022149-4d0929331512", "1.2.3~rc.1.0.20261126022149.4d0929331512", "1.2.3_pre20261126022149"},
		"v1.2.3-strange": {"1.2.3-strange", "1.2.3~strange", "1.2.3_pre"},
		"v1.2.3+a-b":     {"1.2.3+a.b", "1.2.3+a.b", "1.2.3"},
	} {
		v, err := Parse(text)
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(want, [3]string{v.String(), v.Package(), v.Alpine()}); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
	for _, text := range []string{"", "devel", "(devel)", "1.2.3", "v1.2", "v1.2.3.4", "v1.2.3-", "v1.2.3 ", "v1.2.3\n", "v1.2.3-a b", "devel-4d0929331512"} {
		if v, err := Parse(text); err == nil {
			t.Errorf("%q was taken for %s", text, v)
		}
	}
}

func TestOf(t *testing.T) {
	c := Commit{Hash: "4d0929331512ffffffff", At: time.Date(2026, 11, 26, 3, 21, 49, 0, time.FixedZone("", 3600))}
	for _, test := range []struct {
		before, exact string
		changed       bool
		want          string
	}{
		{"", "", false, "0.0.0-20261126022149-4d0929331512"},
		{"v1.2.9", "", false, "1.2.10-0.20261126022149-4d0929331512"},
		{"v1.2.0-rc.1", "", true, "1.2.0-rc.1.0.20261126022149-4d0929331512+dirty"},
		{"v1.2.0", "v1.2.0", false, "1.2.0"},
		{"v1.2.0", "v1.2.0", true, "1.2.0+dirty"},
		{"v1.2", "", false, ""},
		{"", "v99999999999999999999.0.0-", false, ""},
		{"v99999999999999999999.0.0", "", false, ""},
	} {
		c.Before, c.Exact, c.Changed = test.before, test.exact, test.changed
		v, err := Of(c)
		if (err != nil) != (test.want == "") || err == nil && v.String() != test.want {
			t.Errorf("before %q, exact %q: %s, %v; want %q", test.before, test.exact, v, err, test.want)
		}
		if err != nil {
			continue
		}
		if again, err := Parse("v" + v.String()); err != nil || again.Alpine() != v.Alpine() {
			t.Errorf("%s cannot be read back: %v", v, err)
		}
	}
	if _, err := Of(Commit{Hash: "4d09"}); err == nil {
		t.Error("a short hash was taken")
	}
}
