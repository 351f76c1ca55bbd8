package system

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// asNobody makes a TUN device that anybody may open, as udev does on most systems, where this process may, and goes on as nobody. In a user
// namespace it may neither, nor need to: who runs the test is nobody special there.
const asNobody = `
if setpriv --reuid=nobody --regid=nogroup --clear-groups true 2>/dev/null; then
	mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 || exit 1
	exec setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"
fi
exec "$@"
`

// TestDemoWithoutRoot runs the demo as an ordinary user, who has a user namespace and nothing else.
func TestDemoWithoutRoot(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := openDir(t)
	demo := filepath.Join(dir, "demo")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", demo, "warren/internal/lab/demo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, program := range []string{"warren", "warren-coordinator"} {
		if out, err := exec.CommandContext(ctx, "cp", filepath.Join(bin, program), dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	out, err := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-c", asNobody, "sh", demo, "-bin", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"path direct to", "one TCP stream through the tunnel", "desk$ warren status", "Everything worked."} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
}

// openDir is a directory that others may look into, unlike those of testing.T.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "warren-open")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	return dir
}
