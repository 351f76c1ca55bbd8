package doctor

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/http/httpproxy"

	"warren/cmd/agent/internal/local"
	"warren/cmd/agent/internal/state"
	"warren/coord/client"
	"warren/internal/connectproxy"
	"warren/internal/diskspace"
	"warren/nat/netcheck"
	"warren/nat/relay"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// patience bounds each question to the daemon or to a server but netcheck, which takes up to ten seconds.
const (
	patience         = 5 * time.Second
	netcheckPatience = 20 * time.Second
)

// Config says what to look at.
type Config struct {
	StateDir, Socket, Interface string
	// Settings are those of the configuration file; Proxy is by what coordinator and relays are to be reached, as package connectproxy takes it.
	Settings Settings
	Proxy    string
	// Version is this command's.
	Version string
	// ResolvConf is the resolver's file, TUN the device.
	ResolvConf, TUN string
	Now             func() time.Time
}

// gathering is a Gather under way.
type gathering struct {
	Config
	facts  Facts
	status *pb.StatusResponse // nil: no daemon answered
	state  *state.State       // nil: it could not be read
	client *client.Client     // nil: no membership is known here; it is not running, but for its map
}

// Gather collects what can be found out within a few seconds. It changes nothing.
func Gather(ctx context.Context, c Config) Facts {
	g := &gathering{Config: c, facts: Facts{OS: runtime.GOOS, Version: c.Version, Interface: c.Interface, Settings: c.Settings, UID: os.Geteuid()}}
	g.askDaemon(ctx)
	g.facts.Interface = cmp.Or(g.status.GetInterface(), c.Interface)
	g.readState()
	g.makeClient()
	g.facts.TUN = lookAtTUN(c.TUN)
	g.facts.Rights = rightsOf(g.facts.Daemon.PID)
	g.facts.Service = askSystemd(ctx)
	g.facts.Host, g.facts.HostErr = lookAtHost(g.facts.Interface)
	g.member()
	g.resolver(ctx)
	var both sync.WaitGroup
	both.Go(func() { g.coordinator(ctx) })
	both.Go(func() { g.facts.Net = g.network(ctx) })
	both.Wait()
	return g.facts
}

func (g *gathering) askDaemon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d := &g.facts.Daemon
	d.Socket = g.Socket
	r, err := local.Dial(g.Socket).Status(ctx, connect.NewRequest(&pb.StatusRequest{}))
	switch {
	case err == nil:
		g.status = r.Msg
		d.Running, d.Version, d.PID = true, r.Msg.GetVersion(), int(r.Msg.GetPid())
	case errors.Is(err, fs.ErrPermission), connect.CodeOf(err) == connect.CodePermissionDenied:
		d.Denied = true
	default:
		d.Err = local.Explain(g.Socket, err)
	}
}

func (g *gathering) readState() {
	s := &g.facts.State
	s.Dir = g.StateDir
	info, err := os.Stat(g.StateDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.Absent = true
		return
	case err != nil:
		s.Denied, s.Err = errors.Is(err, fs.ErrPermission), ifNot(err, fs.ErrPermission)
		return
	}
	s.Mode = info.Mode()
	if d, err := diskspace.Of(g.StateDir); err == nil {
		s.Space = &d
	}
	g.state, s.Err = state.Read(g.StateDir)
	if errors.Is(s.Err, fs.ErrPermission) {
		s.Denied, s.Err = true, nil
	}
	if s.Err != nil {
		g.state = nil
	}
}

// ifNot is err unless it is of a kind.
func ifNot(err, kind error) error {
	if errors.Is(err, kind) {
		return nil
	}
	return err
}

// makeClient makes a client of the state on disk, with the map there, that goes where the daemon's would.
func (g *gathering) makeClient() {
	if g.state == nil || g.state.Membership == nil {
		return
	}
	m := g.state.Membership
	marked := &net.Dialer{Control: mark}
	dial := client.DialFunc(marked.DialContext)
	if d, err := connectproxy.New(g.Proxy, marked.DialContext); err == nil {
		dial = d.DialContext
	}
	c, err := client.New(client.Config{
		Network: m.Network, Authority: m.Authority, Device: g.state.Device, Endpoints: m.Endpoints, MapFile: state.MapFile(g.StateDir), Now: g.Now, Dial: dial,
	})
	if err != nil {
		g.facts.State.Err = err
		return
	}
	g.client = c
}

