package netnstest

import (
	"fmt"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// namespace names that of the calling thread.
func namespace(t *testing.T) string {
	t.Helper()
	at, err := os.Readlink(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		t.Error(err)
	}
	return at
}

func TestRun(t *testing.T) {
	before := namespace(t)
	for range 3 {
		ran := false
		Run(t, func(t *testing.T) {
			ran = true
			if inside := namespace(t); inside == before {
				t.Errorf("still in %s", inside)
			}
			all, err := net.Interfaces()
			if err != nil || len(all) != 1 || all[0].Flags&net.FlagUp != 0 {
				t.Errorf("%v, %v; want the loopback interface, down", all, err)
			}
		})
		if after := namespace(t); !ran || after != before {
			t.Errorf("ran %v; the caller is in %s afterwards, was in %s", ran, after, before)
		}
	}
}
