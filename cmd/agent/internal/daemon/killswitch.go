package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"connectrpc.com/connect"

	"warren/cmd/agent/internal/state"
	"warren/tunnel/router"
)

// The kill switch is set before the state that asks for it is stored and lifted after the one that does not, so that whatever interrupts that leaves
// it set. It is kept by the daemon and not by a session, since it has to hold while there is none; a session adds the exceptions for the LAN.

// holdKillSwitch sets the kill switch if next, the state to come, has it on.
func (d *daemon) holdKillSwitch(next *state.State) error {
	if !next.Routing.KillSwitch {
		return nil
	}
	if _, err := router.HoldKillSwitch(d.cfg.Interface); err != nil {
		return connect.NewError(connect.CodeFailedPrecondition, err)
	}
	if err := d.writeKillSwitch(); err != nil {
		return internal(err)
	}
	d.killErr = nil
	return nil
}

// writeKillSwitch leaves a file with which the host sets the kill switch when it starts, before its network and without this program
// (warren-killswitch.service). It has no exceptions for the LAN: a session adds them.
func (d *daemon) writeKillSwitch() error {
	return router.WriteKillSwitch(state.KillSwitchFile(d.cfg.StateDir), d.cfg.Interface, nil)
}

// liftKillSwitch lifts it if the state has it off. The caller holds mu.
func (d *daemon) liftKillSwitch() error {
	if d.cfg.Userspace != nil || d.state.Routing.KillSwitch {
		return nil
	}
	if err := os.Remove(state.KillSwitchFile(d.cfg.StateDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("kill switch for the next start: %w", err)
	}
	return router.LiftKillSwitch()
}

// keepKillSwitch sets it again if it is gone and the state has it on. The caller holds mu, or is alone.
func (d *daemon) keepKillSwitch() {
	if d.cfg.Userspace != nil || !d.state.Routing.KillSwitch {
		return
	}
	set, err := router.HoldKillSwitch(d.cfg.Interface)
	if _, missing := os.Stat(state.KillSwitchFile(d.cfg.StateDir)); err == nil && missing != nil { // this program's forerunner wrote none
		err = d.writeKillSwitch()
	}
	if err != nil && (d.killErr == nil || d.killErr.Error() != err.Error()) {
		d.log.Error("this host is not kept from sending outside of the tunnel", "err", err)
	}
	if set {
		d.log.Info("the kill switch is set", "interface", d.cfg.Interface)
	}
	d.killErr = err
}

// killSwitchWarning is for a person: where the host is not as the state says. The caller holds mu.
func (d *daemon) killSwitchWarning() string {
	if d.cfg.Userspace != nil {
		return "" // a session is not begun while it is on
	}
	if d.state.Routing.KillSwitch {
		if d.killErr != nil {
			return "this host is not kept from sending outside of the tunnel: " + d.killErr.Error()
		}
		return ""
	}
	if on, err := router.KillSwitchOn(); err == nil && on {
		return "a kill switch is set on this host that this device has not asked for; \"warren up --kill-switch=false\" lifts it"
	}
	return ""
}