func (g *gathering) member() {
	st := g.status
	if st.GetState() == pb.StatusResponse_STATE_NOT_ENROLLED || st == nil && (g.state == nil || g.state.Membership == nil) {
		return
	}
	m := new(Member)
	g.facts.Member = m
	if st != nil {
		m.State = strings.ToLower(strings.TrimPrefix(st.GetState().String(), "STATE_"))
		m.Up, m.Warnings = st.GetState() != pb.StatusResponse_STATE_DOWN || len(st.GetWarnings()) > 0, st.GetWarnings()
		m.Addresses = parsed(st.GetSelf().GetAddresses(), netip.ParseAddr)
		for _, a := range st.GetAdvertised() {
			m.Advertised = append(m.Advertised, parsed([]string{a.GetPrefix()}, netip.ParsePrefix)...)
		}
		for _, r := range st.GetRoutes() {
			for _, p := range parsed([]string{r.GetPrefix()}, netip.ParsePrefix) {
				m.Routes = append(m.Routes, Route{p, r.GetUse(), r.GetReason()})
			}
		}
	}
	if g.client != nil && g.client.Map() != nil {
		m.Overlay = g.client.Map().Statement.Prefixes
	}
	if g.state == nil || g.state.Membership == nil {
		return
	}
	m.Up = g.state.Up
	if self, err := record.OpenDevice(g.state.Membership.Authority, g.state.Membership.Network, g.state.Membership.Record); err == nil && st == nil {
		m.Addresses = self.Addresses
	}
	if routes, err := g.state.Routing.Routes(m.Overlay); err == nil && len(m.Advertised) == 0 {
		for _, r := range routes {
			m.Advertised = append(m.Advertised, r.Prefix)
		}
	}
}

// parsed gives those that can be.
func parsed[T any](texts []string, parse func(string) (T, error)) (out []T) {
	for _, t := range texts {
		if v, err := parse(t); err == nil {
			out = append(out, v)
		}
	}
	return out
}

// urls are where the coordinator may be.
func (g *gathering) urls() (out []string) {
	if u := g.status.GetCoordinator().GetUrl(); u != "" {
		out = append(out, u)
	}
	if g.state != nil && g.state.Membership != nil {
		for _, e := range g.state.Membership.Endpoints {
			out = append(out, e.URL)
		}
	}
	return out
}

func (g *gathering) resolver(ctx context.Context) {
	r := &Resolver{File: g.ResolvConf}
	g.facts.Resolver = r
	r.Servers, r.FileErr = nameservers(g.ResolvConf)
	for _, text := range g.urls() {
		u, err := url.Parse(text)
		if err != nil {
			continue
		}
		if _, err := netip.ParseAddr(u.Hostname()); err == nil {
			continue
		}
		r.Name = u.Hostname()
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		own := net.Resolver{PreferGo: true, Dial: (&net.Dialer{Control: mark}).DialContext}
		if _, r.Err = own.LookupNetIP(ctx, "ip", r.Name); r.Err != nil {
			_, r.Err = net.DefaultResolver.LookupNetIP(ctx, "ip", r.Name)
		}
		return
	}
}

// nameservers reads them out of resolv.conf(5).
func nameservers(file string) (out []netip.Addr, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) >= 2 && fields[0] == "nameserver" {
			out = append(out, parsed(fields[1:2], netip.ParseAddr)...)
		}
	}
	return out, nil
}

// running reports whether the daemon keeps a connection to the coordinator, so that there is no need to make one.
func (g *gathering) running() bool {
	s := g.status.GetState()
	return s == pb.StatusResponse_STATE_UP || s == pb.StatusResponse_STATE_STARTING || s == pb.StatusResponse_STATE_REJECTED
}

func (g *gathering) coordinator(ctx context.Context) {
	c := &Coordinator{URLs: g.urls()}
	switch {
	case g.running():
		s := g.status.GetCoordinator()
		c.URL, c.Connected, c.MapAge = s.GetUrl(), s.GetConnected(), time.Duration(s.GetMapAgeS())*time.Second
		if s.GetError() != "" {
			c.Err = errors.New(s.GetError())
		}
		if d := s.GetClockAhead(); d != nil {
			ahead := d.AsDuration()
			c.ClockAhead = &ahead
		}
	case g.client != nil:
		ctx, cancel := context.WithTimeout(ctx, 2*patience)
		defer cancel()
		c.Proxy = proxyFor(g.Proxy, c.URLs)
		seen, err := g.client.Probe(ctx)
		if c.Err = err; err == nil {
			c.URL, c.Connected, c.ClockAhead = seen.URL, true, &seen.Skew
		}
		if m := g.client.Map(); m != nil && err != nil {
			c.MapAge = max(0, g.Now().Sub(m.CurrentAt))
		}
	default:
		return
	}
	g.facts.Coordinator = c
}

