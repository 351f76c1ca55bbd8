package relay

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"time"

	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/tlsbind"
	pb "warren/proto/warrenv1"
)

// ProbeConfig is what Probe needs; its fields are as in ClientConfig.
type ProbeConfig struct {
	Relay     *pb.Relay
	Network   record.NetworkID
	Authority key.AuthorityPublic
	Dial      func(ctx context.Context, network, address string) (net.Conn, error)
}

// probeTimeout bounds the attempt at one URL.
const probeTimeout = 5 * time.Second

// Probe connects to the first of a relay's URLs that answers as the relay, and hangs up. It tells how long it took until the connection stood,
// and until the TLS handshake was over, which is 0 where the relay uses no TLS. The error is that of the last URL.
func Probe(ctx context.Context, cfg ProbeConfig) (tcp, whole time.Duration, err error) {
	err = fmt.Errorf("relay %q has no address", cfg.Relay.GetName())
	for _, at := range cfg.Relay.GetUrls() {
		if tcp, whole, err = cfg.probe(ctx, at); err == nil || ctx.Err() != nil {
			break
		}
		err = fmt.Errorf("%s: %w", at, err)
	}
	return tcp, whole, err
}

func (c ProbeConfig) probe(ctx context.Context, at string) (tcp, whole time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	u, err := url.Parse(at)
	if err != nil {
		return 0, 0, err
	}
	config, err := tlsbind.ClientConfig(c.Authority, c.Network, c.Relay.GetTlsMode(), u.Hostname(),
		pb.TLSRole_TLS_ROLE_RELAY, pb.TLSRole_TLS_ROLE_COORDINATOR)
	if err != nil {
		return 0, 0, err
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	began := time.Now()
	conn, err := c.Dial(ctx, "tcp", address)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	tcp = time.Since(began)
	if config == nil {
		return tcp, 0, nil
	}
	if _, err := handshakeTLS(ctx, conn, config); err != nil {
		return tcp, 0, err
	}
	return tcp, time.Since(began), nil
}
