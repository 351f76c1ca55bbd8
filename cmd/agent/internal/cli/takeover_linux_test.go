package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCheckOfASuccessor: whatever stands in the program's place, the daemon learns in time whether it can take over, and why not.
func TestCheckOfASuccessor(t *testing.T) {
	const soon, never = 50 * time.Millisecond, time.Minute
	for _, tc := range []struct {
		name, program string
		mode          os.FileMode
		patience      time.Duration
		want          string // the version, or, after "!", the error's end
	}{
		{"good", "#!/bin/sh\n[ \"$*\" = 'daemon --port 7 --check' ] && echo '{\"version\": \"v9\"}'\n", 0o700, never, "v9"},
		{"refuses", "#!/bin/sh\necho written by a newer warren >&2; exit 1\n", 0o700, never, "!: exit status 1: written by a newer warren"},
		{"no program", "hello", 0o700, never, "!exec format error"},
		{"another processor's", "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\xb7\x00", 0o700, never, "!exec format error"},
		{"not executable", "#!/bin/sh\n", 0o600, never, "!permission denied"},
		{"another program", "#!/bin/sh\n", 0o700, never, `!: it says "" and no version`},
		{"hangs", "#!/bin/sh\nsleep 60 & echo $! >$0.left; wait\n", 0o700, soon, "!: no answer within 50ms"},
		{"leaves somebody with its output", "#!/bin/sh\nsleep 60 & echo $! >$0.left; exit 1\n", 0o700, never, "!: exit status 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "warren")
			if err := os.WriteFile(program, []byte(tc.program), tc.mode); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { end(t, program+".left") })
			s := successor{program: program, args: []string{"warren", "daemon", "--port", "7"}}
			began := time.Now()
			got, err := s.checkWithin(t.Context(), tc.patience)
			if took := time.Since(began); took > never/2 {
				t.Errorf("it took %s", took)
			}
			if end, fails := strings.CutPrefix(tc.want, "!"); fails {
				if err == nil || !strings.HasPrefix(err.Error(), program+" cannot take over: ") || !strings.HasSuffix(err.Error(), end) {
					t.Errorf("%v, want one that ends %q", err, end)
				}
			} else if err != nil || got != tc.want {
				t.Errorf("%q, %v, want %q", got, err, tc.want)
			}
		})
	}
}

// end ends the process with the number in a file, if it was written: the program may have been killed before.
func end(t *testing.T, file string) {
	b, _ := os.ReadFile(file)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
}
