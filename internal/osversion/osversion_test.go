package osversion

import (
	"os"
	"runtime"
	"strings"
	"testing"
)

// TestGet compares with what the kernel tells otherwise, where it does.
func TestGet(t *testing.T) {
	got := Get()
	if got == "" || strings.Trim(got[:1], "0123456789") != "" {
		t.Errorf("version %q", got)
	}
	if runtime.GOOS != "linux" {
		return
	}
	want, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil || got != strings.TrimSpace(string(want)) {
		t.Errorf("version %q, the kernel says %q, %v", got, want, err)
	}
}
