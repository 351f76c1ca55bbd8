package state

import (
	"cmp"
	"fmt"
	"net/netip"

	"warren/proto/cidr"
	"warren/proto/record"
)

// Routing is what the device carries for others, and how it uses what others carry.
type Routing struct {
	// Advertise and Site are as package cidr reads them.
	Advertise []string `json:"advertise,omitempty"`
	Site      []string `json:"site,omitempty"`
	// AdvertiseExit makes it an exit node, once that is approved.
	AdvertiseExit bool `json:"advertise_exit,omitempty"`
	// Priority is 1 to 255, higher is preferred; 0: record.DefaultPriority.
	Priority uint8 `json:"priority,omitempty"`
	// Probe are hosts on the LAN by which the gateway finds out whether it reaches it.
	Probe []netip.Addr `json:"probe,omitempty"`
	// RefuseRoutes has no CIDR of another device used.
	RefuseRoutes bool `json:"refuse_routes,omitempty"`
	// PreferLAN are CIDRs for which the network that the host is connected to wins.
	PreferLAN []netip.Prefix `json:"prefer_lan,omitempty"`
	// ExitNode is the name, address or node key of a device, "auto", or empty for none.
	ExitNode     string `json:"exit_node,omitempty"`
	ExitAllowLAN bool   `json:"exit_allow_lan,omitempty"`
	// KillSwitch lets nothing leave the host but through the tunnel.
	KillSwitch bool `json:"kill_switch,omitempty"`
}

// Routes are what the device advertises.
func (r *Routing) Routes(overlay []netip.Prefix) ([]cidr.Route, error) {
	return cidr.Parse(r.Advertise, r.Site, r.AdvertiseExit, overlay)
}

// Rank is Priority, or that of one who named none.
func (r *Routing) Rank() uint8 {
	return cmp.Or(r.Priority, record.DefaultPriority)
}

// check refuses what no version of this program writes.
func (r *Routing) check() error {
	if _, err := r.Routes(nil); err != nil {
		return fmt.Errorf("routing: %w", err)
	}
	return nil
}
