// Command demo shows Warren's main job on this machine alone: a coordinator and two devices, each behind a NAT of its own, in network
// namespaces. It enrols both, shows how they reach each other through the relay at once and then directly, and cleans up. It exits with 0
// only if everything worked.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

func main() {
	lab.Init()
	keep := flag.Bool("keep", false, "leave everything up until Ctrl-C and say how to enter each host")
	bin := flag.String("bin", "bin", "directory of the built programs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// patience bounds each step.
const patience = 20 * time.Second

// demo prints what happens, with the time since it began.
type demo struct {
	began time.Time
	n     *warrennet.Network
}

func (d *demo) say(format string, args ...any) {
	fmt.Printf("%7.2fs  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

func run(ctx context.Context, bin string, keep bool) error {
	os.Setenv("WARREN_BIN", bin)
	bin, err := warrennet.Build(ctx, "")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "warren-demo")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{began: time.Now()}
	fmt.Print(picture)
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d.n, err = warrennet.New(within, bin, dir)
	if err != nil {
		return err
	}
	defer d.n.Close()
	d.say("coordinator: warren-coordinator serve")
	laptop, desk, err := d.join(within)
	if err != nil {
		return err
	}
	if err := d.talk(ctx, laptop, desk); err != nil {
		return fmt.Errorf("%w\nlaptop's log:\n%s\ndesk's log:\n%s", err, laptop.Daemon().Log(), desk.Daemon().Log())
	}
	for _, dev := range []*warrennet.Device{laptop, desk} {
		text, err := dev.Text(ctx, "status")
		if err != nil {
			return fmt.Errorf("%s: warren status: %w: %s", dev.Name, err, text)
		}
		fmt.Printf("\n%s$ warren status\n%s", dev.Name, text)
	}
	if keep {
		return d.keep(ctx, dir, bin, laptop, desk)
	}
	fmt.Println("\nEverything worked. The hosts are gone again; KEEP=1 leaves them up.")
	return nil
}

const picture = `
          laptop                                     desk
       192.168.2.2                               192.168.3.2
            |                                         |
     NAT 203.0.113.6                          NAT 203.0.113.10
            |                                         |
            +---------------- internet ---------------+
                                 |
                       coordinator 203.0.113.2
                     (STUN server, relay inside)

`

func (d *demo) join(ctx context.Context) (laptop, desk *warrennet.Device, err error) {
	token, err := d.n.Token(ctx, "--reusable")
	if err != nil {
		return nil, nil, err
	}
	devices := map[string]*warrennet.Device{}
	for _, name := range []string{"laptop", "desk"} {
		dev, err := d.n.Device(ctx, name, lab.Easy)
		if err != nil {
			return nil, nil, err
		}
		began := time.Now()
		if err := dev.Up(ctx, token); err != nil {
			return nil, nil, err
		}
		st, err := dev.Status(ctx)
		if err != nil {
			return nil, nil, err
		}
		d.say("%s: warren up %s…  ->  %s, in %d ms", name, token[:8], strings.Join(st.Self.Addresses, ", "), time.Since(began).Milliseconds())
		devices[name] = dev
	}
	return devices["laptop"], devices["desk"], nil
}

// talk pings through the tunnel until the path is direct, and sends a stream.
func (d *demo) talk(ctx context.Context, laptop, desk *warrennet.Device) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	st, err := desk.Status(ctx)
	if err != nil {
		return err
	}
	address := st.Self.Addresses[0]
	p, err := warrennet.NewPinger(laptop.Host, address)
	if err != nil {
		return err
	}
	defer p.Close()
	began := time.Now()
	kind := ""
	for kind != "direct" {
		rtt, err := p.Ping(time.Second)
		if err != nil && !errors.Is(err, warrennet.ErrNoAnswer) {
			return err
		}
		st, statusErr := laptop.Status(ctx)
		if statusErr != nil {
			return statusErr
		}
		peer := st.Peer("desk")
		if peer == nil {
			continue
		}
		if err == nil && peer.Path.Kind != kind {
			kind = peer.Path.Kind
			d.say("laptop pings desk at %s: %.2f ms, path %s, %d ms after the first packet", address, ms(rtt), where(peer), time.Since(began).Milliseconds())
		}
	}
	best := time.Hour
	for range 20 {
		rtt, err := p.Ping(time.Second)
		if err != nil {
			return err
		}
		best = min(best, rtt)
	}
	d.timeline(laptop)
	d.say("direct round trip: %.2f ms at best of 20", ms(best))
	bits, err := warrennet.Throughput(ctx, laptop.Host, desk.Host, address, time.Second)
	if err != nil {
		return err
	}
	d.say("one TCP stream through the tunnel: %.2f Gbit/s for a second", bits/1e9)
	return nil
}

// timeline prints what the daemon logged of its paths: the relayed one often lasts too short to be seen otherwise.
func (d *demo) timeline(dev *warrennet.Device) {
	for line := range strings.Lines(dev.Daemon().Log()) {
		at, rest, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
		t, err := time.Parse("2006-01-02T15:04:05.000Z07:00", at)
		if err != nil || !strings.Contains(rest, "msg=path ") {
			continue
		}
		kind, reason := "", ""
		if _, after, ok := strings.Cut(rest, " kind="); ok {
			kind, _, _ = strings.Cut(after, " ")
		}
		if _, after, ok := strings.Cut(rest, " reason="); ok {
			reason = strings.Trim(strings.TrimSpace(after), `"`)
		}
		fmt.Printf("          %s's log at %.3fs: path %s (%s)\n", dev.Name, t.Sub(d.began).Seconds(), kind, reason)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func where(p *warrennet.Peer) string {
	if p.Path.Kind == "relay" {
		return "relay " + p.Path.Relay + " at " + p.Path.Remote
	}
	return p.Path.Kind + " to " + p.Path.Remote
}

// keep waits for Ctrl-C.
func (d *demo) keep(ctx context.Context, dir, bin string, laptop, desk *warrennet.Device) error {
	fmt.Printf("\nAll of it stays up until Ctrl-C. To enter a host, in another terminal:\n\n")
	fmt.Printf("    coordinator:  %s\n", d.n.Coordinator.EnterLine())
	for _, dev := range []*warrennet.Device{laptop, desk} {
		fmt.Printf("    %-12s  %s\n", dev.Name+":", dev.EnterLine())
	}
	fmt.Printf("\nThere, for example:\n\n    %s/warren status --socket %s/sock\n    %s/warren-coordinator device list --state %s\n", bin, laptop.Dir(), bin, d.n.CoordinatorDir())
	<-ctx.Done()
	return nil
}
