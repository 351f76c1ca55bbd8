package daemon

import (
	"context"
	"os"

	"golang.zx2c4.com/wireguard/tun"

	"warren/cmd/agent/internal/handover"
	"warren/tunnel/hostlinks"
	"warren/tunnel/router"
)

// tunnelHost is where the tunnel ends: an interface of this host, as router.Router has it, or a stack in this process.
type tunnelHost interface {
	networkHost
	TUN() tun.Device
	Name() string
	// Watch calls changed whenever somebody else has taken away what Apply had set, until ctx ends.
	Watch(ctx context.Context, changed func()) error
	// File is what another process can take over, Leave closes without taking anything back; see router.Router.
	File() *os.File
	Leave() error
	Close() error
}

// openHost makes the end of the tunnel, and what tells of the networks that get in its way.
func (s *session) openHost() error {
	if s.cfg.Userspace == nil {
		return s.openRouter()
	}
	h, err := openUserspace(s.cfg, s.log)
	if err != nil {
		return err
	}
	s.router, s.links = h, noLinks{}
	return h.Apply(router.State{Addresses: hostPrefixes(s.self.Addresses), MTU: defaultMTU})
}

// useRouter has the tunnel end in an interface, and the service manager keep it.
func (s *session) useRouter(r *router.Router) {
	s.router, s.links = r, &hostlinks.Reader{Ignore: r.Name()}
	if f := r.File(); f != nil {
		s.cfg.store.keep(handover.TUN, f)
	}
}

// interfaceName is empty where there is no interface.
func (s *session) interfaceName() string {
	if s.cfg.Userspace != nil {
		return ""
	}
	return s.router.Name()
}

// mark is the firewall mark of the agent's sockets. Without an interface, routes and rules nothing has to be told from the tunnel's own packets.
func (c *Config) mark() uint32 {
	if c.Userspace != nil {
		return 0
	}
	return firewallMark
}
