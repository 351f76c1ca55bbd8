package cmdline

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// run types a command line of a program that has only these commands, and gives what it prints.
func run(out *bytes.Buffer, args []string, commands ...*cobra.Command) error {
	root := &cobra.Command{Use: "dig", SilenceErrors: true, SilenceUsage: true}
	root.SetFlagErrorFunc(FlagError)
	root.PersistentFlags().Uint16("depth", 0, "")
	root.PersistentFlags().Bool("wide", false, "")
	root.PersistentFlags().Duration("within", 0, "")
	root.PersistentFlags().Float64("angle", 0, "")
	root.AddCommand(commands...)
	root.SetArgs(args)
	root.SetOut(out)
	return root.Execute()
}

// TestMistakes: what is wrong with a call is told with the command, and counts as wrong usage.
func TestMistakes(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string // "": no error
	}{
		{[]string{"hole", "deep"}, ""},
		{[]string{"hole"}, ""}, // its help
		{[]string{"hole", "deep", "x"}, `hole deep: unknown command "x" for "dig hole deep"`},
		{[]string{"hole", "high"}, `dig hole: unknown command "high"`},
		{[]string{"log-level", "a", "b"}, "log-level: accepts at most 1 arg(s), received 2"},
		{[]string{"log-level", "loud"}, `"loud" is no log level; want debug, info, warn, error`},
		{[]string{"hole", "deep", "--depth", "70000"}, `--depth "70000": want a whole number, from 0 to 65535`},
		{[]string{"hole", "deep", "--wide=very"}, `--wide "very": want true or false`},
		{[]string{"hole", "deep", "--within", "soon"}, `--within "soon": want a time, such as 90s or 24h`},
		{[]string{"hole", "deep", "--angle", "sharp"}, `invalid argument "sharp" for "--angle" flag: strconv.ParseFloat: parsing "sharp": invalid syntax`},
		{[]string{"hole", "deep", "--high"}, "unknown flag: --high"},
		{[]string{"bugreport", "now"}, `bugreport: unknown command "now" for "dig bugreport"`},
	} {
		var out bytes.Buffer
		json := false
		deep := &cobra.Command{Use: "deep", Args: Args(cobra.NoArgs), RunE: func(*cobra.Command, []string) error { return nil }}
		err := run(&out, tc.args, Group("hole", "Holes", deep),
			LogLevel("daemon", "dig", &out, &json, func(context.Context, string) (string, error) { return "", errors.New("asked") }),
			BugReport("dig", "", &out, &json, time.Now, func(context.Context, string, bool, time.Time) error { return errors.New("made") }))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || err != nil && !errors.As(err, new(UsageError)) {
			t.Errorf("%q: %T (-want +got)\n%s", tc.args, err, diff)
		}
	}
}

// TestShared: the commands that both programs have say what they did, in words and in JSON.
func TestShared(t *testing.T) {
	failed := errors.New("failed")
	for _, tc := range []struct {
		args []string
		json bool
		err  error
		want string
	}{
		{[]string{"log-level"}, false, nil, "now: info\n"},
		{[]string{"log-level", "debug"}, true, nil, "{\n  \"level\": \"now: debug\"\n}\n"},
		{[]string{"log-level", "debug"}, false, failed, ""},
		{[]string{"bugreport"}, false, nil, "dig-bugreport-19700101-000001.tar.gz\nLook at it before you pass it on: tar -xzf dig-bugreport-19700101-000001.tar.gz\n"},
		{[]string{"bugreport", "--redact", "-o", "x"}, true, nil, "{\n  \"file\": \"x\"\n}\n"},
		{[]string{"bugreport"}, false, failed, ""},
	} {
		var out bytes.Buffer
		set := func(_ context.Context, level string) (string, error) {
			if level == "" {
				level = "info"
			}
			return "now: " + level, tc.err
		}
		create := func(_ context.Context, file string, redact bool, now time.Time) error {
			if redact != (file == "x") || now.Unix() != 1 {
				t.Errorf("made %s, redacted %t, at %s", file, redact, now)
			}
			return tc.err
		}
		err := run(&out, tc.args, LogLevel("daemon", "dig", &out, &tc.json, set),
			BugReport("dig", "", &out, &tc.json, func() time.Time { return time.Unix(1, 0) }, create))
		if diff := cmp.Diff(tc.want, out.String()); diff != "" || !errors.Is(err, tc.err) {
			t.Errorf("%q: %v (-want +got)\n%s", tc.args, err, diff)
		}
	}
}