// proxyFor is the proxy that is set, or what the environment says, without user and password; empty: none.
func proxyFor(set string, urls []string) string {
	if u, err := url.Parse(set); err == nil && u.Host != "" {
		return u.Scheme + "://" + u.Host
	}
	if set == connectproxy.Off {
		return ""
	}
	choose := httpproxy.FromEnvironment().ProxyFunc()
	for _, text := range urls {
		if u, err := url.Parse(text); err == nil {
			if p, err := choose(u); err == nil && p != nil {
				return p.Scheme + "://" + p.Host
			}
		}
	}
	return ""
}

func (g *gathering) network(ctx context.Context) *Net {
	ctx, cancel := context.WithTimeout(ctx, netcheckPatience)
	defer cancel()
	if g.status.GetState() == pb.StatusResponse_STATE_UP {
		r, err := local.Dial(g.Socket).Netcheck(ctx, connect.NewRequest(&pb.NetcheckRequest{}))
		if err != nil {
			return &Net{Err: err}
		}
		return netOf(r.Msg)
	}
	if g.client == nil || g.client.Map() == nil {
		return nil
	}
	r := netcheck.Run(ctx, g.netcheckConfig())
	if ctx.Err() != nil {
		return &Net{Err: ctx.Err()}
	}
	n := &Net{IPv4: familyOf(r.IPv4), IPv6: familyOf(r.IPv6), Portal: r.Portal == netcheck.Yes, PortalURL: r.PortalURL, Findings: r.Findings()}
	for _, one := range r.Relays {
		text := ""
		if one.Err != nil {
			text = one.Err.Error()
		}
		n.Relays = append(n.Relays, Relay{Name: one.Name, Reached: one.Err == nil && one.TLS > 0, Err: text})
	}
	return n
}

func (g *gathering) netcheckConfig() netcheck.Config {
	m, cfg := g.state.Membership, netcheck.System(mark)
	marked := &net.Dialer{Control: mark}
	for _, desc := range g.client.Map().Statement.GetRelays() {
		one := netcheck.Relay{Name: desc.GetName(), Region: desc.GetRegion(), STUN: desc.GetStun(),
			Connect: func(ctx context.Context) (tcp, tls time.Duration, err error) {
				dial, err := connectproxy.New(g.Proxy, marked.DialContext)
				if err != nil {
					return 0, 0, err
				}
				return relay.Probe(ctx, relay.ProbeConfig{Relay: desc, Network: m.Network, Authority: m.Authority, Dial: dial.DialContext})
			}}
		if len(desc.GetUrls()) > 0 {
			if u, err := url.Parse(desc.GetUrls()[0]); err == nil {
				one.Host = u.Hostname()
			}
		}
		cfg.Relays = append(cfg.Relays, one)
	}
	return cfg
}

func familyOf(f netcheck.Family) Family {
	return Family{Local: f.Local, UDP: f.UDP.String(), MTU: f.MTU}
}

func netOf(m *pb.NetcheckResponse) *Net {
	family := func(f *pb.FamilyReport) Family {
		local, _ := netip.ParseAddr(f.GetLocal())
		return Family{Local: local, UDP: f.GetUdp(), MTU: int(f.GetMtu())}
	}
	n := &Net{IPv4: family(m.GetIpv4()), IPv6: family(m.GetIpv6()), Portal: m.GetCaptivePortal() == "yes", PortalURL: m.GetPortalUrl(), Findings: m.GetFindings()}
	for _, r := range m.GetRelays() {
		n.Relays = append(n.Relays, Relay{Name: r.GetName(), Connected: r.GetConnected(), Reached: r.GetError() == "" && r.GetTlsMs() > 0, Err: r.GetError()})
	}
	return n
}

// askSystemd asks for the unit, where systemd is the service manager.
func askSystemd(ctx context.Context) Service {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return Service{}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "show", "warren.service", "--property=LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts").Output()
	if err != nil {
		return Service{}
	}
	return serviceOf(string(out))
}

func serviceOf(text string) Service {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[k] = v
		}
	}
	restarts, _ := strconv.Atoi(values["NRestarts"]) // 0 where systemd does not tell
	return Service{Manager: "systemd", Load: values["LoadState"], Active: values["ActiveState"], Sub: values["SubState"],
		Enabled: values["UnitFileState"], Result: values["Result"], Restarts: restarts}
}
