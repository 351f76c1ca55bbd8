// Package unitjob tells what systemd is about to do with the service that this process is. Restarting is all there is to call.
//
// A service that is restarted gets the same signal as one that is stopped. What tells them apart is the job that systemd has queued for the unit, and
// "systemctl list-jobs" shows it for as long as the service takes to end.
package unitjob

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// ErrNoService says that this process is no service of systemd's.
var ErrNoService = errors.New("this process belongs to no service of systemd's")

// Variable of the environment names the unit where the process's control group does not show it, as in a control group namespace.
const Variable = "WARREN_UNIT"

// Restarting reports whether the service of this process will be started again as soon as it has ended. It is false for a service that is to stay
// stopped, and for one that was not told to end by systemd.
func Restarting(ctx context.Context) (bool, error) {
	unit, err := ownUnit()
	if err != nil {
		return false, err
	}
	for try := 1; ; try++ {
		out, err := exec.CommandContext(ctx, "systemctl", "list-jobs", "--no-legend", "--no-pager", "--plain", "--full", "--", unit).Output()
		if err == nil {
			return restarts(string(out), unit), nil
		}
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			if failed.ExitCode() < 0 && ctx.Err() == nil && try < tries {
				continue // systemd means all processes of the service by its signal, and got this one too
			}
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(failed.Stderr)))
		}
		return false, fmt.Errorf("systemctl list-jobs %s: %w", unit, err)
	}
}

// tries is how often systemctl is asked, if it is killed.
const tries = 5

func ownUnit() (string, error) {
	if unit := os.Getenv(Variable); unit != "" {
		return unit, nil
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoService, err)
	}
	unit, ok := unitOf(string(groups))
	if !ok {
		return "", ErrNoService
	}
	return unit, nil
}

// unitOf finds the service in /proc/PID/cgroup (cgroups(7)): in the only hierarchy of version 2, or in systemd's own of version 1.
func unitOf(groups string) (unit string, ok bool) {
	for line := range strings.Lines(groups) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || parts[1] != "" && parts[1] != "name=systemd" {
			continue
		}
		names := strings.Split(parts[2], "/")
		for i := len(names) - 1; i >= 0; i-- { // the innermost: a service may have groups below its own
			if name := names[i]; strings.HasSuffix(name, ".service") && !strings.HasPrefix(name, "user@") && name[0] != '-' {
				return name, true
			}
		}
	}
	return "", false
}

// restarts reads a list of jobs: each line has a number, the unit, the type and the state.
func restarts(jobs, unit string) bool {
	for line := range strings.Lines(jobs) {
		if f := strings.Fields(line); len(f) >= 3 && f[1] == unit {
			return f[2] == "restart" || f[2] == "try-restart"
		}
	}
	return false
}
