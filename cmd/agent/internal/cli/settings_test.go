package cli

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/testing/protocmp"

	"warren/cmd/internal/cmdline"
	pb "warren/proto/warrenv1"
)

// settingsOf reads a command line's settings.
func settingsOf(t *testing.T, args ...string) (s *pb.Settings, err error) {
	t.Helper()
	cmd := &cobra.Command{Use: "set"}
	given := settingsFlags(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return given(cmd)
}

func to[T any](v T) *T { return &v }

func TestSettingsGiven(t *testing.T) {
	list := func(texts ...string) *pb.TextList { return &pb.TextList{Values: texts} }
	for line, want := range map[string]*pb.Settings{
		"":               {},
		"--name=":        {Name: to("")},
		"--name desk":    {Name: to("desk")},
		"--operator ann": {Operator: to("ann")},
		"--advertise=":   {Advertise: list()},
		"--advertise 10.1.0.0/16,192.168.1.0/24=10.77.1.0/24 --advertise 10.2.0.0/16": {Advertise: list("10.1.0.0/16", "192.168.1.0/24=10.77.1.0/24", "10.2.0.0/16")},
		"--site fd00::/48":                        {Site: list("fd00::/48")},
		"--advertise-exit":                        {AdvertiseExit: to(true)},
		"--advertise-exit=false --exit-node auto": {AdvertiseExit: to(false), ExitNode: to("auto")},
		"--priority 255":                          {Priority: to(uint32(255))},
		"--probe 10.1.0.1,fd00::1":                {Probe: list("10.1.0.1", "fd00::1")},
		"--accept-routes=false":                   {AcceptRoutes: to(false)},
		"--prefer-lan 10.0.0.0/8":                 {PreferLan: list("10.0.0.0/8")},
		"--exit-node= --exit-allow-lan":           {ExitNode: to(""), ExitAllowLan: to(true)},
		"--kill-switch=false":                     {KillSwitch: to(false)},
	} {
		got, err := settingsOf(t, strings.Fields(line)...)
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", line, err, diff)
		}
	}
}

// TestSettingsMisused: what no network makes right is wrong use of the command, and the reason says what to write.
func TestSettingsMisused(t *testing.T) {
	for line, want := range map[string]string{
		"--advertise 10.1.2.3/16":                    "write 10.1.0.0/16",
		"--advertise 0.0.0.0/0":                      "--advertise-exit",
		"--site 10.1.0.0/16=10.2.0.0/16":             "--advertise",
		"--site 10.1.0.0/16 --advertise 10.1.2.0/24": "10.1.2.0/24",
		"--priority 0":                               "1 to 255",
		"--probe printer":                            `"printer": not an address`,
		"--probe fe80::1%eth0":                       "fe80::1%eth0",
		"--prefer-lan lan":                           `"lan": not a CIDR`,
		"--prefer-lan 10.1.2.0/16":                   "write 10.1.0.0/16",
		"--advertise-exit --exit-node out":           "choose one of the two",
	} {
		_, err := settingsOf(t, strings.Fields(line)...)
		if !errors.As(err, new(cmdline.UsageError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}
