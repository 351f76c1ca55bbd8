// Package client is the agent's side of coordination. Enrol makes a device a member by a join token; a Client, made by New, keeps its
// network map in step with the coordinator and on disk, and changes the device's own record by Leave, SetName, SetNodeKey and
// Advertise.
//
// Verification and bookkeeping of the map are in mapsync; this package carries messages and decides when to try again.
package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	crand "crypto/rand"

	"connectrpc.com/connect"
	"golang.org/x/time/rate"

	"warren/coord/client/mapsync"
	"warren/coord/reason"
	"warren/internal/atomicfile"
	"warren/internal/backoff"
	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
)

// Map is a network map; see mapsync.
type Map = mapsync.Map

// DialFunc connects to a TCP address.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config is what a Client is made with. Network, Authority, Device and Endpoints are needed, and Node for a device.
type Config struct {
	Network   record.NetworkID
	Authority key.AuthorityPublic
	Device    key.DevicePrivate
	// Role is ROLE_DEVICE unless set.
	Role pb.Role
	// Node gives the node key in use.
	Node func() key.NodePublic
	// OSVersion and Version, the agent's, are for policies that ask for them.
	Hostname, OS, OSVersion, Version string
	// Endpoints are those of the token; the map may name more.
	Endpoints []token.Endpoint
	// MapFile is where the map is kept; empty: nowhere.
	MapFile string
	Dial    DialFunc
	Log     *slog.Logger
	Now     func() time.Time
	// OnMap is told of each new map, OnPresence of a device that came or went, OnState of the connection. They are called from Run,
	// one after the other. OnBlocked is for relays: whom not to serve.
	OnMap      func(*Map)
	OnPresence func(device [key.Size]byte, online bool)
	OnState    func(State)
	OnBlocked  func(device key.DevicePublic, blocked bool)
	// OnFlowsWanted is asked, from a goroutine of its own, for flows that this device has refused. Nil: the coordinator is not answered.
	OnFlowsWanted func(FlowsWanted) RefusedFlows
}

// State is how things stand with the coordinator.
type State struct {
	Connected bool
	// URL is the coordinator's address in use, or the one tried last.
	URL string
	// Err is why it is not connected.
	Err error
	// Skew is how far this machine's clock is ahead of the coordinator's.
	Skew time.Duration
	// Rejected says that the coordinator does not want this device, for Reason of coord/reason. It is asked again now and then.
	Rejected bool
	Reason   string
}

// Client keeps a map in step.
type Client struct {
	cfg      Config
	instance [16]byte
	current  atomic.Pointer[Map]
	reset    chan struct{}
	applyMu  sync.Mutex // one change at a time, for their numbers must grow

	// Only Run's goroutine uses what follows.
	core    *mapsync.Core
	blocked *blocklist
	state   State
	stands  time.Time // when the coordinator greeted on this connection; zero: it has not
	// returnWithin is the coordinator's wish for when the connection is lost.
	returnWithin time.Duration
	// questions bounds how often the coordinator is answered.
	questions *rate.Limiter
}

// New makes a client and loads the map from disk if there is one that may still be used. A map that cannot be used is reported to the log
// and fetched anew; one from a newer program is an error.
func New(cfg Config) (*Client, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Role == pb.Role_ROLE_UNSPECIFIED {
		cfg.Role = pb.Role_ROLE_DEVICE
	}
	if cfg.OnMap == nil {
		cfg.OnMap = func(*Map) {}
	}
	if cfg.OnPresence == nil {
		cfg.OnPresence = func([key.Size]byte, bool) {}
	}
	if cfg.OnState == nil {
		cfg.OnState = func(State) {}
	}
	if cfg.OnBlocked == nil {
		cfg.OnBlocked = func(key.DevicePublic, bool) {}
	}
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("no coordinator address is known")
	}
	c := &Client{cfg: cfg, reset: make(chan struct{}, 1), questions: newQuestionLimit()}
	c.core = mapsync.New(mapsync.Config{Network: cfg.Network, Authority: cfg.Authority, Device: cfg.Device.Public()})
	c.blocked = &blocklist{cfg: &c.cfg}
	crand.Read(c.instance[:])
	return c, c.load()
}

