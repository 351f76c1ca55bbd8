package system

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// mapped makes a network with left behind a router that maps ports, its daemon started with flags, and right behind a hard NAT:
//
//	left --- hard NAT with miniupnpd --- internet --- hard NAT --- right
//
// Without a mapping these two stay relayed.
func mapped(t *testing.T, flags ...string) (context.Context, *warrennet.Network, pairOf) {
	t.Helper()
	ctx, n := start(t)
	site, err := n.Lab.Site("left", lab.PortMapped.Access())
	if err != nil {
		t.Fatal(err)
	}
	h, err := site.Host("left")
	if err != nil {
		t.Fatal(err)
	}
	left := n.DeviceOn(h)
	if err := left.StartDaemon(ctx, flags...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("left:\n%s", left.Daemon().Log())
		}
	})
	token, err := n.Token(ctx)
	if err == nil {
		err = left.Up(ctx, token)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ctx, n, pairOf{left, device(t, ctx, n, "right", lab.Hard), site.Router()}
}

// pairOf is what mapped makes, with left's router.
type pairOf struct {
	left, right *warrennet.Device
	router      *lab.Host
}

// TestPortMapping has the agent map its port by each protocol, with a real miniupnpd: a peer that could not be reached otherwise goes direct,
// and after the agent's end the router lets nothing in.
func TestPortMapping(t *testing.T) {
	for flag, protocol := range map[string]string{"pcp": "PCP", "nat-pmp": "NAT-PMP", "upnp": "UPnP", "pcp,nat-pmp,upnp": "PCP"} {
		t.Run(flag, func(t *testing.T) {
			ctx, n, p := mapped(t, "--port-mapping", flag)
			left, right := p.left, p.right
			within, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			st, err := left.Await(within, "mapped", func(s *warrennet.Status) bool { return s.NAT.PortMapping.Protocol != "" })
			if err != nil {
				t.Fatal(err)
			}
			m := st.NAT.PortMapping
			if m.Protocol != protocol || m.External.Addr() != left.Public || !time.Now().Before(m.Until) {
				t.Errorf("%+v, want %s at %s", m, protocol, left.Public)
			}
			ping(t, ctx, left, right)
			for _, d := range []struct{ from, to *warrennet.Device }{{left, right}, {right, left}} {
				if st, err = d.from.AwaitPath(within, d.to.Name, "direct"); err != nil {
					t.Fatal(err)
				}
			}
			if got := st.Peer("left").Path.Remote; got != m.External.String() {
				t.Errorf("right reaches left at %s, want %s", got, m.External)
			}
			if err := left.Daemon().Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if letsIn(t, n.Coordinator, left, m.External) {
				t.Error("the mapping is still there after the daemon's end")
			}
		})
	}
}

