package warrennet

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Status is what "warren status --json" prints.
type Status struct {
	State, Version string

	PID  int
	Self struct {
		Name      string
		Addresses []string
		NodeKey   string `json:"node_key"`
	}
	Coordinator struct {
		URL       string
		Connected bool
		Revision  uint64 `json:"map_revision"`
		MapAge    uint64 `json:"map_age_s"`
	}
	Peers    []Peer
	Warnings []string
	NAT      struct {
		IPv4, IPv6  NATMapping
		PortMapping struct {
			Enabled           bool
			Protocol, Gateway string
			External          netip.AddrPort
			Until             time.Time
			DoubleNAT         bool `json:"double_nat"`
		} `json:"port_mapping"`
		Candidates []string
	}
	Routes     []Route
	Advertised []Advertised
	Exit       *struct {
		Node, Problem string
		IPv4, IPv6    bool
	}
	KillSwitch bool `json:"kill_switch"`
}

// Route is a CIDR behind gateways, in Status.
type Route struct {
	Prefix, Use, Gateway, Reason string
	Gateways                     []struct{ Name, Health string }
}

// Route finds a CIDR; nil if it is not in the status.
func (s *Status) Route(prefix string) *Route {
	for i := range s.Routes {
		if s.Routes[i].Prefix == prefix {
			return &s.Routes[i]
		}
	}
	return nil
}

// Advertised is a CIDR that the device advertises, in Status.
type Advertised struct{ Prefix, State, Health, Probe string }

// NATMapping is how the NAT maps, in Status.
type NATMapping struct {
	Behaviour string
	Sure      bool
}

// Peer is a peer in Status.
type Peer struct {
	Name          string
	Addresses     []string
	NodeKey       string `json:"node_key"`
	Online        bool
	LastHandshake *time.Time `json:"last_handshake"`
	RxBytes       uint64     `json:"rx_bytes"`
	TxBytes       uint64     `json:"tx_bytes"`
	Path          struct {
		Kind, Local, Remote, Relay string
		RTT                        float64 `json:"rtt_ms"`
		MTU                        int
	}
	History []Change
}

// Change is one path that a peer was reached by, in Status.
type Change struct {
	At            time.Time
	Kind, Reason  string
	Local, Remote string
}

// FirstDirect is when the peer was first reached directly; zero if it never was.
func (p *Peer) FirstDirect() (at time.Time) {
	for _, c := range p.History {
		if c.Kind == "direct" {
			return c.At
		}
	}
	return at
}

// Status asks the daemon.
func (d *Device) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, d.Warren(ctx, &s, "status")
}

// Peer finds a peer by name; nil if it is not in the status.
func (s *Status) Peer(name string) *Peer {
	for i := range s.Peers {
		if s.Peers[i].Name == name {
			return &s.Peers[i]
		}
	}
	return nil
}

// pollEvery is how often Await asks.
const pollEvery = 25 * time.Millisecond

// Await asks for the status until ok holds.
func (d *Device) Await(ctx context.Context, what string, ok func(*Status) bool) (*Status, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		s, err := d.Status(ctx)
		if err == nil && ok(s) {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("%s: still not %s: %+v, %w; its log:\n%s", d.Name, what, s, err, d.daemon.Log())
		case <-tick.C:
		}
	}
}

// AwaitPath waits until the path to a peer is of a kind.
func (d *Device) AwaitPath(ctx context.Context, peer, kind string) (*Status, error) {
	return d.Await(ctx, "on a "+kind+" path to "+peer, func(s *Status) bool {
		p := s.Peer(peer)
		return p != nil && p.Path.Kind == kind
	})
}
