package sysservice

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

const (
	// pollEvery is how often the service control manager is asked whether a service has stopped.
	pollEvery = 200 * time.Millisecond
	// stopWait is how long it may take.
	stopWait = 30 * time.Second
	// restartAfter is the pause after a service has ended by itself, which is forgotten after restartReset seconds.
	restartAfter = 2 * time.Second
	restartReset = 3600
)

// Windows is the service control manager.
type Windows struct{}

// Detect finds out what manages the services of this system.
func Detect() (Manager, error) { return Windows{}, nil }

// with calls do with the manager.
func with(do func(*mgr.Mgr) error) error {
	m, err := mgr.Connect()
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		return ErrForbidden
	}
	if err != nil {
		return fmt.Errorf("service control manager: %w", err)
	}
	defer m.Disconnect()
	return do(m)
}

// withService calls do with a service.
func withService(name string, do func(*mgr.Service) error) error {
	return with(func(m *mgr.Mgr) error {
		s, err := m.OpenService(name)
		if errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST) {
			return ErrNotInstalled
		}
		if err != nil {
			return fmt.Errorf("service %s: %w", name, err)
		}
		defer s.Close()
		return do(s)
	})
}

// Install implements Manager.
func (Windows) Install(_ context.Context, s Service, program string) error {
	return with(func(m *mgr.Mgr) error {
		if old, err := m.OpenService(s.Name); err == nil {
			defer old.Close()
			return startOld(old, program)
		}
		made, err := m.CreateService(s.Name, program, mgr.Config{
			StartType: mgr.StartAutomatic, DisplayName: s.Title, Description: s.Title, Dependencies: []string{"Tcpip"},
			SidType: windows.SERVICE_SID_TYPE_UNRESTRICTED,
		}, s.Args...)
		if err != nil {
			return fmt.Errorf("service %s: %w", s.Name, err)
		}
		defer made.Close()
		again := mgr.RecoveryAction{Type: mgr.ServiceRestart, Delay: restartAfter}
		return errors.Join(
			made.SetRecoveryActions([]mgr.RecoveryAction{again, again, again}, restartReset), made.SetRecoveryActionsOnNonCrashFailures(true), start(made))
	})
}

// startOld starts a service that is installed already, if it is for the same program.
func startOld(s *mgr.Service, program string) error {
	c, err := s.Config()
	if err != nil {
		return err
	}
	if has := executable(c.BinaryPathName); !strings.EqualFold(has, program) {
		return fmt.Errorf("%w, %s; run its \"service uninstall\" before, or put the new program in its place", ErrOtherProgram, has)
	}
	return start(s)
}

// executable is the program in a command line, as CreateService makes it.
func executable(line string) string {
	args, err := windows.DecomposeCommandLine(line)
	if err != nil || len(args) == 0 {
		return line
	}
	return filepath.Clean(args[0])
}

func start(s *mgr.Service) error {
	if err := s.Start(); err != nil && !errors.Is(err, windows.ERROR_SERVICE_ALREADY_RUNNING) {
		return fmt.Errorf("service %s: %w", s.Name, err)
	}
	return nil
}

// stop returns when the service has stopped.
func stop(ctx context.Context, s *mgr.Service) error {
	st, err := s.Control(svc.Stop)
	if errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for err == nil && st.State != svc.Stopped {
		select {
		case <-ctx.Done():
			return fmt.Errorf("service %s has not stopped: %w", s.Name, ctx.Err())
		case <-tick.C:
		}
		st, err = s.Query()
	}
	return err
}

// Uninstall implements Manager.
func (Windows) Uninstall(ctx context.Context, s Service) error {
	return withService(s.Name, func(w *mgr.Service) error {
		if err := stop(ctx, w); err != nil {
			return err
		}
		c, err := w.Config()
		if err = errors.Join(err, w.Delete()); err != nil {
			return err
		}
		return Host{Command: Command}.after(ctx, s, executable(c.BinaryPathName))
	})
}

// Start implements Manager.
func (Windows) Start(_ context.Context, s Service) error { return withService(s.Name, start) }

// Stop implements Manager.
func (Windows) Stop(ctx context.Context, s Service) error {
	return withService(s.Name, func(w *mgr.Service) error { return stop(ctx, w) })
}

// Restart implements Manager.
func (Windows) Restart(ctx context.Context, s Service) error {
	return withService(s.Name, func(w *mgr.Service) error {
		if err := stop(ctx, w); err != nil {
			return err
		}
		return start(w)
	})
}

// Status implements Manager.
func (Windows) Status(_ context.Context, s Service) (Status, error) {
	out := Status{System: "Windows"}
	err := withService(s.Name, func(w *mgr.Service) error {
		c, err := w.Config()
		if err != nil {
			return err
		}
		st, err := w.Query()
		out.File, out.Program, out.Enabled, out.Running = `SCM\`+s.Name, executable(c.BinaryPathName), c.StartType == mgr.StartAutomatic, st.State == svc.Running
		return err
	})
	if errors.Is(err, ErrNotInstalled) {
		return out, nil
	}
	return out, err
}

// Run calls run, as a service if the service control manager has started this process; its context then ends when the service is to stop.
func Run(ctx context.Context, name string, run func(context.Context) error) error {
	if service, err := svc.IsWindowsService(); err != nil || !service {
		return run(ctx)
	}
	h := &handler{ctx: ctx, run: run}
	return errors.Join(svc.Run(name, h), h.err)
}

type handler struct {
	ctx context.Context
	run func(context.Context) error
	err error
}

// Execute implements svc.Handler.
func (h *handler) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (specific bool, code uint32) {
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.run(ctx) }()
	const accepts = svc.AcceptStop | svc.AcceptShutdown
	status <- svc.Status{State: svc.Running, Accepts: accepts}
	for {
		select {
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.Stop, svc.Shutdown:
				status <- svc.Status{State: svc.StopPending, WaitHint: uint32(stopWait.Milliseconds())}
				cancel()
			}
		case h.err = <-done:
			if h.err != nil {
				return true, 1
			}
			return false, 0
		}
	}
}
