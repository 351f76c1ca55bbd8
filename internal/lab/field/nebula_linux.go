package field

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// Nebula is slackhq/nebula: a lighthouse that is also the relay, certificates by nebula-cert. Bin has both programs.
type Nebula struct{ Bin string }

// Name is the system's name.
func (Nebula) Name() string { return NameNebula }

// Can tells whether UDP passes.
func (Nebula) Can(p Pair) (bool, string) {
	if blocked := lab.UDPBlocked.String(); p.First == blocked || p.Second == blocked {
		return false, "it has no transport but UDP"
	}
	return true, ""
}

// nebulaAddress is that of the lighthouse (0) or of a device (1, 2).
func nebulaAddress(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 98, 0, byte(i + 1)}), 24)
}

// Start makes the certificates of all three and starts the lighthouse.
func (n Nebula) Start(ctx context.Context, p Place) (Network, error) {
	cert := func(args ...string) error {
		_, err := output(p.Relay.Command(ctx, filepath.Join(n.Bin, "nebula-cert"), args...))
		return err
	}
	ca, caKey := filepath.Join(p.Dir, "ca.crt"), filepath.Join(p.Dir, "ca.key")
	if err := cert("ca", "-name", "field", "-out-crt", ca, "-out-key", caKey); err != nil {
		return nil, err
	}
	net := &nebulaNetwork{Nebula: n, place: p}
	for i := range 3 {
		c := nebulaConfig{
			CA: ca, Cert: filepath.Join(p.Dir, fmt.Sprintf("%d.crt", i)), Key: filepath.Join(p.Dir, fmt.Sprintf("%d.key", i)),
			Lighthouse: nebulaAddress(0).Addr(), LighthouseAt: netip.AddrPortFrom(p.Relay.Addr, nebulaPort), IsLighthouse: i == 0,
		}
		if err := cert("sign", "-ca-crt", ca, "-ca-key", caKey, "-name", fmt.Sprintf("host%d", i), "-networks", nebulaAddress(i).String(),
			"-out-crt", c.Cert, "-out-key", c.Key); err != nil {
			return nil, err
		}
		if err := os.WriteFile(net.config(i), c.yaml(), 0o600); err != nil {
			return nil, err
		}
	}
	var err error
	net.lighthouse, err = net.run(ctx, p.Relay, 0)
	return net, err
}

type nebulaNetwork struct {
	Nebula
	place      Place
	lighthouse *warrennet.Daemon
}

func (n *nebulaNetwork) config(i int) string {
	return filepath.Join(n.place.Dir, fmt.Sprintf("%d.yml", i))
}

// run starts nebula with configuration i and waits until its interface is there.
func (n *nebulaNetwork) run(ctx context.Context, h *lab.Host, i int) (*warrennet.Daemon, error) {
	d, err := startProgram(h, nil, filepath.Join(n.Bin, "nebula"), "-config", n.config(i))
	if err != nil {
		return nil, err
	}
	return d, d.AwaitLog(ctx, "Nebula interface is active")
}

func (n *nebulaNetwork) Join(ctx context.Context, h *lab.Host) (Device, error) {
	i, err := n.place.index(h)
	if err != nil {
		return Device{}, err
	}
	d, err := n.run(ctx, h, i+1)
	if err != nil {
		return Device{}, err
	}
	return Device{nebulaAddress(i + 1).Addr(), d.PID()}, nil
}

func (n *nebulaNetwork) Programs() []int { return []int{n.lighthouse.PID()} }
