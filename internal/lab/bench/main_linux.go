// Command bench measures a Warren network in the lab beside bare links and stock wireguard-go, which is built from the same module. It
// prints the median of several runs, and the smallest and largest; ratios compare figures of one run.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

func main() {
	lab.Init()
	bin := flag.String("bin", "bin", "directory of the built programs, wireguard-go among them")
	runs := flag.Int("runs", 5, "runs of each figure")
	stream := flag.Duration("stream", 2*time.Second, "length of a TCP stream")
	only := flag.String("only", "", "one part alone: start, direct, rules, relayed, or the latter's relayed-udp or relayed-websocket, site, failover; or nat or birthday, which are left out otherwise")
	times := flag.Int("faults", 20, "runs of each fault of part failover")
	doc := flag.String("doc", "", "document that gets the table of part nat or birthday")
	forwarder := flag.String("forward", "", "run the bare forwarder for `TRANSPORT`; what measures starts it by itself")
	end := flag.String("bare-end", "", "run an end of the bare tunnel through the forwarder at `URL`, likewise")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	path, err := filepath.Abs(*bin)
	switch {
	case err != nil:
	case *forwarder != "":
		err = forward(ctx, *forwarder)
	case *end != "":
		err = runBareEnd(ctx, *end)
	default:
		b := &bench{ctx: ctx, bin: path, runs: *runs, stream: *stream, only: *only, doc: *doc, faults: *times}
		err = b.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	ctx    context.Context
	bin    string
	runs   int
	stream time.Duration
	only   string
	doc    string
	faults int
}

func (b *bench) run() error {
	fmt.Printf("medians of %d runs (smallest to largest), all on one machine\n", b.runs)
	found := false
	for _, part := range []struct {
		name  string
		run   func() error
		alone bool // runs only if it is asked for
	}{
		{"start", b.startUp, false}, {"direct", b.direct, false}, {"rules", b.rules, false}, {"relayed-udp", b.relayedUDP, false},
		{"relayed-websocket", b.relayedWebSocket, false}, {"site", b.site, false}, {"failover", b.failovers, false}, {"nat", b.nat, true}, {"birthday", b.birthday, true},
	} {
		group, _, _ := strings.Cut(part.name, "-")
		if b.only != part.name && b.only != group && (b.only != "" || part.alone) {
			continue
		}
		found = true
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if !found {
		return fmt.Errorf("there is no part %q: start, direct, rules, relayed, relayed-udp, relayed-websocket, site, failover, nat, birthday", b.only)
	}
	return nil
}

// figures are the runs of one measure.
type figures []float64

func (f figures) median() float64 {
	s := slices.Sorted(slices.Values(f))
	return s[len(s)/2]
}

// largest is the worst run.
func (f figures) largest() float64 { return slices.Max(f) }

func (f figures) print(name, unit string) {
	fmt.Printf("%-58s %9.2f %s (%.2f to %.2f)\n", name, f.median(), unit, slices.Min(f), f.largest())
}

// network makes a lab in a temporary directory.
func (b *bench) network() (*warrennet.Network, func(), error) {
	os.Setenv("WARREN_BIN", b.bin)
	dir, err := os.MkdirTemp("", "warren-bench")
	if err != nil {
		return nil, nil, err
	}
	n, err := warrennet.New(b.ctx, b.bin, dir)
	if err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	return n, func() {
		n.Close()
		os.RemoveAll(dir)
	}, nil
}

// startUp measures how soon a second device reaches the first, both behind easy NATs, from nothing: "warren up" starts its daemon too.
func (b *bench) startUp() error {
	var up, ping, direct figures
	for range b.runs {
		if err := b.startUpOnce(&up, &ping, &direct); err != nil {
			return err
		}
	}
	fmt.Println("\nfrom \"warren up\" of the second device, easy-easy, daemon not running before")
	up.print("  until \"warren up\" is done", "ms")
	ping.print("  until its first ping is answered", "ms")
	direct.print("  until the path is direct", "ms")
	return nil
}

func (b *bench) startUpOnce(up, ping, direct *figures) error {
	n, done, err := b.network()
	if err != nil {
		return err
	}
	defer done()
	token, err := n.Token(b.ctx, "--reusable")
	if err != nil {
		return err
	}
	first, err := n.Device(b.ctx, "first", lab.Easy)
	if err != nil {
		return err
	}
	if err := first.Up(b.ctx, token); err != nil {
		return err
	}
	st, err := first.Status(b.ctx)
	if err != nil {
		return err
	}
	h, err := n.Lab.Host("second", lab.Easy)
	if err != nil {
		return err
	}
	second := n.DeviceOn(h)
	p, err := warrennet.NewPinger(h, st.Self.Addresses[0])
	if err != nil {
		return err
	}
	defer p.Close()
	began := time.Now()
	if err := second.Up(b.ctx, token); err != nil {
		return err
	}
	since := func() float64 { return float64(time.Since(began).Microseconds()) / 1000 }
	*up = append(*up, since())
	if _, err := p.Until(b.ctx, time.Second); err != nil {
		return err
	}
	*ping = append(*ping, since())
	for {
		st, err := second.Status(b.ctx)
		if err != nil {
			return err
		}
		if peer := st.Peer("first"); peer != nil && peer.Path.Kind == "direct" {
			*direct = append(*direct, since())
			return nil
		}
		if b.ctx.Err() != nil {
			return b.ctx.Err()
		}
	}
}

// direct measures a direct path between two hosts with public addresses, beside the bare link and stock wireguard-go on the same hosts,
// in turn.
func (b *bench) direct() error {
	n, done, err := b.network()
	if err != nil {
		return err
	}
	defer done()
	x, y, err := b.pair(n, lab.None, "direct")
	if err != nil {
		return err
	}
	stock, err := b.stock(x.Host, y.Host)
	if err != nil {
		return err
	}
	st, err := y.Status(b.ctx)
	if err != nil {
		return err
	}
	idle, err := b.idle(x.Daemon())
	if err != nil {
		return err
	}
	kinds := []struct{ name, addr string }{{"bare link", y.Addr.String()}, {"stock wireguard-go", stock}, {"warren, direct", st.Self.Addresses[0]}}
	rtt, bits := make([]figures, len(kinds)), make([]figures, len(kinds))
	var loaded usage
	for range b.runs {
		for i, k := range kinds {
			if err := b.roundTrip(&rtt[i], x.Host, k.addr); err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
			before, err := usageOf(x.Daemon())
			if err != nil {
				return err
			}
			bps, err := warrennet.Throughput(b.ctx, x.Host, y.Host, k.addr, b.stream)
			if err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
			bits[i] = append(bits[i], bps/1e9)
			if i == len(kinds)-1 {
				after, err := usageOf(x.Daemon())
				if err != nil {
					return err
				}
				loaded = after.since(before)
			}
		}
	}
	fmt.Println("\ndirect path, none-none")
	for i, k := range kinds {
		rtt[i].print("  round trip, "+k.name, "ms")
	}
	for i, k := range kinds {
		bits[i].print("  one TCP stream, "+k.name, "Gbit/s")
	}
	ratio := make(figures, b.runs)
	for i := range ratio {
		ratio[i] = bits[2][i] / bits[1][i]
	}
	ratio.print("  throughput, warren / stock wireguard-go, run by run", "")
	fmt.Printf("  agent idle:   %.1f MB resident, %.2f %% of a core\n", idle.megabytes(), idle.percent)
	fmt.Printf("  agent sending: %.1f MB resident, %.0f %% of a core\n", loaded.megabytes(), loaded.percent)
	return nil
}

// pair makes two devices and waits for a path of the kind between them.
func (b *bench) pair(n *warrennet.Network, nat lab.NAT, kind string) (x, y *warrennet.Device, err error) {
	hosts, err := twoHosts(n, nat)
	if err != nil {
		return nil, nil, err
	}
	return b.pairOn(n, hosts, kind, [2][]string{})
}

func twoHosts(n *warrennet.Network, nat lab.NAT) (hosts [2]*lab.Host, err error) {
	for i, name := range []string{"left", "right"} {
		if hosts[i], err = n.Lab.Host(name, nat); err != nil {
			break
		}
	}
	return hosts, err
}

// pairOn is pair on two hosts, with flags for their daemons.
func (b *bench) pairOn(n *warrennet.Network, hosts [2]*lab.Host, kind string, flags [2][]string) (x, y *warrennet.Device, err error) {
	token, err := n.Token(b.ctx, "--reusable")
	if err != nil {
		return nil, nil, err
	}
	for i, into := range []**warrennet.Device{&x, &y} {
		d := n.DeviceOn(hosts[i])
		if err := d.StartDaemon(b.ctx, flags[i]...); err != nil {
			return nil, nil, err
		}
		if err := d.Up(b.ctx, token); err != nil {
			return nil, nil, err
		}
		*into = d
	}
	st, err := y.Status(b.ctx)
	if err == nil {
		err = b.awaitPing(x.Host, st.Self.Addresses[0])
	}
	if err == nil {
		_, err = x.AwaitPath(b.ctx, y.Name, kind)
	}
	return x, y, err
}

// awaitPing waits for the first ping that is answered.
func (b *bench) awaitPing(from *lab.Host, to string) error {
	p, err := warrennet.NewPinger(from, to)
	if err != nil {
		return err
	}
	defer p.Close()
	_, err = p.Until(b.ctx, time.Second)
	return err
}

// pings is how many make one round-trip figure.
const pings = 200

// roundTrip adds the median of many pings, in milliseconds.
func (b *bench) roundTrip(f *figures, from *lab.Host, to string) error {
	p, err := warrennet.NewPinger(from, to)
	if err != nil {
		return err
	}
	defer p.Close()
	var all figures
	for range pings {
		d, err := p.Ping(2 * time.Second)
		if err != nil {
			return err
		}
		all = append(all, float64(d.Nanoseconds())/1e6)
	}
	*f = append(*f, all.median())
	return nil
}
