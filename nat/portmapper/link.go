package portmapper

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"warren/nat/portmap"
	"warren/nat/portmap/igd"
	"warren/nat/portmap/natpmp"
	"warren/nat/portmap/pcp"
)

const (
	dialLimit   = 3 * time.Second
	maxDatagram = 1500
	// maxErrors ends a reader whose socket does nothing but fail.
	maxErrors = 100
)

// link is the sockets towards one gateway, and the goroutines that read them.
type link struct {
	cfg     Config
	network portmap.Network
	events  chan portmap.Event
	jobs    chan portmap.Action
	device  *igd.Device // that Discover found; the worker's

	ctx    context.Context // outlives Run's, so that the mapping can be deleted
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	server *net.UDPConn // connected to the gateway: the kernel lets nobody else in; nil if that failed
}

func newLink(ctx context.Context, cfg Config, n portmap.Network) *link {
	l := &link{cfg: cfg, network: n, events: make(chan portmap.Event, 16), jobs: make(chan portmap.Action, 16)}
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return l
}

// open makes the sockets. Those that cannot be had are done without: the core then hears nothing.
func (l *link) open() {
	if !l.network.Gateway.IsValid() {
		return
	}
	to := netip.AddrPortFrom(l.network.Gateway, pcp.Port)
	c, err := l.cfg.dialer(net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.network.Local, 0))).DialContext(l.ctx, "udp4", to.String())
	if err != nil {
		l.cfg.Log.Info("no PCP nor NAT-PMP", "gateway", to, "err", err)
	} else {
		l.server = c.(*net.UDPConn)
		l.tasks.Go(func() { l.read(l.server, false) })
	}
	if c, err := l.listenAnnouncements(); err != nil {
		l.cfg.Log.Debug("a restart of the gateway will not be noticed at once", "err", err)
	} else {
		l.tasks.Go(func() { l.read(c, true) })
	}
	l.tasks.Go(l.work)
}

// close ends the goroutines and waits for them.
func (l *link) close() {
	l.cancel()
	l.tasks.Wait()
}

// listenAnnouncements joins the group to which gateways say that they have restarted (RFC 6886 section 3.2.1, RFC 6887 section 14.1.3).
func (l *link) listenAnnouncements() (*net.UDPConn, error) {
	i, err := interfaceOf(l.network.Local)
	if err != nil {
		return nil, err
	}
	return net.ListenMulticastUDP("udp4", i, &net.UDPAddr{IP: net.IPv4allsys, Port: natpmp.AnnouncePort})
}

func interfaceOf(a netip.Addr) (*net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, p := range addrs {
			if n, ok := p.(*net.IPNet); ok && n.IP.Equal(a.AsSlice()) {
				return &i, nil
			}
		}
	}
	return nil, &net.AddrError{Err: "no interface has this address", Addr: a.String()}
}

// read passes datagrams on until the link is closed.
func (l *link) read(c *net.UDPConn, announced bool) {
	stop := context.AfterFunc(l.ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	b := make([]byte, maxDatagram)
	for failed := 0; failed < maxErrors; {
		n, from, err := c.ReadFromUDPAddrPort(b)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, syscall.ECONNREFUSED):
			failed++
			l.tell(portmap.Unreachable{})
		case err != nil:
			failed++
		default:
			failed = 0
			from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			l.tell(portmap.Datagram{From: from, Announced: announced, B: bytes.Clone(b[:n])})
		}
	}
}

// tell passes an event to Run.
func (l *link) tell(ev portmap.Event) {
	select {
	case l.events <- ev:
	case <-l.ctx.Done():
	}
}

func (l *link) send(b []byte) {
	if l.server == nil {
		return
	}
	_, err := l.server.Write(b)
	if errors.Is(err, syscall.ECONNREFUSED) { // of the datagram before, and this one did not go out
		select {
		case l.events <- portmap.Unreachable{}:
		default: // Run is the caller and must not wait for itself; there will be another
		}
		_, err = l.server.Write(b)
	}
	if err != nil {
		l.cfg.Log.Debug("request to the gateway not sent", "err", err)
	}
}
