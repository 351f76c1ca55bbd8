package field

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// System is a mesh VPN that can run in the lab.
type System interface {
	Name() string
	// Can tells whether the system has a way to connect the pair at all, as its makers say; if not, why.
	Can(Pair) (bool, string)
	// Start starts what the devices need to meet, and prepares both for joining, as an administrator does.
	Start(context.Context, Place) (Network, error)
}

// Network is a running system. What it runs on hosts of the lab ends with the lab, so there is nothing to close.
type Network interface {
	// Join makes a host of the place a device and returns once its program says that it is up.
	Join(context.Context, *lab.Host) (Device, error)
	// Programs are the processes at the relay's host.
	Programs() []int
}

// Device is one that has joined.
type Device struct {
	Address netip.Addr // inside the tunnel
	Process int        // its agent, 0 if there is none
}

// Place is where a system runs.
type Place struct {
	Lab     *lab.Lab
	Relay   *lab.Host // for coordinator, relay and the like; public
	Devices [2]*lab.Host
	Dir     string // empty, removed afterwards
}

// index tells which device a host is.
func (p Place) index(h *lab.Host) (int, error) {
	for i, d := range p.Devices {
		if d == h {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%s is not one of the place's devices", h.Name)
}

// All are the systems, with their programs in bin and bin/field.
func All(bin string) []System {
	return []System{Bare{}, Stock{bin}, Warren{bin}, Tailscale{filepath.Join(bin, "field")}, Nebula{filepath.Join(bin, "field")}}
}

// ChooseSystems finds systems by their names, with commas between; "" are all.
func ChooseSystems(names, bin string) ([]System, error) {
	return choose("system", names, All(bin), System.Name)
}

// Bare is no VPN: the link between two hosts that have public addresses.
type Bare struct{}

// Name is the system's name.
func (Bare) Name() string { return NameBare }

// Can tells whether both devices have public addresses.
func (Bare) Can(p Pair) (bool, string) { return onlyPublic(p) }

func onlyPublic(p Pair) (bool, string) {
	if p.First != lab.None.String() || p.Second != lab.None.String() {
		return false, "it does not traverse NATs"
	}
	return true, ""
}

// Start does nothing.
func (Bare) Start(context.Context, Place) (Network, error) { return bareNetwork{}, nil }

type bareNetwork struct{}

func (bareNetwork) Join(_ context.Context, h *lab.Host) (Device, error) {
	return Device{Address: h.Addr}, nil
}
func (bareNetwork) Programs() []int { return nil }

// output runs a command to its end and gives what it printed on standard output. An error has the rest.
func output(cmd *exec.Cmd) (string, error) {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args[2:], " "), err, lastLines(strings.TrimSpace(string(out)+stderr.String())))
	}
	return string(out), nil
}

// startProgram starts a long-running program on a host, with variables added to its environment.
func startProgram(h *lab.Host, env []string, name string, args ...string) (*warrennet.Daemon, error) {
	cmd := h.Command(context.Background(), name, args...)
	cmd.Env = append(cmd.Env, env...)
	d, err := warrennet.StartCommand(cmd)
	if err != nil {
		return nil, fmt.Errorf("%s on %s: %w", filepath.Base(name), h.Name, err)
	}
	return d, nil
}

// failed adds to an error what a program said last.
func failed(what string, d *warrennet.Daemon, err error) error {
	return fmt.Errorf("%s: %w; the last that it said:\n%s", what, err, lastLines(d.Log()))
}

const linesShown = 20

func lastLines(text string) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-linesShown):], "\n")
}

// lookEvery is how often await looks.
const lookEvery = 5 * time.Millisecond

// await looks until done is true.
func await(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// awaitFile waits for a file that a program makes.
func awaitFile(ctx context.Context, name string, d *warrennet.Daemon) error {
	return await(ctx, func() (bool, error) {
		_, err := os.Stat(name)
		switch {
		case err == nil:
			return true, nil
		case !errors.Is(err, fs.ErrNotExist):
			return false, err
		case d.Ended():
			return false, errors.New("the program has ended")
		}
		return false, nil
	})
}