func (c *Client) load() error {
	if c.cfg.MapFile == "" {
		return nil
	}
	b, err := os.ReadFile(c.cfg.MapFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = c.core.Load(c.cfg.Now(), b)
	}
	if errors.Is(err, mapsync.ErrNewer) {
		return fmt.Errorf("map file %s: %w; install that version again, or delete the file", c.cfg.MapFile, err)
	}
	if err != nil {
		c.cfg.Log.Warn("the map on disk is not used", "file", c.cfg.MapFile, "err", err)
		return nil
	}
	c.current.Store(c.core.Map(c.cfg.Now()))
	return nil
}

// Seen is a coordinator that answered.
type Seen struct {
	URL string
	// Skew is how far this machine's clock is ahead of the coordinator's.
	Skew time.Duration
}

// Probe finds out whether the coordinator answers and proves who it is. It does not log in, and needs no Run.
func (c *Client) Probe(ctx context.Context) (Seen, error) {
	l, err := c.place().connect(ctx)
	if err != nil {
		return Seen{}, err
	}
	defer l.close()
	return Seen{l.endpoint.URL, l.skew}, nil
}

// Map gives the newest map, or nil.
func (c *Client) Map() *Map { return c.current.Load() }

// Reset makes the client connect anew at once: the host's network changed, or the device was renewed.
func (c *Client) Reset() {
	select {
	case c.reset <- struct{}{}:
	default:
	}
}

// Waits between attempts.
const (
	firstWait    = 200 * time.Millisecond
	longestWait  = 30 * time.Second
	rejectedWait = time.Minute
)

// Run keeps the map in step until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	pauses := &backoff.Backoff{First: firstWait, Longest: longestWait, Steady: longestWait, Rand: rand.N[time.Duration]}
	for ctx.Err() == nil {
		c.stands = time.Time{}
		err := c.watchOnce(ctx)
		if ctx.Err() != nil {
			break
		}
		c.disconnected(err)
		timer := time.NewTimer(c.pause(pauses))
		select {
		case <-ctx.Done():
		case <-c.reset:
			pauses.Reset()
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// pause is how long to wait after a connection that was lost or not made.
func (c *Client) pause(p *backoff.Backoff) time.Duration {
	switch {
	case c.state.Rejected:
		return rejectedWait/2 + rand.N(rejectedWait/2)
	case !c.stands.IsZero():
		return p.Lost(c.cfg.Now().Sub(c.stands), c.returnWithin)
	}
	return p.Failed()
}

// disconnected tells why, and remembers on disk until when the map was current.
func (c *Client) disconnected(err error) {
	if err == nil {
		err = errors.New("the coordinator ended the connection")
	}
	s := c.state
	s.Connected, s.Err = false, err
	s.Reason = reasonOf(err)
	s.Rejected = slices.Contains([]string{reason.Removed, reason.Expired, reason.NotMember, reason.Duplicate, reason.NodeKey}, s.Reason)
	if s.Connected != c.state.Connected || s.Err.Error() != errText(c.state.Err) {
		c.cfg.Log.Warn("not connected to the coordinator", "url", s.URL, "err", err)
	}
	if c.state.Connected {
		c.store()
	}
	c.setState(s)
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (c *Client) setState(s State) {
	c.state = s
	c.cfg.OnState(s)
}

// endpoints are the announced ones first, then those of the token.
func (c *Client) endpoints() []token.Endpoint {
	var out []token.Endpoint
	if m := c.Map(); m != nil {
		for _, e := range m.Statement.GetEndpoints() {
			if token.CheckEndpoint(e.GetUrl(), e.GetTlsMode()) == nil {
				out = append(out, token.Endpoint{URL: e.GetUrl(), Mode: e.GetTlsMode()})
			}
		}
	}
	for _, e := range c.cfg.Endpoints {
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

// publish makes the core's map the current one.
func (c *Client) publish() {
	m := c.core.Map(c.cfg.Now())
	if m == nil {
		return
	}
	c.current.Store(m)
	c.cfg.OnMap(m)
}

// store writes the map to disk; a full disk must not stop the tunnel.
func (c *Client) store() {
	if c.cfg.MapFile == "" {
		return
	}
	b, err := c.core.Save()
	if err == nil && b != nil {
		err = atomicfile.Write(c.cfg.MapFile, b)
	}
	if err != nil {
		c.cfg.Log.Error("the map could not be stored", "file", c.cfg.MapFile, "err", err)
	}
}

// reasonOf reads the reason of a refusal; empty if the coordinator gave none.
func reasonOf(err error) string {
	var e *connect.Error
	if errors.As(err, &e) {
		return e.Meta().Get(reason.Header)
	}
	return ""
}
