// Package networks tests, with the real programs, what whole networks need: offices, sites, pairs of gateways, exit nodes.
package networks

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// bin is where TestMain has put the programs.
var bin string

func TestMain(m *testing.M) { warrennet.Main(m, &bin) }

// patience bounds every wait; what a test is about is asserted otherwise.
const patience = 30 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a network in a lab, with what tests need to build offices and data centers.
type world struct {
	*warrennet.Network
	t   *testing.T
	ctx context.Context
}

// newWorld has a coordinator with a policy; args are added to serve.
func newWorld(t *testing.T, policy string, args ...string) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	n := warrennet.ForTest(ctx, t, bin, args...)
	w := &world{n, t, ctx}
	if policy != "" {
		must(t, w.policy(policy))
	}
	return w
}

// policy sets one.
func (w *world) policy(text string) error {
	file := filepath.Join(w.t.TempDir(), "policy.hujson")
	return errors.Join(os.WriteFile(file, []byte(text), 0o600), w.Admin(w.ctx, nil, "policy", "set", file))
}

// extend gives a test more time from now on, since it was asked to do more than it usually does.
func (w *world) extend(by time.Duration) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 3*patience+by)
	w.t.Cleanup(cancel)
	w.ctx = ctx
}

func (w *world) site(name string, nat lab.NAT) *lab.Site {
	w.t.Helper()
	s, err := w.Lab.Site(name, nat.Access())
	must(w.t, err)
	return s
}

// device has a host join, of a user or, as tag:NAME, of a tag, with settings of up.
func (w *world) device(h *lab.Host, owner string, settings ...string) *warrennet.Device {
	w.t.Helper()
	d := w.DeviceOn(h)
	must(w.t, d.StartDaemon(w.ctx))
	w.t.Cleanup(func() {
		if w.t.Failed() {
			text, _ := d.Text(context.Background(), "status")
			w.t.Logf("%s:\n%s\n%s", d.Name, text, d.Daemon().Log())
		}
	})
	flag := "--user"
	tag, tagged := strings.CutPrefix(owner, "tag:")
	if tagged {
		flag, owner = "--tags", tag
	}
	token, err := w.Token(w.ctx, flag, owner)
	must(w.t, err)
	must(w.t, d.Warren(w.ctx, nil, append([]string{"up", "--name", h.Name, token}, settings...)...))
	return d
}

func (w *world) host(h *lab.Host, err error) *lab.Host {
	w.t.Helper()
	must(w.t, err)
	return h
}

// approve has a gateway carry what it advertises.
func (w *world) approve(d *warrennet.Device) {
	w.t.Helper()
	must(w.t, w.Admin(w.ctx, nil, "route", "approve", d.Name))
}

// awaitRoute waits until a device sends what is for a CIDR to a gateway; "" for none.
func (w *world) awaitRoute(d *warrennet.Device, cidr, gateway string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	_, err := d.Await(ctx, "using "+gateway+" for "+cidr, func(s *warrennet.Status) bool {
		r := s.Route(cidr)
		return r == nil && gateway == "" || r != nil && r.Gateway == gateway
	})
	must(w.t, err)
}

// awaitAdvertised waits until what a device advertises is in a state.
func (w *world) awaitAdvertised(d *warrennet.Device, cidr, state string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	_, err := d.Await(ctx, "aware that "+cidr+" is "+state, func(s *warrennet.Status) bool {
		return slices.ContainsFunc(s.Advertised, func(a warrennet.Advertised) bool { return a.Prefix == cidr && a.State == state })
	})
	must(w.t, err)
}

// ping waits until an address answers a host.
func (w *world) ping(from *lab.Host, to netip.Addr) *warrennet.Pinger {
	w.t.Helper()
	p, err := warrennet.NewPinger(from, to.String())
	must(w.t, err)
	w.t.Cleanup(p.Close)
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	if _, err := p.Until(ctx, 200*time.Millisecond); err != nil {
		w.t.Fatalf("%s to %s: %v", from.Name, to, err)
	}
	return p
}

// silent has it that an address does not answer a host.
func (w *world) silent(from *lab.Host, to netip.Addr) {
	w.t.Helper()
	p, err := warrennet.NewPinger(from, to.String())
	must(w.t, err)
	defer p.Close()
	for range 3 {
		if _, err := p.Ping(200 * time.Millisecond); err == nil {
			w.t.Errorf("%s answers %s", to, from.Name)
		}
	}
}

// server answers TCP on a host: it tells who calls, and then sends back what it gets.
func (w *world) server(h *lab.Host, at netip.AddrPort) {
	w.t.Helper()
	l, err := h.Listen(at.String())
	must(w.t, err)
	w.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := fmt.Fprintln(c, c.RemoteAddr().(*net.TCPAddr).IP); err == nil {
					_, _ = io.Copy(c, c)
				}
			}()
		}
	}()
}

// call connects from a host to a server, and gives the connection and as whom the server sees it.
func (w *world) call(from *lab.Host, to netip.AddrPort) (net.Conn, string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", to.String())
	must(w.t, err)
	w.t.Cleanup(func() { c.Close() })
	must(w.t, c.SetDeadline(time.Now().Add(patience)))
	var seen string
	_, err = fmt.Fscanln(c, &seen)
	must(w.t, err)
	return c, seen
}

// through sends n bytes to a server that sends them back, and compares.
func (w *world) through(c net.Conn, n int64) {
	w.t.Helper()
	deadline, _ := w.ctx.Deadline()
	must(w.t, c.SetDeadline(deadline))
	sum := func(r io.Reader) (out [sha256.Size]byte, err error) {
		h := sha256.New()
		_, err = io.CopyN(h, r, n)
		return [sha256.Size]byte(h.Sum(nil)), err
	}
	sent := make(chan [sha256.Size]byte, 1)
	go func() {
		s, err := sum(io.TeeReader(&pattern{}, c))
		if err != nil {
			w.t.Error(err)
		}
		sent <- s
	}()
	got, err := sum(c)
	must(w.t, err)
	if want := <-sent; got != want {
		w.t.Errorf("%d bytes came back changed", n)
	}
}

// pattern is an endless stream that does not repeat soon.
type pattern struct{ n uint64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		p.n = p.n*6364136223846793005 + 1442695040888963407
		b[i] = byte(p.n >> 56)
	}
	return len(b), nil
}

// nft runs a script of nft on a host.
func (w *world) nft(d *warrennet.Device, script string) error { return w.nftOn(d.Host, script) }

func (w *world) nftOn(h *lab.Host, script string) error {
	out, err := h.Command(w.ctx, "nft", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

// awaitWell waits until a device knows that all of these gateways of a CIDR work.
func (w *world) awaitWell(d *warrennet.Device, cidr string, gateways ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	_, err := d.Await(ctx, fmt.Sprintf("certain that %v work", gateways), func(s *warrennet.Status) bool {
		r := s.Route(cidr)
		if r == nil {
			return false
		}
		well := 0
		for _, g := range r.Gateways {
			if slices.Contains(gateways, g.Name) && g.Health == "working" {
				well++
			}
		}
		return well == len(gateways)
	})
	must(w.t, err)
}
