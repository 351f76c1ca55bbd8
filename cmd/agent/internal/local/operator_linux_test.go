package local

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGrantWithFewRights: a service that has CAP_CHOWN, and neither CAP_FOWNER nor CAP_DAC_OVERRIDE, hands its socket from one to another, and still may
// use it itself, as its watchdog does.
func TestGrantWithFewRights(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its rights
		const chown = 1 << unix.CAP_CHOWN
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data := [2]unix.CapUserData{{Effective: chown, Permitted: chown}}
		if err := unix.Capset(&head, &data[0]); err != nil {
			t.Errorf("capset: %v", err)
			return
		}
		for _, o := range []Operator{{set: true, id: 65534}, {set: true, id: 1}, {set: true, group: true, id: 65534}, {set: true, id: 65534}, {}} {
			if err := Grant(path, o); err != nil {
				t.Errorf("%+v: %v", o, err)
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Errorf("%+v: the service itself: %v", o, err)
				continue
			}
			f.Close()
		}
	}()
	<-done
}
