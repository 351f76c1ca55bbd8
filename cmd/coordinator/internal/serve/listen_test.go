package serve

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// TestListenInstead: who may not have a low port is told what gives the right to it.
func TestListenInstead(t *testing.T) {
	for err, want := range map[error]string{syscall.EACCES: "CAP_NET_BIND_SERVICE", syscall.EADDRINUSE: "choose another with --listen"} {
		said := listenInstead(fmt.Errorf("listen tcp :443: bind: %w", err))
		if !strings.HasSuffix(said, "choose another with --listen") || !strings.Contains(said, want) || (err == syscall.EADDRINUSE) != (said == want) {
			t.Errorf("%v: %s", err, said)
		}
	}
}
