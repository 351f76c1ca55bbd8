package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.zx2c4.com/wireguard/tun"

	"warren/cmd/agent/internal/forward"
	"warren/cmd/agent/internal/proxy"
	"warren/cmd/agent/internal/state"
	pb "warren/proto/warrenv1"
	"warren/tunnel/netstack"
	"warren/tunnel/routeplan"
	"warren/tunnel/router"
)

// UserspaceName is what a tunnel without an interface is called in place of one.
const UserspaceName = "userspace"

// Userspace is how programs and peers use a tunnel that ends in this process.
type Userspace struct {
	// SOCKS5 and HTTPProxy are addresses, or empty. They may be the same.
	SOCKS5, HTTPProxy string
	// Credentials of both; the zero value asks for none.
	Credentials proxy.Credentials
	Forward     []forward.Rule
	Expose      []forward.Exposed
	// RemoteClients lets SOCKS5, HTTPProxy and Forward listen elsewhere than at loopback addresses.
	RemoteClients bool
}

// Check refuses settings that make no sense, or would let other hosts in unasked. It names the setting, as its flag is called.
func (u *Userspace) Check() (setting string, err error) {
	for _, l := range []struct{ setting, address string }{{"socks5", u.SOCKS5}, {"http-proxy", u.HTTPProxy}} {
		if l.address == "" {
			continue
		}
		at, err := netip.ParseAddrPort(l.address)
		if err != nil {
			return l.setting, fmt.Errorf("%.100q: want a port, or ADDRESS:PORT such as 127.0.0.1:1080", l.address)
		}
		if err := u.checkLocal(at); err != nil {
			return l.setting, err
		}
	}
	for _, r := range u.Forward {
		if err := u.checkLocal(r.Listen); err != nil {
			return "forward", fmt.Errorf("%s: %w", r, err)
		}
	}
	if err := forward.CheckRules(u.Forward); err != nil {
		return "forward", err
	}
	return "expose", forward.CheckExposed(u.Expose)
}

func (u *Userspace) checkLocal(at netip.AddrPort) error {
	if at.Addr().IsLoopback() || u.RemoteClients {
		return nil
	}
	return fmt.Errorf("%s: other hosts could use this device's place in the network there; choose a loopback address, such as 127.0.0.1, or say that it is meant "+
		"with --allow-remote-clients", at)
}

// checkRoutingUserspace refuses settings that need an interface.
func checkRoutingUserspace(r *state.Routing) error {
	what := ""
	switch {
	case len(r.Advertise) > 0:
		what = "carry CIDRs (--advertise)"
	case len(r.Site) > 0:
		what = "be a site's gateway (--site)"
	case r.AdvertiseExit:
		what = "be an exit node (--advertise-exit)"
	case r.KillSwitch:
		what = "keep others from sending outside of the tunnel (--kill-switch)"
	default:
		return nil
	}
	return fmt.Errorf("a device without an interface (--tun=userspace) cannot %s: take that back with \"warren set\", or run the daemon with an interface", what)
}

// userspace is the long-lived part: what listens stays while sessions come and go.
type userspace struct {
	cfg       *Userspace
	network   *overlay
	proxy     *proxy.Server
	listeners []proxyListener
	forwarder *forward.Forwarder
	exposer   *forward.Exposer
}

type proxyListener struct {
	net.Listener
	kinds proxy.Kinds
}

// openUserspaceServices opens all listeners, or none. current is nil while there is no session.
func openUserspaceServices(ctx context.Context, cfg *Userspace, current func() *session, log *slog.Logger) (_ *userspace, err error) {
	if setting, err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	u := &userspace{cfg: cfg, network: &overlay{current: current}, exposer: forward.NewExposer(ctx, cfg.Expose, log)}
	defer func() {
		if err != nil {
			u.close()
		}
	}()
	u.proxy = proxy.New(proxy.Config{Network: u.network, Credentials: cfg.Credentials, Log: log})
	kinds := map[string]proxy.Kinds{}
	for _, l := range []struct {
		address string
		kinds   proxy.Kinds
	}{{cfg.SOCKS5, proxy.Kinds{SOCKS5: true}}, {cfg.HTTPProxy, proxy.Kinds{HTTP: true}}} {
		k := kinds[l.address]
		kinds[l.address] = proxy.Kinds{SOCKS5: k.SOCKS5 || l.kinds.SOCKS5, HTTP: k.HTTP || l.kinds.HTTP}
	}
	delete(kinds, "")
	for address, k := range kinds {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("proxy at %s: %w; choose another address with --socks5 or --http-proxy", address, err)
		}
		u.listeners = append(u.listeners, proxyListener{l, k})
		if at, ok := l.Addr().(*net.TCPAddr); ok && !at.IP.IsLoopback() && cfg.Credentials == (proxy.Credentials{}) {
			log.Warn("whoever reaches this proxy uses the network as this device; --proxy-auth-file has it ask for a password", "address", at)
		}
	}
	u.forwarder, err = forward.Listen(ctx, cfg.Forward, u.network, log)
	return u, err
}

