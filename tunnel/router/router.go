// Package router is the host's side of the tunnel: the TUN interface, its addresses, and the routes that lead into it. Open makes the
// interface, Apply brings addresses and routes into line with a State as often as it changes, and Close removes everything.
//
// Nothing of it outlives the process, however that ends: the interface is not persistent, and addresses and routes go with it.
package router

import (
	"errors"
	"log/slog"
	"net/netip"

	"golang.zx2c4.com/wireguard/tun"
)

// Errors that callers tell apart.
var (
	ErrNoTUN       = errors.New("this system has no TUN device")
	ErrPermission  = errors.New("not permitted to make a TUN interface")
	ErrNameInUse   = errors.New("an interface of this name exists already")
	ErrUnsupported = errors.New("not yet on this system")
)

// Config is what a Router is opened with.
type Config struct {
	// Name is the interface's.
	Name string
	MTU  int
	Log  *slog.Logger
}

// State is how the host should look.
type State struct {
	// Addresses are our own, each of full length.
	Addresses []netip.Prefix
	// Routes lead into the tunnel.
	Routes []netip.Prefix
	// MTU of the interface in bytes; 0 leaves it.
	MTU int
}

// Router holds an interface.
type Router struct {
	cfg  Config
	tun  tun.Device
	name string
	platform
}

// TUN is the device for WireGuard to read from; whoever reads from it closes it.
func (r *Router) TUN() tun.Device { return r.tun }

// Name is the interface's name, which some systems choose themselves.
func (r *Router) Name() string { return r.name }
