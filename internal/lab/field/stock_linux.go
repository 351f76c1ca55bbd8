package field

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/proto/key"
)

// Stock is wireguard-go as it comes, between hosts whose endpoints are known, with wg to configure it. Bin has the program.
type Stock struct{ Bin string }

// What a tunnel of Stock has: the interface's MTU is what wg-quick gives one over a link of 1500 bytes.
const (
	stockLink = "stock0"
	stockPort = 51821
	stockMTU  = 1420
)

// stockAddress is the address of device i inside the tunnel.
func stockAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 99, 0, byte(i + 1)}) }

// Name is the system's name.
func (Stock) Name() string { return NameStock }

// Can tells whether both devices have public addresses.
func (Stock) Can(p Pair) (bool, string) { return onlyPublic(p) }

// Start makes both devices' keys.
func (s Stock) Start(_ context.Context, p Place) (Network, error) {
	return &stockNetwork{s, p, [2]key.NodePrivate{key.NewNode(), key.NewNode()}}, nil
}

type stockNetwork struct {
	Stock
	place Place
	keys  [2]key.NodePrivate
}

func (*stockNetwork) Programs() []int { return nil }

func (s *stockNetwork) Join(ctx context.Context, h *lab.Host) (Device, error) {
	i, err := s.place.index(h)
	if err != nil {
		return Device{}, err
	}
	d, err := startProgram(h, []string{"LOG_LEVEL=error"}, filepath.Join(s.Bin, "wireguard-go"), "-f", stockLink)
	if err != nil {
		return Device{}, err
	}
	// The program makes its interface, and the socket that wg talks to, in its own time.
	if err := await(ctx, func() (bool, error) { return s.set(ctx, h, i, d) }); err != nil {
		return Device{}, failed("wireguard-go on "+h.Name, d, err)
	}
	own, far := stockAddress(i), stockAddress(1-i)
	return Device{own, d.PID()}, h.Configure(stockLink, own.String(), far.String(), stockMTU)
}

// set tells device i its key and its peer, and reports whether the program was there to hear it.
func (s *stockNetwork) set(ctx context.Context, h *lab.Host, i int, d *warrennet.Daemon) (bool, error) {
	far := s.place.Devices[1-i]
	cmd := h.Command(ctx, "wg", "set", stockLink, "private-key", "/dev/stdin", "listen-port", strconv.Itoa(stockPort),
		"peer", s.keys[1-i].Public().String(), "endpoint", netip.AddrPortFrom(far.Addr, stockPort).String(),
		"allowed-ips", stockAddress(1-i).String()+"/32")
	cmd.Stdin = bytes.NewReader(base64.StdEncoding.AppendEncode(nil, s.keys[i].Bytes())) // as wg reads it
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return true, nil
	case bytes.Contains(out, []byte("not found")):
		return false, fmt.Errorf("wg set: %w: %s", err, out)
	case d.Ended():
		return false, errors.New("the program has ended")
	}
	return false, nil
}
