// Package portmapper runs the core of warren/nat/portmap: it owns the sockets, finds the default gateway and does the work of UPnP.
//
// Make a Mapper with New and start Run; Trigger tells it that the network changed. Config.OnMapping gets the address outside whenever it
// changes. Run ends when its context does, after the mapping was deleted or a second has passed. Report is a snapshot for people.
//
//	portmapper.go   the task
//	link.go         sockets towards one gateway
//	upnp.go         UPnP's operations, one after the other
//	gateway_*.go    the default gateway, which differs between systems
package portmapper

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"warren/nat/portmap"
	"warren/nat/portmap/pcp"
)

// Config is what a Mapper is made with.
type Config struct {
	Log *slog.Logger
	// Interface is the tunnel's own, which leads to no gateway.
	Interface string
	// Port is the port to be mapped; 0 while it is not open.
	Port func() uint16
	// Nonce is as in portmap.Config.
	Nonce pcp.Nonce
	// Use are the protocols to use; nil: all.
	Use []portmap.Protocol
	// Control, if set, sets options of the sockets, such as a firewall mark.
	Control func(network, address string, c syscall.RawConn) error
	// OnMapping gets the address outside; the zero value when there is none any more. It is called from Run and must not block.
	OnMapping func(netip.AddrPort)
	// Metrics may be nil.
	Metrics *Metrics
	// Gateway finds the default gateway for IPv4 and the host's address towards it; nil: the system's.
	Gateway func(except string) (gateway, local netip.Addr, err error)
}

// ErrNoGateway says that the host has no IPv4 gateway.
var ErrNoGateway = errors.New("no default gateway for IPv4")

// Mapper is the task. Its methods may be called from anywhere.
type Mapper struct {
	cfg     Config
	trigger chan struct{}
	leaves  atomic.Bool
	report  atomic.Pointer[portmap.Report]
}

// New makes a Mapper.
func New(cfg Config) *Mapper {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	if cfg.Gateway == nil {
		cfg.Gateway = defaultGateway
	}
	m := &Mapper{cfg: cfg, trigger: make(chan struct{}, 1)}
	m.report.Store(new(portmap.Report))
	return m
}

// Trigger looks at the network anew: it changed, or the machine woke.
func (m *Mapper) Trigger() {
	select {
	case m.trigger <- struct{}{}:
	default:
	}
}

// Report tells what is known now.
func (m *Mapper) Report() portmap.Report { return *m.report.Load() }

// runner is what belongs to Run's goroutine.
type runner struct {
	*Mapper
	core    *portmap.Core
	link    *link
	timer   *time.Timer
	noGate  string // the last error, to be logged once
	stopped bool
}

// Leave has Run end without taking the mapping back, for the process that comes next.
func (m *Mapper) Leave() { m.leaves.Store(true) }

// Run keeps the port mapped until ctx ends, and then takes the mapping back.
func (m *Mapper) Run(ctx context.Context) error {
	r := &runner{Mapper: m, timer: time.NewTimer(0), link: newLink(ctx, m.cfg, portmap.Network{})}
	defer r.timer.Stop()
	defer func() { r.link.close() }()
	r.core = portmap.New(portmap.Config{Random: func(b []byte) { rand.Read(b) }, Nonce: m.cfg.Nonce, Use: m.cfg.Use})
	r.look(ctx)
	ended := ctx.Done()
	for !r.stopped {
		select {
		case <-ended:
			if m.leaves.Load() {
				return nil
			}
			ended = nil
			r.handle(portmap.Stop{})
		case <-m.trigger:
			r.look(ctx)
		case ev := <-r.link.events:
			r.handle(ev)
		case <-r.timer.C:
			r.handle(nil)
		}
	}
	return nil
}

// look finds the gateway and makes new sockets towards it. A device that was found by UPnP stays known while the gateway is the same.
func (r *runner) look(ctx context.Context) {
	if ctx.Err() != nil { // stopping
		return
	}
	n := portmap.Network{Port: r.cfg.Port()}
	var err error
	n.Gateway, n.Local, err = r.cfg.Gateway(r.cfg.Interface)
	text := ""
	if err != nil {
		n, text = portmap.Network{}, err.Error()
	}
	if text != r.noGate && text != "" {
		r.cfg.Log.Info("no port mapping: the gateway is not known", "err", err)
	}
	r.noGate = text
	old := r.link
	old.close()
	r.link = newLink(ctx, r.cfg, n)
	if old.network.Gateway == n.Gateway && old.network.Local == n.Local {
		r.link.device = old.device
	}
	r.link.open()
	r.handle(portmap.SetNetwork{Network: n})
}

func (r *runner) handle(ev portmap.Event) {
	actions, next := r.core.Handle(time.Now(), ev)
	report := r.core.Report()
	r.report.Store(&report)
	for _, a := range actions {
		r.do(a)
	}
	if next.IsZero() {
		r.timer.Stop()
	} else {
		r.timer.Reset(time.Until(next))
	}
}

func (r *runner) do(a portmap.Action) {
	switch a := a.(type) {
	case portmap.Send:
		r.link.send(a.B)
	case portmap.Discover, portmap.AddMapping, portmap.DeleteMapping:
		r.link.upnp(a)
	case portmap.Publish:
		if m := a.Mapping; m.Protocol != portmap.None {
			r.cfg.Log.Info("port mapped", "protocol", m.Protocol, "internal", m.Internal, "external", m.External)
		} else {
			r.cfg.Log.Info("port no longer mapped")
		}
		r.cfg.Metrics.publish(a.Mapping.Protocol)
		r.cfg.OnMapping(a.Mapping.External)
	case portmap.Attempt:
		r.cfg.Metrics.attempts.WithLabelValues(a.Protocol.String()).Inc()
	case portmap.Failure:
		r.cfg.Log.Debug("no port mapping", "protocol", a.Protocol, "reason", a.Reason)
		r.cfg.Metrics.failures.WithLabelValues(a.Protocol.String(), a.Reason.String()).Inc()
	case portmap.Stopped:
		r.stopped = true
	}
}

// dialer connects from the link's own address.
func (c Config) dialer(local net.Addr) *net.Dialer {
	return &net.Dialer{LocalAddr: local, Control: c.Control, Timeout: dialLimit}
}
