package field

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// Tailscale is tailscaled with Headscale as its coordinator, whose embedded DERP server is the only relay. Bin has the programs.
type Tailscale struct{ Bin string }

// Name is the system's name.
func (Tailscale) Name() string { return NameTailscale }

// Can is true.
func (Tailscale) Can(Pair) (bool, string) { return true, "" }

// Start starts Headscale and makes a key to join with.
func (t Tailscale) Start(ctx context.Context, p Place) (Network, error) {
	c := headscaleConfig{Dir: p.Dir, Address: p.Relay.Addr, Cert: filepath.Join(p.Dir, "server.crt"), Key: filepath.Join(p.Dir, "server.key")}
	n := &tailscaleNetwork{Tailscale: t, place: p, config: filepath.Join(p.Dir, "config.yaml"), ca: filepath.Join(p.Dir, "ca.crt")}
	if err := writeCertificates(p.Relay.Addr, n.ca, c.Cert, c.Key); err != nil {
		return nil, err
	}
	if err := os.WriteFile(n.config, c.yaml(), 0o600); err != nil {
		return nil, err
	}
	var err error
	if n.headscale, err = startProgram(p.Relay, []string{"HOME=" + p.Dir}, filepath.Join(t.Bin, "headscale"), "-c", n.config, "serve"); err != nil {
		return nil, err
	}
	if err := awaitFile(ctx, filepath.Join(p.Dir, "sock"), n.headscale); err != nil {
		return nil, failed("headscale", n.headscale, err)
	}
	n.key, err = n.joinKey(ctx)
	return n, err
}

type tailscaleNetwork struct {
	Tailscale
	place      Place
	headscale  *warrennet.Daemon
	config, ca string // files
	key        string
}

// joinKey makes a user and a key that lets both devices join as that user's.
func (n *tailscaleNetwork) joinKey(ctx context.Context) (string, error) {
	var user, key string
	for _, step := range []struct {
		into *string
		args []string
	}{
		{&user, []string{"users", "create", "field"}},
		{&key, []string{"preauthkeys", "create", "--user", "1", "--reusable"}},
	} {
		cmd := n.place.Relay.Command(ctx, filepath.Join(n.Bin, "headscale"), append([]string{"-c", n.config, "-o", "json"}, step.args...)...)
		cmd.Env = append(cmd.Env, "HOME="+n.place.Dir)
		var err error
		if *step.into, err = output(cmd); err != nil {
			return "", failed("headscale", n.headscale, err)
		}
	}
	return parseJoinKey(key)
}

func (n *tailscaleNetwork) Programs() []int { return []int{n.headscale.PID()} }

func (n *tailscaleNetwork) Join(ctx context.Context, h *lab.Host) (Device, error) {
	dir := filepath.Join(n.place.Dir, h.Name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return Device{}, err
	}
	env := []string{"HOME=" + dir, "SSL_CERT_FILE=" + n.ca, "SSL_CERT_DIR=" + dir, "TS_NO_LOGS_NO_SUPPORT=true", "TS_LOGS_DIR=" + dir}
	socket := filepath.Join(dir, "sock")
	d, err := startProgram(h, env, filepath.Join(n.Bin, "tailscaled"), "--no-logs-no-support", "--tun", "tailscale0", "--statedir", dir,
		"--state", filepath.Join(dir, "state"), "--socket", socket)
	if err != nil {
		return Device{}, err
	}
	if err := awaitFile(ctx, socket, d); err != nil {
		return Device{}, failed("tailscaled on "+h.Name, d, err)
	}
	cli := func(args ...string) (string, error) {
		cmd := h.Command(ctx, filepath.Join(n.Bin, "tailscale"), append([]string{"--socket", socket}, args...)...)
		cmd.Env = append(cmd.Env, env...)
		return output(cmd)
	}
	if _, err := cli("up", "--login-server", "https://"+n.place.Relay.Addr.String()+":443", "--auth-key", n.key, "--hostname", h.Name,
		"--accept-dns=false"); err != nil {
		return Device{}, failed("tailscaled on "+h.Name, d, err)
	}
	out, err := cli("ip", "-4")
	if err != nil {
		return Device{}, err
	}
	a, err := netip.ParseAddr(strings.TrimSpace(out))
	return Device{a, d.PID()}, err
}