func (u *userspace) close() {
	for _, l := range u.listeners {
		l.Close()
	}
}

// run serves until ctx ends and closes everything.
func (u *userspace) run(ctx context.Context) error {
	defer u.exposer.Wait()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return u.proxy.Run(ctx) })
	for _, l := range u.listeners {
		group.Go(func() error { return u.proxy.Serve(ctx, l.Listener, l.kinds) })
	}
	group.Go(func() error { return u.forwarder.Run(ctx) })
	return group.Wait()
}

// status tells where to find it.
func (u *userspace) status() *pb.UserspaceStatus {
	out := &pb.UserspaceStatus{}
	for _, l := range u.listeners {
		if l.kinds.SOCKS5 {
			out.Socks5 = l.Addr().String()
		}
		if l.kinds.HTTP {
			out.HttpProxy = l.Addr().String()
		}
	}
	out.Forward, out.Expose = texts(u.cfg.Forward), texts(u.cfg.Expose)
	return out
}

// userspaceHost is the end of one session's tunnel.
type userspaceHost struct {
	stack *netstack.Stack
}

func openUserspace(cfg sessionConfig, log *slog.Logger) (*userspaceHost, error) {
	if err := checkRoutingUserspace(&cfg.state.Routing); err != nil {
		return nil, err
	}
	x := cfg.services.exposer
	st, err := netstack.New(netstack.Config{
		Name: UserspaceName, MTU: defaultMTU, Log: log,
		OnTCP: func(r *netstack.Request) {
			x.Stream(forward.Incoming{
				From: r.From, Port: r.To.Port(), Refuse: r.Refuse,
				Accept: func() (net.Conn, error) { return r.Accept() },
			})
		},
		OnUDP: func(to, from netip.AddrPort) func(net.Conn) { return x.Datagrams(from, to.Port()) },
	})
	if err != nil {
		return nil, err
	}
	return &userspaceHost{stack: st}, nil
}

func (h *userspaceHost) TUN() tun.Device { return h.stack }
func (h *userspaceHost) Name() string    { return UserspaceName }
func (h *userspaceHost) Close() error    { return h.stack.Close() }

// File is nil, and Leave ends everything: the stack goes with this process.
func (h *userspaceHost) File() *os.File { return nil }
func (h *userspaceHost) Leave() error   { return h.Close() }

// Notes has nothing to tell: nothing is changed on the host.
func (h *userspaceHost) Notes() []string { return nil }

// Watch waits for ctx to end: there is nothing to be taken away.
func (h *userspaceHost) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

// Apply takes addresses and MTU. Which addresses the tunnel leads to, overlay asks networks.
func (h *userspaceHost) Apply(st router.State) error {
	list := make([]netip.Addr, 0, len(st.Addresses))
	for _, p := range st.Addresses {
		list = append(list, p.Addr())
	}
	err := h.stack.SetAddresses(list)
	if st.MTU != 0 {
		err = errors.Join(err, h.stack.SetMTU(st.MTU))
	}
	return err
}

// noLinks says that the host is connected to no network: whoever uses a proxy of the tunnel's means the tunnel.
type noLinks struct{}

func (noLinks) Read() ([]routeplan.Link, error)   { return nil, nil }
func (noLinks) Neighbours() ([]netip.Addr, error) { return nil, nil }
func (noLinks) Forget()                           {}

// errNeedsInterface is for what looks at the host's own network.
func errNeedsInterface(what string) error {
	return fmt.Errorf("%s looks at this host's interface and routes, and the tunnel has none (--tun=userspace)", what)
}

// hostName makes a name comparable to those of the network.
func hostName(text string) string { return strings.ToLower(strings.TrimSuffix(text, ".")) }
