//go:build darwin || windows

package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/tun"

	"warren/internal/hostroutes"
	"warren/tunnel/router/onetable"
)

// What IPv4 asks of every host (RFC 791), and what fits into a packet's length.
const minMTU, maxMTU = 576, 65535

// settle is how long Watch waits after a change of routes before it looks: changes come in bursts.
const settle = 200 * time.Millisecond

type platform struct {
	host  *onetable.Host
	notes []string
}

// Open makes the interface, after CleanUp. It is up, without addresses. None can be taken over from a process before.
func Open(cfg Config) (*Router, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.TUN != nil {
		cfg.TUN.Close()
		return nil, fmt.Errorf("interface %s: %w: no interface is handed on here", cfg.Name, ErrUnfit)
	}
	if err := errors.Join(CheckName(cfg.Name), checkMTU(cfg.MTU)); err != nil {
		return nil, err
	}
	if _, err := net.InterfaceByName(cfg.Name); err == nil {
		return nil, fmt.Errorf("%w: %s; choose another with --tun", ErrNameInUse, cfg.Name)
	}
	left, err := CleanUp(cfg.Journal)
	for _, what := range left {
		cfg.Log.Info("what a process before had left on this host is gone", "what", what)
	}
	if err != nil {
		cfg.Log.Warn("not all that a process before had left on this host could be taken back", "err", err)
	}
	t, err := tun.CreateTUN(cfg.Name, cfg.MTU)
	if err != nil {
		return nil, explain(cfg.Name, err)
	}
	r := &Router{cfg: cfg, tun: t}
	if r.name, err = t.Name(); err == nil {
		err = r.prepare()
	}
	if err != nil {
		t.Close()
		return nil, explain(cfg.Name, err)
	}
	return r, nil
}

// prepare finds the interface that was made.
func (r *Router) prepare() error {
	system, index, err := newSystem(r.tun, r.name)
	if err == nil {
		r.host = onetable.NewHost(system, index, r.cfg.MTU, r.cfg.Journal, boot())
	}
	return err
}

func checkMTU(mtu int) error {
	if mtu < minMTU || mtu > maxMTU {
		return fmt.Errorf("MTU %d: an MTU is %d to %d bytes", mtu, minMTU, maxMTU)
	}
	return nil
}

// Apply brings the interface and the routing table into line with s. It changes only what differs, and does all it can. What this system cannot do yet is
// left out, and named by an error that wraps ErrUnsupported. A State that makes no sense changes nothing. Routes of others stay as they are.
func (r *Router) Apply(s State) error {
	err := s.check()
	if err == nil && s.MTU != 0 {
		err = checkMTU(s.MTU)
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", r.name, err)
	}
	s, missing := s.plain()
	if err := r.host.Apply(onetable.State{Addresses: s.Addresses, MTU: s.MTU, Routes: s.Routes, Local: s.Local}); err != nil {
		return errors.Join(missing, fmt.Errorf("interface %s: %w", r.name, err))
	}
	return missing
}

// Watch calls lost each time that routes are no longer as they were applied: another program has changed them, or the host's way to the internet
// is another one. It returns when ctx ends, or with the reason why the system cannot be listened to. It may run beside Apply and Close.
func (r *Router) Watch(ctx context.Context, lost func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed, failed := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		failed <- hostroutes.Watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	for {
		select {
		case err := <-failed:
			return err
		case <-changed:
			select {
			case <-time.After(settle):
			case <-ctx.Done():
			}
			if ctx.Err() == nil && r.host.Stale() {
				lost()
			}
		}
	}
}

// Notes say in words what Apply has changed on the host beyond the interface and its routes: nothing, on this system.
func (r *Router) Notes() []string { return slices.Clone(r.notes) }

// Close removes the interface, and with it its addresses and routes, and takes back all other changes.
func (r *Router) Close() error {
	err := r.tun.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	if err = errors.Join(err, r.host.Close()); err != nil {
		err = fmt.Errorf("interface %s: %w", r.name, err)
	}
	return err
}

// CleanUp takes back what a process that was killed has left on the host by the journal at that path, and returns what it did in words. It may
// be called at any time that no Router with that journal is open, and more than once.
func CleanUp(path string) ([]string, error) { return onetable.CleanUp(tableRouter{}, path, boot()) }

// KillSwitchOn reports false: this system has none yet.
func KillSwitchOn() (bool, error) { return false, nil }

// HoldKillSwitch fails: there is none on this system yet.
func HoldKillSwitch(string) (bool, error) {
	return false, fmt.Errorf("kill switch: %w", ErrUnsupported)
}

// LiftKillSwitch does nothing: there is none to lift.
func LiftKillSwitch() error { return nil }

// WriteKillSwitch fails: there is none on this system yet.
func WriteKillSwitch(path, name string, _ []netip.Prefix) error {
	return fmt.Errorf("kill switch of %s in %s: %w", name, path, ErrUnsupported)
}

// tableRouter changes the host's table in onetable's words.
type tableRouter struct{}

func (tableRouter) Table() ([]hostroutes.Route, error) { return hostroutes.Read() }

func (tableRouter) AddRoute(r hostroutes.Route) error { return translated(hostroutes.Add(r)) }

func (tableRouter) RemoveRoute(r hostroutes.Route) error { return translated(hostroutes.Remove(r)) }

func translated(err error) error {
	switch {
	case errors.Is(err, hostroutes.ErrExists):
		return onetable.ErrTaken
	case errors.Is(err, hostroutes.ErrMissing):
		return onetable.ErrGone
	}
	return err
}
