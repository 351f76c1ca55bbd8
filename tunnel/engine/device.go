package engine

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"warren/proto/key"
)

// wireguard is the device behind what we need of it. Everything is said in WireGuard's configuration protocol, so none of the device's
// types come out of this file.
type wireguard struct {
	dev *device.Device
}

// newWireguard makes a device that counts packets from addresses that are another configured peer's.
func newWireguard(t tun.Device, b conn.Bind, log *slog.Logger, disallowed *atomic.Uint64) *wireguard {
	return &wireguard{dev: device.NewDevice(t, b, deviceLogger(log, disallowed))}
}

func (w *wireguard) up(private key.NodePrivate) error {
	var lines strings.Builder
	writeKey(&lines, "private_key", private.Bytes())
	if err := w.dev.IpcSet(lines.String()); err != nil {
		return err
	}
	return w.dev.Up()
}

func (w *wireguard) close() { w.dev.Close() }

// gone is closed when the device has closed, by itself or by close.
func (w *wireguard) gone() <-chan struct{} { return w.dev.Wait() }

func (w *wireguard) apply(lines string) error { return w.dev.IpcSet(lines) }

// get is the device's configuration and state, private key and all.
func (w *wireguard) get() (string, error) { return w.dev.IpcGet() }

func (w *wireguard) peers() (map[[key.Size]byte]counters, error) {
	text, err := w.get()
	if err != nil {
		return nil, err
	}
	return parsePeers(text)
}

func writeKey(w *strings.Builder, name string, k []byte) {
	w.WriteString(name + "=" + hex.EncodeToString(k) + "\n")
}

// parsePeers reads the peers' counters from the answer to a get.
func parsePeers(text string) (map[[key.Size]byte]counters, error) {
	out := map[[key.Size]byte]counters{}
	var peer [key.Size]byte
	var c counters
	var sec int64
	in := false
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		var err error
		switch name {
		case "public_key":
			in, c = true, counters{}
			if hex.DecodedLen(len(value)) != key.Size {
				return nil, fmt.Errorf("device's answer: public key of %d digits", len(value))
			}
			_, err = hex.Decode(peer[:], []byte(value))
		case "last_handshake_time_sec":
			sec, err = strconv.ParseInt(value, 10, 64)
		case "last_handshake_time_nsec":
			var nsec int64
			if nsec, err = strconv.ParseInt(value, 10, 64); sec != 0 || nsec != 0 {
				c.handshake = time.Unix(sec, nsec)
			}
		case "rx_bytes":
			c.rx, err = strconv.ParseUint(value, 10, 64)
		case "tx_bytes":
			c.tx, err = strconv.ParseUint(value, 10, 64)
		}
		if err != nil {
			return nil, fmt.Errorf("device's answer: %s: %w", name, err)
		}
		if in {
			out[peer] = c
		}
	}
	return out, nil
}

// quietFor is how long a complaint of the device's is not repeated.
const quietFor = 10 * time.Second

// deviceLogger passes the device's words on to slog: what it calls errors as warnings, each kind once in a while, and the rest only
// where somebody debugs below the level of debug. Packets that could not be sent are no news: the Bind counts them and paths change.
// Nothing but its words tells of packets from addresses that their sender may not have.
func deviceLogger(log *slog.Logger, disallowed *atomic.Uint64) *device.Logger {
	const chatter = slog.LevelDebug - 4
	var mu sync.Mutex
	last := map[string]time.Time{} // by format string, so bounded by the device's source
	return &device.Logger{
		Verbosef: func(format string, args ...any) {
			if strings.Contains(format, "disallowed source address") {
				disallowed.Add(1)
			}
			if ctx := context.Background(); log.Enabled(ctx, chatter) {
				log.Log(ctx, chatter, "wireguard: "+fmt.Sprintf(format, args...))
			}
		},
		Errorf: func(format string, args ...any) {
			mu.Lock()
			now := time.Now()
			quiet := now.Sub(last[format]) < quietFor || strings.Contains(format, "Failed to send")
			if !quiet {
				last[format] = now
			}
			mu.Unlock()
			level := slog.LevelWarn
			if quiet {
				level = slog.LevelDebug
			}
			if ctx := context.Background(); log.Enabled(ctx, level) {
				log.Log(ctx, level, "wireguard: "+fmt.Sprintf(format, args...))
			}
		},
	}
}
