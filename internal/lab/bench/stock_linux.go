package main

import (
	"time"

	"warren/internal/lab"
	"warren/internal/lab/field"
	"warren/internal/lab/warrennet"
)

// stock makes a tunnel of stock wireguard-go between two hosts, with the same MTU as ours, and gives the address of the second in it.
func (b *bench) stock(x, y *lab.Host) (string, error) {
	n, err := field.Stock{Bin: b.bin}.Start(b.ctx, field.Place{Devices: [2]*lab.Host{x, y}})
	if err != nil {
		return "", err
	}
	var far field.Device
	for _, h := range []*lab.Host{x, y} {
		if far, err = n.Join(b.ctx, h); err != nil {
			return "", err
		}
	}
	return far.Address.String(), b.awaitPing(x, far.Address.String())
}

// usage is what a process takes of the machine.
type usage struct {
	field.Usage
	at      time.Time
	percent float64 // of a core
}

func usageOf(d *warrennet.Daemon) (usage, error) {
	u, err := field.UsageOf(d.PID())
	return usage{Usage: u, at: time.Now()}, err
}

func (u usage) megabytes() float64 { return float64(u.Resident) / 1e6 }

func (u usage) since(before usage) usage {
	u.percent = 100 * float64(u.CPU-before.CPU) / float64(u.at.Sub(before.at))
	return u
}

// idleFor is how long an idle agent is watched.
const idleFor = 5 * time.Second

func (b *bench) idle(d *warrennet.Daemon) (usage, error) {
	before, err := usageOf(d)
	if err != nil {
		return usage{}, err
	}
	select {
	case <-b.ctx.Done():
		return usage{}, b.ctx.Err()
	case <-time.After(idleFor):
	}
	after, err := usageOf(d)
	return after.since(before), err
}
