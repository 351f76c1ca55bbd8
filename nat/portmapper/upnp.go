package portmapper

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"warren/nat/portmap"
	"warren/nat/portmap/igd"
)

const (
	// jobLimit bounds one operation; the core gives up a little later.
	jobLimit = 15 * time.Second
	// A search goes out so often, and answers are waited for each time; devices may take MX, which is a second.
	searches    = 5
	searchAgain = 500 * time.Millisecond
	// Answers that are looked at, and descriptions that are fetched, in one search.
	maxAnswers   = 32
	maxLocations = 4
)

// upnp leaves an operation to the worker. A full queue drops it: the core gives it up by itself.
func (l *link) upnp(a portmap.Action) {
	select {
	case l.jobs <- a:
	default:
	}
}

// work does the operations in order, so that a mapping is never deleted before it is made.
func (l *link) work() {
	for {
		select {
		case <-l.ctx.Done():
			return
		case a := <-l.jobs:
			ctx, cancel := context.WithTimeout(l.ctx, jobLimit)
			ev := l.do(ctx, a)
			cancel()
			l.tell(ev)
		}
	}
}

func (l *link) do(ctx context.Context, a portmap.Action) portmap.Event {
	switch a := a.(type) {
	case portmap.Discover:
		return l.discover(ctx, a)
	case portmap.AddMapping:
		return l.add(ctx, a)
	case portmap.DeleteMapping:
		if l.device != nil {
			if err := l.device.Unmap(ctx, a.External); err != nil {
				l.cfg.Log.Debug("UPnP mapping not deleted", "err", err)
			}
		}
		return portmap.Deleted{Op: a.Op}
	}
	return nil
}

func (l *link) add(ctx context.Context, a portmap.AddMapping) portmap.Event {
	address, life, err := l.mapOnce(ctx, a)
	if err != nil && reasonOf(err) == portmap.Unanswered { // after a restart a device may be found elsewhere
		l.discover(ctx, portmap.Discover{})
		address, life, err = l.mapOnce(ctx, a)
	}
	if err != nil {
		l.cfg.Log.Debug("no UPnP mapping", "err", err)
		return portmap.Added{Op: a.Op, Reason: reasonOf(err)}
	}
	return portmap.Added{Op: a.Op, External: netip.AddrPortFrom(address, a.External), Life: life}
}

var errNoDevice = errors.New("no device was found")

func (l *link) mapOnce(ctx context.Context, a portmap.AddMapping) (address netip.Addr, life time.Duration, err error) {
	if l.device == nil {
		return address, 0, errNoDevice
	}
	if life, err = l.device.Map(ctx, a.External, a.Internal, a.Life); err == nil {
		address, err = l.device.ExternalAddress(ctx) // it may be another by now
	}
	return address, life, err
}

func reasonOf(err error) portmap.Reason {
	switch {
	case errors.Is(err, igd.ErrConflict):
		return portmap.Conflict
	case errors.Is(err, igd.ErrRefused):
		return portmap.Refused
	case errors.Is(err, igd.ErrNoAddress):
		return portmap.NoAddress
	case errors.Is(err, igd.ErrFormat), errors.Is(err, igd.ErrElsewhere):
		return portmap.Malformed
	}
	return portmap.Unanswered
}

// discover looks for a device on the gateway and asks it for its address outside. Nobody else's answers are read.
func (l *link) discover(ctx context.Context, a portmap.Discover) portmap.Event {
	l.device = nil
	listen := net.ListenConfig{Control: l.cfg.Control}
	p, err := listen.ListenPacket(ctx, "udp4", netip.AddrPortFrom(l.network.Local, 0).String())
	if err != nil {
		l.cfg.Log.Debug("no UPnP", "err", err)
		return portmap.Found{Op: a.Op, Reason: portmap.Unanswered}
	}
	c := p.(*net.UDPConn)
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	why := portmap.Unanswered
	for _, location := range l.search(c) {
		client := igd.NewClient(l.network.Gateway, l.cfg.dialer(&net.TCPAddr{IP: l.network.Local.AsSlice()}).DialContext)
		d, address, err := client.Open(ctx, location)
		if err == nil {
			l.device = d
			return portmap.Found{Op: a.Op, External: address}
		}
		l.cfg.Log.Debug("no UPnP device", "location", location, "err", err)
		why = reasonOf(err)
	}
	return portmap.Found{Op: a.Op, Reason: why}
}

// search gives the locations that the gateway names. It returns with the first that answers and those that come at the same time.
func (l *link) search(c *net.UDPConn) (found []*url.URL) {
	b := make([]byte, maxDatagram)
	answers := 0
	for n := 0; n < searches && len(found) == 0; n++ {
		l.sendSearch(c)
		if err := c.SetReadDeadline(time.Now().Add(searchAgain)); err != nil {
			return nil
		}
		for answers < maxAnswers && len(found) < maxLocations {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				break
			}
			if from.Addr().Unmap() != l.network.Gateway {
				continue
			}
			answers++
			u, err := igd.Location(b[:n], l.network.Gateway)
			if err != nil {
				l.cfg.Log.Debug("answer of a UPnP device ignored", "err", err)
				continue
			}
			if !slices.ContainsFunc(found, func(o *url.URL) bool { return *o == *u }) {
				found = append(found, u)
			}
			// Whoever has more to say has said it by then.
			if err := c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
				break
			}
		}
	}
	return found
}

// sendSearch asks the group, and the gateway itself in case the group does not reach it.
func (l *link) sendSearch(c *net.UDPConn) {
	for _, target := range igd.Targets() {
		for _, to := range []netip.Addr{netip.MustParseAddr(igd.Group), l.network.Gateway} {
			if _, err := c.WriteToUDPAddrPort(igd.Search(target), netip.AddrPortFrom(to, igd.Port)); err != nil {
				l.cfg.Log.Debug("UPnP search not sent", "to", to, "err", err)
			}
		}
	}
}
