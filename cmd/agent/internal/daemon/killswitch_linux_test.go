package daemon

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"warren/cmd/agent/internal/state"
	"warren/internal/netnstest"
	"warren/tunnel/router"
)

// TestKillSwitchFile: while the kill switch is on there is a file that sets it on a host that starts; it is gone with the kill switch, and is made
// again where it is missing.
func TestKillSwitchFile(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		dir := t.TempDir()
		off, on := &state.State{}, &state.State{Routing: state.Routing{KillSwitch: true}}
		d := &daemon{cfg: Config{StateDir: dir, Interface: "warren0"}, log: slog.New(slog.DiscardHandler), state: off}
		there := func() bool {
			_, err := os.Stat(state.KillSwitchFile(dir))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			return err == nil
		}
		if err := d.holdKillSwitch(off); err != nil || there() {
			t.Fatalf("off: %v, the file is there: %t", err, there())
		}
		if err := d.holdKillSwitch(on); err != nil || !there() {
			t.Fatalf("on: %v, the file is there: %t", err, there())
		}
		d.state = on
		if err := d.liftKillSwitch(); err != nil || !there() {
			t.Fatalf("lifted while it is wanted: %v, the file is there: %t", err, there())
		}
		if err := os.Remove(state.KillSwitchFile(dir)); err != nil {
			t.Fatal(err)
		}
		if d.keepKillSwitch(); d.killErr != nil || !there() {
			t.Fatalf("kept: %v, the file is there: %t", d.killErr, there())
		}

		// What a start of the host does: the kernel knows nothing, and nft loads the file.
		if err := router.LiftKillSwitch(); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("nft", "-f", state.KillSwitchFile(dir)).CombinedOutput(); err != nil {
			t.Fatalf("nft: %v\n%s", err, out)
		}
		if set, err := router.KillSwitchOn(); err != nil || !set {
			t.Fatalf("loaded from the file: %t, %v", set, err)
		}
		d.state = off
		if err := d.liftKillSwitch(); err != nil || there() {
			t.Fatalf("lifted: %v, the file is there: %t", err, there())
		}
		if set, err := router.KillSwitchOn(); err != nil || set {
			t.Fatalf("lifted, and set: %t, %v", set, err)
		}
	})
}
