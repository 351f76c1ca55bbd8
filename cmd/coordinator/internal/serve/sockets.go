package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"strconv"

	"warren/cmd/coordinator/internal/config"
	"warren/cmd/coordinator/internal/handover"
	"warren/internal/freebind"
	"warren/nat/relay"
)

// sockets are opened before anything else, so that a port in use changes nothing.
type sockets struct {
	https   net.Listener
	metrics net.Listener
	stun    stunSockets
	admin   *net.UnixListener

	handover *handover.Sockets
}

// What sockets are for. The service manager keeps them by these names, in which therefore nothing changes.
const (
	placeControl = "control"
	placeSTUN    = "stun"
	placeSTUN2   = "stun-second-port"
	placeMetrics = "metrics"
)

// places are where sockets are wanted that live longer than this process. The administrators' socket is not one: who finds no coordinator there is told
// so at once, and need not wait for one.
func places(c config.Config) []handover.Place {
	out := []handover.Place{{Name: placeControl, Network: "tcp", Address: c.Listen}}
	if c.STUN != "off" {
		out = append(out, handover.Place{Name: placeSTUN, Network: "udp", Address: c.STUN})
		if host, port, err := net.SplitHostPort(c.STUN); err == nil {
			if n, err := strconv.Atoi(port); err == nil && n > 0 {
				out = append(out, handover.Place{Name: placeSTUN2, Network: "udp", Address: net.JoinHostPort(host, strconv.Itoa(n+1))})
			}
		}
	}
	if c.Metrics != "" {
		out = append(out, handover.Place{Name: placeMetrics, Network: "tcp", Address: c.Metrics})
	}
	return out
}

func (s *sockets) close() {
	for _, c := range []io.Closer{s.https, s.metrics} {
		if l, ok := c.(net.Listener); ok && l != nil {
			l.Close()
		}
	}
	s.stun.close()
	if s.admin != nil {
		s.admin.Close()
	}
}

// listenInstead says what to do about an address that cannot be listened on.
func listenInstead(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "ports below 1024 take root or CAP_NET_BIND_SERVICE, or in a container the engine's --sysctl net.ipv4.ip_unprivileged_port_start=443; or choose another with --listen"
	}
	return "choose another with --listen"
}

func open(ctx context.Context, c config.Config, v handover.Service, log *slog.Logger) (_ *sockets, err error) {
	s := new(sockets)
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.handover, err = v.Begin(ctx, places(c), log); err != nil {
		return nil, fmt.Errorf("sockets of the process before: %w", err)
	}
	defer s.handover.Close()
	if s.https, err = s.handover.Listen(ctx, placeControl, c.Listen); err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w; %s", c.Listen, err, listenInstead(err))
	}
	s.https = relay.Listener(s.https)
	if c.STUN != "off" {
		if s.stun, err = openSTUN(s.handover, c.STUN, c.Relay, log); err != nil {
			return nil, fmt.Errorf("cannot serve STUN on %s: %w; choose another with --stun, or none with --stun off", c.STUN, err)
		}
	}
	if c.Metrics != "" {
		if s.metrics, err = s.handover.ListenEarly(ctx, placeMetrics, c.Metrics); err != nil { // its own agent may have to reach it first
			return nil, fmt.Errorf("cannot serve metrics on %s: %w; choose another with --metrics", c.Metrics, err)
		}
		if freebind.Missing(s.metrics.Addr()) {
			log.Info("metrics are for an address that this host does not have yet", "address", s.metrics.Addr())
		}
	}
	return s, nil
}

// keep has the sockets survive this process. Without that all works, but for a restart.
func (s *sockets) keep(log *slog.Logger) {
	if err := s.handover.Keep(); err != nil {
		log.Warn("the service manager does not keep the sockets, so that a restart will refuse connections", "err", err)
	}
}
