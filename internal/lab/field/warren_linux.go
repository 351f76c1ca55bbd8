package field

import (
	"context"
	"net/netip"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// Warren is ours: warren-coordinator at the relay's host, "warren up TOKEN" on devices. Bin has the programs.
type Warren struct{ Bin string }

// Name is the system's name.
func (Warren) Name() string { return NameWarren }

// Can is true.
func (Warren) Can(Pair) (bool, string) { return true, "" }

// Start starts the coordinator and makes a join token.
func (w Warren) Start(ctx context.Context, p Place) (Network, error) {
	n, err := warrennet.On(ctx, p.Lab, p.Relay, w.Bin, p.Dir)
	if err != nil {
		return nil, err
	}
	token, err := n.Token(ctx, "--reusable")
	return &warrenNetwork{n, token}, err
}

type warrenNetwork struct {
	n     *warrennet.Network
	token string
}

func (w *warrenNetwork) Join(ctx context.Context, h *lab.Host) (Device, error) {
	d := w.n.DeviceOn(h)
	if err := d.Up(ctx, w.token); err != nil {
		return Device{}, err
	}
	st, err := d.Status(ctx)
	if err != nil {
		return Device{}, err
	}
	a, err := netip.ParseAddr(st.Self.Addresses[0])
	return Device{a, st.PID}, err
}

func (w *warrenNetwork) Programs() []int { return []int{w.n.Serving().PID()} }
