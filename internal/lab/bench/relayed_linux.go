package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// comparison is what two ways carried, run by run.
type comparison struct {
	rtt, relay, bare figures
}

func (c comparison) print(title, bare string) {
	fmt.Printf("\nrelayed path, %s\n", title)
	c.rtt.print("  round trip", "ms")
	c.relay.print("  one TCP stream, relay", "Gbit/s")
	c.bare.print("  the same, "+bare, "Gbit/s")
	var ratio figures
	for i := range c.relay {
		ratio = append(ratio, c.relay[i]/c.bare[i])
		fmt.Printf("    run %d: %.2f and %.2f Gbit/s, relay / bare forwarder %.2f\n", i+1, c.relay[i], c.bare[i], ratio[i])
	}
	ratio.print("  relay / bare forwarder, run by run", "")
}

// gigabits adds a stream's rate to f.
func (b *bench) gigabits(f *figures, from, to *lab.Host, address string) error {
	bps, err := warrennet.Throughput(b.ctx, from, to, address, b.stream)
	if err == nil {
		*f = append(*f, bps/1e9)
	}
	return err
}

// relayedUDP sends the same tunnel of the same agents over the relay and through a bare UDP forwarder in turn: each device names the forwarder's
// port for it as its own address, so that the tunnel is direct while that runs.
func (b *bench) relayedUDP() error {
	n, done, err := b.network()
	if err != nil {
		return err
	}
	defer done()
	h, err := n.Lab.Host("forwarder", lab.None)
	if err != nil {
		return err
	}
	hosts, err := twoHosts(n, lab.Hard)
	if err != nil {
		return err
	}
	x, y, err := b.pairOn(n, hosts, "relay", [2][]string{
		{"--endpoint", fmt.Sprintf("%s:%d", h.Addr, bareRight)}, // where the right one sends to reach the left one
		{"--endpoint", fmt.Sprintf("%s:%d", h.Addr, bareLeft)},
	})
	if err != nil {
		return err
	}
	for _, d := range []*warrennet.Device{x, y} {
		if err := d.Daemon().AwaitLog(b.ctx, "udp=true"); err != nil {
			return err
		}
	}
	st, err := y.Status(b.ctx)
	if err != nil {
		return err
	}
	var c comparison
	for range b.runs {
		if err := b.runUDP(&c, h, x, y, st.Self.Addresses[0]); err != nil {
			return err
		}
	}
	c.print("UDP, hard NATs on both sides", "bare UDP forwarder")
	return nil
}

func (b *bench) runUDP(c *comparison, h *lab.Host, x, y *warrennet.Device, address string) error {
	if err := b.awaitBoth(x, y, address, "relay"); err != nil {
		return err
	}
	r, err := b.roundTrip(x.Host, address)
	if err != nil {
		return err
	}
	c.rtt = append(c.rtt, r)
	if err := b.gigabits(&c.relay, x.Host, y.Host, address); err != nil {
		return err
	}
	f, err := b.startForwarder(h, "udp")
	if err != nil {
		return err
	}
	defer f.Signal(syscall.SIGKILL)
	if err := b.awaitBoth(x, y, address, "direct"); err != nil {
		return err
	}
	return b.gigabits(&c.bare, x.Host, y.Host, address)
}

// switchPatience is how long a tunnel may take to change its path.
const switchPatience = 40 * time.Second

// awaitBoth pings until both ends of a tunnel have a path of the kind.
func (b *bench) awaitBoth(x, y *warrennet.Device, address, kind string) error {
	ctx, cancel := context.WithTimeout(b.ctx, switchPatience)
	defer cancel()
	p, err := warrennet.NewPinger(x.Host, address)
	if err != nil {
		return err
	}
	defer p.Close()
	for {
		if _, err := p.Ping(100 * time.Millisecond); err != nil && !errors.Is(err, warrennet.ErrNoAnswer) {
			return err
		}
		paths := 0
		for _, d := range [][2]*warrennet.Device{{x, y}, {y, x}} {
			st, err := d[0].Status(ctx)
			if err != nil {
				return fmt.Errorf("waiting for a %s path: %w", kind, err)
			}
			if peer := st.Peer(d[1].Name); peer != nil && peer.Path.Kind == kind {
				paths++
			}
		}
		if paths == 2 {
			return nil
		}
	}
}

// relayedWebSocket compares the tunnel over the relay with one of stock wireguard-go between the same hosts, of which each batch is one message
// that a bare WebSocket forwarder passes on.
func (b *bench) relayedWebSocket() error {
	n, done, err := b.network()
	if err != nil {
		return err
	}
	defer done()
	h, err := n.Lab.Host("forwarder", lab.None)
	if err != nil {
		return err
	}
	hosts, err := twoHosts(n, lab.UDPBlocked)
	if err != nil {
		return err
	}
	f, err := b.startForwarder(h, "websocket")
	if err != nil {
		return err
	}
	defer f.Signal(syscall.SIGKILL)
	// Before the agents run: a new interface is a change of the network to them, for which they connect anew.
	if err := b.bareTunnel(hosts[0], hosts[1], h); err != nil {
		return err
	}
	x, y, err := b.pairOn(n, hosts, "relay", [2][]string{})
	if err != nil {
		return err
	}
	st, err := y.Status(b.ctx)
	if err != nil {
		return err
	}
	var c comparison
	for range b.runs {
		r, err := b.roundTrip(x.Host, st.Self.Addresses[0])
		if err != nil {
			return err
		}
		c.rtt = append(c.rtt, r)
		if err := b.gigabits(&c.relay, x.Host, y.Host, st.Self.Addresses[0]); err != nil {
			return err
		}
		if err := b.gigabits(&c.bare, x.Host, y.Host, bareRightAddr); err != nil {
			return err
		}
	}
	c.print("WebSocket, UDP blocked on both sides", "stock wireguard-go, bare WebSocket forwarder")
	return nil
}
