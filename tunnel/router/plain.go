package router

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// plain is what of s needs no more than an interface and routes, and says what it leaves out: what systems other than Linux cannot do yet. An exit node
// would carry the tunnel's own packets there, round in circles.
func (s State) plain() (State, error) {
	var missing []error
	out := State{Addresses: s.Addresses, MTU: s.MTU, Network: s.Network, Local: s.Local}
	out.Routes = slices.DeleteFunc(slices.Clone(s.Routes), func(p netip.Prefix) bool { return p.Bits() == 0 })
	if s.exits().Any() {
		missing = append(missing, fmt.Errorf("no exit node is used: %w", ErrUnsupported))
	}
	if s.Blocked.Any() {
		missing = append(missing, fmt.Errorf("what the exit node does not carry is not kept from leaving: %w", ErrUnsupported))
	}
	if s.gateway().Any() {
		missing = append(missing, fmt.Errorf("no networks are carried, and this device is no exit node: %w", ErrUnsupported))
	}
	if s.KillSwitch {
		missing = append(missing, fmt.Errorf("no kill switch is set: %w", ErrUnsupported))
	}
	return out, errors.Join(missing...)
}
