package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/proto/key"
)

// Addresses and port of the stock tunnel.
const (
	stockLeft  = "10.99.0.1"
	stockRight = "10.99.0.2"
	stockPort  = 51821
)

// stock makes a tunnel of stock wireguard-go between two hosts, with the same MTU as ours.
func (b *bench) stock(x, y *lab.Host) error {
	kx, ky := key.NewNode(), key.NewNode()
	for _, end := range []struct {
		h         *lab.Host
		own       key.NodePrivate
		peer      key.NodePublic
		addr, far string
		at        string
	}{
		{x, kx, ky.Public(), stockLeft, stockRight, y.Addr.String()},
		{y, ky, kx.Public(), stockRight, stockLeft, x.Addr.String()},
	} {
		if err := b.stockEnd(end.h, end.own, end.peer, end.addr, end.far, end.at); err != nil {
			return fmt.Errorf("stock wireguard-go on %s: %w", end.h.Name, err)
		}
	}
	p, err := warrennet.NewPinger(x, stockRight)
	if err != nil {
		return err
	}
	defer p.Close()
	_, err = p.Until(b.ctx, time.Second)
	return err
}

func (b *bench) stockEnd(h *lab.Host, own key.NodePrivate, peer key.NodePublic, addr, far, at string) error {
	cmd := h.Command(b.ctx, filepath.Join(b.bin, "wireguard-go"), "-f", "stock0")
	cmd.Env = append(cmd.Env, "WG_PROCESS_FOREGROUND=1", "LOG_LEVEL=error")
	if err := cmd.Start(); err != nil {
		return err
	}
	text := base64.StdEncoding.AppendEncode(nil, own.Bytes()) // as wg reads it
	// The program makes its interface and socket in its own time; wg says when they are there.
	for {
		set := h.Command(b.ctx, "wg", "set", "stock0", "private-key", "/dev/stdin", "listen-port", strconv.Itoa(stockPort),
			"peer", peer.String(), "endpoint", fmt.Sprintf("%s:%d", at, stockPort), "allowed-ips", far+"/32")
		set.Stdin = bytes.NewReader(text)
		out, err := set.CombinedOutput()
		if err == nil {
			break
		}
		if b.ctx.Err() != nil || strings.Contains(string(out), "not found") {
			return fmt.Errorf("wg set: %w: %s", err, out)
		}
	}
	return h.Configure("stock0", addr, far, 1420)
}

// usage is what a process takes of the machine.
type usage struct {
	megabytes float64
	cpu       time.Duration
	at        time.Time
	percent   float64
}

// clockTick is the unit of /proc/PID/stat on every Linux (sysconf(_SC_CLK_TCK)).
const clockTick = 10 * time.Millisecond

func usageOf(d *warrennet.Device) (usage, error) {
	st, err := d.Daemon().PIDFile("stat")
	if err != nil {
		return usage{}, err
	}
	_, rest, _ := strings.Cut(st, ") ")
	fields := strings.Fields(rest)
	if len(fields) < 22 {
		return usage{}, fmt.Errorf("stat of the agent: %q", st)
	}
	var ticks, pages int64
	for i, into := range map[int]*int64{11: &ticks, 21: &pages} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return usage{}, err
		}
		*into += n
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	if err != nil {
		return usage{}, err
	}
	return usage{
		megabytes: float64(pages) * float64(os.Getpagesize()) / 1e6,
		cpu:       time.Duration(ticks+system) * clockTick, at: time.Now(),
	}, nil
}

func (u usage) since(before usage) usage {
	u.percent = 100 * float64(u.cpu-before.cpu) / float64(u.at.Sub(before.at))
	return u
}

// idleFor is how long an idle agent is watched.
const idleFor = 5 * time.Second

func (b *bench) idle(d *warrennet.Device) (usage, error) {
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
