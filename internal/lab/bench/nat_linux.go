package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// How long a pair may take to become direct, if it can, and how long one is watched that cannot.
const (
	natPatience = 20 * time.Second
	natWatch    = 2500 * time.Millisecond
	natContact  = 10 * time.Second
)

// natPair is what was measured of one pair of kinds.
type natPair struct {
	a, b         lab.NAT
	possible     bool
	contact      int // runs with an answered ping
	became       int // runs that became direct at both ends
	ping, direct figures
	last         string
	runs         int
}

// nat measures every pair of kinds of access: one network, two devices of each kind, each pair from a fresh start of both tunnels.
func (b *bench) nat() error {
	n, done, err := b.network()
	if err != nil {
		return err
	}
	defer done()
	devices, err := b.natDevices(n)
	if err != nil {
		return err
	}
	var table []natPair
	kinds := lab.Kinds()
	for i, x := range kinds {
		for _, y := range kinds[i:] {
			p := natPair{a: x, b: y, possible: directPossible(x, y)}
			from, to := devices[x][0], devices[y][1]
			for range b.runs {
				if err := b.natRun(&p, from, to); err != nil {
					return fmt.Errorf("%s to %s: %w", x, y, err)
				}
			}
			fmt.Fprintln(os.Stderr, p.row())
			table = append(table, p)
		}
	}
	return b.natTable(table)
}

func (b *bench) natDevices(n *warrennet.Network) (map[lab.NAT][2]*warrennet.Device, error) {
	token, err := n.Token(b.ctx, "--reusable")
	if err != nil {
		return nil, err
	}
	out := map[lab.NAT][2]*warrennet.Device{}
	for _, kind := range lab.Kinds() {
		var two [2]*warrennet.Device
		for i := range two {
			if two[i], err = n.Device(b.ctx, fmt.Sprintf("%s-%d", kind, i), kind); err == nil {
				err = two[i].Up(b.ctx, token)
			}
			if err == nil {
				err = two[i].Warren(b.ctx, nil, "down")
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind, err)
			}
		}
		out[kind] = two
	}
	return out, nil
}

// natRun takes both tunnels up and measures from the moment that both are.
func (b *bench) natRun(p *natPair, from, to *warrennet.Device) error {
	p.runs++
	if err := forget(from, to); err != nil {
		return err
	}
	for _, d := range []*warrennet.Device{to, from} {
		if err := d.Up(b.ctx, ""); err != nil {
			return err
		}
		defer d.Warren(b.ctx, nil, "down")
	}
	st, err := to.Status(b.ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	ping, err := warrennet.NewPinger(from.Host, st.Self.Addresses[0])
	if err != nil {
		return err
	}
	defer ping.Close()
	ctx, cancel := context.WithTimeout(b.ctx, natContact)
	defer cancel()
	if _, err := ping.Until(ctx, time.Second); err != nil {
		p.last = "none"
		return nil
	}
	p.contact++
	p.ping = append(p.ping, time.Since(began).Seconds()*1000)
	took, kind, err := b.natDirect(p.possible, from, to, ping, began)
	if err != nil {
		return err
	}
	if p.last = kind; took > 0 {
		p.became++
		p.direct = append(p.direct, took.Seconds())
	}
	return nil
}

// forget has all NATs begin anew: the ports that the last run tried would let packets of this one in.
func forget(devices ...*warrennet.Device) error {
	for _, d := range devices {
		if err := d.Forget(); err != nil {
			return err
		}
	}
	return nil
}

// natDirect keeps the path in use until it is direct at both ends, or time is up, and tells how it ended.
func (b *bench) natDirect(possible bool, from, to *warrennet.Device, ping *warrennet.Pinger, began time.Time) (time.Duration, string, error) {
	wait := natWatch
	if possible {
		wait = natPatience
	}
	for {
		kind := [2]string{}
		for i, d := range [][2]*warrennet.Device{{from, to}, {to, from}} {
			st, err := d[0].Status(b.ctx)
			if err != nil {
				return 0, "", err
			}
			if peer := st.Peer(d[1].Name); peer != nil {
				kind[i] = peer.Path.Kind
			}
		}
		if kind[0] == "direct" && kind[1] == "direct" {
			return time.Since(began), "direct", nil
		}
		if time.Since(began) > wait {
			return 0, kind[0], nil
		}
		if _, err := ping.Ping(time.Second); err != nil && !errors.Is(err, warrennet.ErrNoAnswer) {
			return 0, "", err
		}
	}
}

// directPossible tells whether some direct path exists in principle: an address family in which both send UDP, and not two NATs that both give
// every destination another port.
func directPossible(a, b lab.NAT) bool {
	v4 := func(n lab.NAT) bool {
		x := n.Access()
		return !x.NoIPv4 && !x.BrokenIPv4 && x.Block == lab.BlockNothing
	}
	v6 := func(n lab.NAT) bool { x := n.Access(); return x.IPv6 != lab.NoIPv6 && x.Block == lab.BlockNothing }
	hard := func(n lab.NAT) bool { return n == lab.Hard || n == lab.HardCGNAT || n == lab.IPv6Firewalled }
	return v6(a) && v6(b) || v4(a) && v4(b) && !(hard(a) && hard(b))
}

func (p *natPair) row() string {
	direct, ping := "-", "-"
	if p.became > 0 {
		direct = fmt.Sprintf("%.2f", p.direct.median())
	}
	if p.contact > 0 {
		ping = fmt.Sprintf("%.0f", p.ping.median())
	}
	possible := "no"
	if p.possible {
		possible = "yes"
	}
	return fmt.Sprintf("| %s | %s | %d/%d | %s | %s | %s | %d/%d | %s |", p.a, p.b, p.contact, p.runs, ping, p.last, possible, p.became, p.runs, direct)
}

// natTable prints the table, or puts it into a document behind its mark.
func (b *bench) natTable(table []natPair) error {
	var out strings.Builder
	out.WriteString("| from | to | contact | first ping, ms | final path | direct possible | became direct | seconds to direct |\n|---|---|---|---|---|---|---|---|\n")
	for _, p := range table {
		out.WriteString(p.row() + "\n")
	}
	return b.publish("nat", out.String())
}
