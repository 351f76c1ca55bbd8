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

// way is one by which streams are sent, and the programs on it: sender, middle, receiver.
type way struct {
	name     string
	from, to *lab.Host
	address  string
	programs [3]*warrennet.Daemon
	bits     figures    // Gbit/s
	cpu      [3]figures // seconds for each gigabyte
}

// send sends one TCP stream and notes its rate and what it took of the machine. What the kernel does for a program counts as the program's.
func (b *bench) send(w *way) error {
	var before [3]usage
	for i, p := range w.programs {
		var err error
		if before[i], err = usageOf(p); err != nil {
			return err
		}
	}
	bps, err := warrennet.Throughput(b.ctx, w.from, w.to, w.address, b.stream)
	if err != nil {
		return err
	}
	w.bits = append(w.bits, bps/1e9)
	gigabytes := bps / 8 * b.stream.Seconds() / 1e9
	for i, p := range w.programs {
		after, err := usageOf(p)
		if err != nil {
			return err
		}
		w.cpu[i] = append(w.cpu[i], (after.CPU-before[i].CPU).Seconds()/gigabytes)
	}
	return nil
}

// compare prints what two ways carried, run by run.
func compare(title string, rtt figures, relay, bare *way) {
	fmt.Printf("\nrelayed path, %s\n", title)
	rtt.print("  round trip", "ms")
	for _, w := range []*way{relay, bare} {
		w.bits.print("  one TCP stream, "+w.name, "Gbit/s")
		fmt.Printf("    CPU s/GB: sender %.2f, middle %.2f, receiver %.2f\n", w.cpu[0].median(), w.cpu[1].median(), w.cpu[2].median())
	}
	var ratio figures
	for i := range relay.bits {
		ratio = append(ratio, relay.bits[i]/bare.bits[i])
		fmt.Printf("    run %d: %.2f and %.2f Gbit/s, relay / bare forwarder %.2f\n", i+1, relay.bits[i], bare.bits[i], ratio[i])
	}
	ratio.print("  relay / bare forwarder, run by run", "")
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
	address := st.Self.Addresses[0]
	relay := &way{name: "relay", from: x.Host, to: y.Host, address: address, programs: [3]*warrennet.Daemon{x.Daemon(), n.Serving(), y.Daemon()}}
	bare := &way{name: "bare UDP forwarder", from: x.Host, to: y.Host, address: address, programs: relay.programs}
	var rtt figures
	for range b.runs {
		if err := b.awaitBoth(x, y, address, "relay"); err != nil {
			return err
		}
		if err := b.roundTrip(&rtt, x.Host, address); err != nil {
			return err
		}
		if err := b.send(relay); err != nil {
			return err
		}
		if err := b.sendDirect(bare, h, x, y); err != nil {
			return err
		}
	}
	compare("UDP, hard NATs on both sides", rtt, relay, bare)
	return nil
}

// sendDirect has the tunnel between two devices go through a bare forwarder on h for one stream.
func (b *bench) sendDirect(w *way, h *lab.Host, x, y *warrennet.Device) (err error) {
	if w.programs[1], err = b.startForwarder(h, "udp"); err != nil {
		return err
	}
	defer w.programs[1].Signal(syscall.SIGKILL)
	if err := b.awaitBoth(x, y, w.address, "direct"); err != nil {
		return err
	}
	return b.send(w)
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
	ends, err := b.bareTunnel(hosts, h)
	if err != nil {
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
	relay := &way{
		name: "relay", from: x.Host, to: y.Host, address: st.Self.Addresses[0],
		programs: [3]*warrennet.Daemon{x.Daemon(), n.Serving(), y.Daemon()},
	}
	bare := &way{
		name: "stock wireguard-go, bare forwarder", from: x.Host, to: y.Host, address: bareRightAddr,
		programs: [3]*warrennet.Daemon{ends[0], f, ends[1]},
	}
	var rtt figures
	for range b.runs {
		if err := b.roundTrip(&rtt, x.Host, relay.address); err != nil {
			return err
		}
		for _, w := range []*way{relay, bare} {
			if err := b.send(w); err != nil {
				return err
			}
		}
	}
	compare("WebSocket, UDP blocked on both sides", rtt, relay, bare)
	return nil
}