// letsIn sends from a host that the router has never seen to a mapped port, and tells whether it comes in.
func letsIn(t *testing.T, from *lab.Host, to *warrennet.Device, external netip.AddrPort) bool {
	t.Helper()
	in, err := to.ListenUDP(":" + strconv.Itoa(int(external.Port()))) // the router keeps the port, so it is the same inside
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := from.ListenUDP(":0")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := out.WriteToUDPAddrPort([]byte("stranger"), external); err != nil {
		t.Fatal(err)
	}
	if err := in.SetReadDeadline(time.Now().Add(150 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	for {
		n, _, err := in.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if string(b[:n]) == "stranger" { // not a peer's late packet
			return true
		}
	}
}

// With port mapping turned off the same two stay on the relay, and status tells how the NAT maps.
func TestPortMappingOff(t *testing.T) {
	ctx, _, both := mapped(t, "--port-mapping", "off", "--endpoint", "192.0.2.9:4000")
	left := both.left
	p := ping(t, ctx, left, both.right)
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	st, err := left.Await(within, "aware of its NAT", func(s *warrennet.Status) bool { return s.NAT.IPv4.Behaviour != "unknown" })
	if err != nil {
		t.Fatal(err)
	}
	if n := st.NAT; n.PortMapping.Enabled || n.IPv4 != (warrennet.NATMapping{Behaviour: "address-and-port-dependent", Sure: true}) {
		t.Errorf("%+v", n)
	}
	if !slices.Contains(st.NAT.Candidates, "port mapped 192.0.2.9:4000") {
		t.Errorf("the fixed endpoint is not among %q", st.NAT.Candidates)
	}
	for range 50 {
		if _, err := p.Ping(5 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if st, err = left.Status(ctx); err != nil || st.Peer("right").Path.Kind != "relay" {
		t.Errorf("%+v, %v; want a relayed path", st, err)
	}
}

// TestGatewayRestart has the router lose its table, as after a power cut: it says so to all hosts (RFC 6886 section 3.2.1, RFC 6887 section
// 14.1.3), and the agent asks again at once.
func TestGatewayRestart(t *testing.T) {
	for _, flag := range []string{"pcp", "nat-pmp", "upnp"} {
		t.Run(flag, func(t *testing.T) {
			ctx, _, p := mapped(t, "--port-mapping", flag)
			left, router := p.left, p.router
			within, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			before, err := left.Await(within, "mapped", func(s *warrennet.Status) bool { return s.NAT.PortMapping.Protocol != "" })
			if err != nil {
				t.Fatal(err)
			}
			if n := forwarded(t, router); n != 1 {
				t.Fatalf("%d ports are forwarded", n)
			}
			// It removes the file when it has closed everything.
			const stop = "kill $(cat /run/miniupnpd.pid) && while [ -e /run/miniupnpd.pid ]; do sleep 0.02; done; rm -f /run/miniupnpd.leases"
			if out, err := router.Command(within, "/bin/sh", "-c", stop).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			flush(t, router)
			if n := forwarded(t, router); n != 0 {
				t.Fatalf("%d ports are still forwarded", n)
			}
			again, err := warrennet.Start(router, "/usr/sbin/miniupnpd", "-d", "-f", "/run/miniupnpd.conf", "-P", "/run/miniupnpd.pid")
			if err != nil {
				t.Fatal(err)
			}
			defer again.Signal(syscall.SIGTERM)
			if err := again.AwaitLog(within, "PCP"); err != nil { // it listens
				t.Fatal(err)
			}
			// A router announces by itself when it is up; of miniupnpd that is asked by this signal.
			if out, err := router.Command(within, "/bin/sh", "-c", "kill -USR1 $(cat /run/miniupnpd.pid)").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			st, err := left.Await(within, "mapped again", func(s *warrennet.Status) bool {
				return s.NAT.PortMapping.Until.After(before.NAT.PortMapping.Until) && forwarded(t, router) == 1
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := st.NAT.PortMapping; got.External != before.NAT.PortMapping.External {
				t.Errorf("%+v, before %+v", got, before.NAT.PortMapping)
			}
		})
	}
}

// mapperChain finds the chain into which miniupnpd puts its mappings.
func mapperChain(c *nftables.Conn) (*nftables.Chain, error) {
	chains, err := c.ListChains()
	i := slices.IndexFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == "miniupnpd" && c.Name == "prerouting" })
	if err == nil && i < 0 {
		err = errors.New("no chain of miniupnpd's")
	}
	if err != nil {
		return nil, err
	}
	return chains[i], nil
}

// forwarded counts the ports that the router forwards.
func forwarded(t *testing.T, router *lab.Host) (n int) {
	t.Helper()
	err := router.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		chain, err := mapperChain(c)
		if err != nil {
			return err
		}
		rules, err := c.GetRules(chain.Table, chain)
		n = len(rules)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// flush empties the chain.
func flush(t *testing.T, router *lab.Host) {
	t.Helper()
	err := router.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		chain, err := mapperChain(c)
		if err != nil {
			return err
		}
		c.FlushChain(chain)
		return c.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
}
