// Package router is the host's side of the tunnel: the TUN interface, its addresses, the routes that lead into it, and what a gateway, an exit
// node and their users need of the kernel: forwarding, translation, a firewall. Open makes the interface, Apply brings the host into line with a
// State as often as it changes, and Close takes everything back but the kill switch, which only LiftKillSwitch removes. Watch tells when somebody
// else has removed a firewall table, so that Apply may put it back. A process that is replaced by another calls Leave in place of Close, and hands on
// what File gives; the other opens its Router with that (Config.TUN).
//
// What could outlive a process that is killed (rules, firewall tables, sysctls) is in the journal before it is changed; the next Open with that
// journal, or CleanUp, takes it back. docs/host-networking.md lists all of it.
package router

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"

	"golang.zx2c4.com/wireguard/tun"
)

// Errors that callers tell apart.
var (
	ErrNoTUN      = errors.New("this system has no TUN device")
	ErrPermission = errors.New("not permitted to make a TUN interface")
	ErrNameInUse  = errors.New("an interface of this name exists already")
	// ErrUnfit says that Config.TUN is not the interface that is asked for. The host is as it was.
	ErrUnfit       = errors.New("not the interface of a process before this one")
	ErrUnsupported = errors.New("not yet on this system")
	// ErrNoMark is why neither an exit node nor the kill switch can be used: the tunnel's own packets could not be told from the rest.
	ErrNoMark = errors.New("the kernel refuses firewall marks here")
	// ErrNoFirewall is why nothing but plain routes can be had.
	ErrNoFirewall = errors.New("the kernel has no nftables")
)

// TUNFile is the device that tunnels are made with on Linux.
const TUNFile = "/dev/net/tun"

// Mark is the firewall mark (SO_MARK) of every socket of the agent's. Packets with it never enter the tunnel and pass the kill switch.
const Mark = 0x77617272

// What is ours on a Linux host, in iproute2's numbers.
const (
	// Table is the routing table of the routes that lead into the tunnel, of both families.
	Table = 22359
	// MarkPriority is that of the rule that sends marked packets to the main table.
	MarkPriority = 5270
	// TablePriority is that of the rule that has all others look into Table first.
	TablePriority = 5280
)

// Config is what a Router is opened with.
type Config struct {
	// Name is the interface's.
	Name string
	MTU  int
	Log  *slog.Logger
	// Journal is the path of the file that keeps what was changed on the host and what was there before, so that it can be taken back after a
	// crash. Its directory exists. Without one, nothing can be taken back then.
	Journal string
	// TUN is the interface of a process before this one, as its Router.File gave it; nil: one is made. Open closes it.
	TUN *os.File
}

// State is how the host should look. Prefixes have no host bits.
type State struct {
	// Addresses are our own, each of full length.
	Addresses []netip.Prefix
	// MTU of the interface in bytes; 0 leaves it.
	MTU int
	// Network are the overlay's own prefixes. They are no more than named here: Routes has those that lead into the tunnel.
	Network []netip.Prefix
	// Routes lead into the tunnel: the network's prefixes, the CIDRs of gateways, and 0.0.0.0/0 or ::/0 where an exit node is used.
	Routes []netip.Prefix
	// Local stay out of the tunnel though a route covers them: a LAN that wins, the link's own router and DHCP server, LAN access beside an
	// exit node. Of the same prefix in both lists, this one counts.
	Local []netip.Prefix
	// Blocked are families of which nothing may leave but into the tunnel's narrower routes: those that the exit node in use does not have. What
	// would leave otherwise is answered with ICMP "prohibited". The zero value blocks none.
	Blocked Families
	// DNS are where port 53 goes while an exit node is used, of this host's and of forwarded clients' packets, at most one of each family.
	// Left alone are the agent's own, loopback, servers on this host, and those that a narrower route than the default leads to.
	// A family without one has port 53 answered with ICMP "prohibited" where it would leave outside of the tunnel.
	DNS []netip.Addr
	// Carried are the CIDRs that this device carries as a gateway.
	Carried []Carried
	// Exit are the families of which this device is an exit node: it forwards from the tunnel to everywhere and masquerades, but for the network's
	// own prefixes and what Carried treats otherwise.
	Exit Families
	// Probes are source addresses that are masqueraded towards every LAN, whatever else is said: those of the gateway's own probes.
	Probes []netip.Addr
	// KillSwitch sets the kill switch, or brings it up to date; false does not lift it.
	KillSwitch bool
	// KillSwitchLAN are destinations that the kill switch lets out besides its fixed exceptions: those for which the user asked.
	KillSwitchLAN []netip.Prefix
}

// Families is a set of address families.
type Families struct{ IPv4, IPv6 bool }

// Has reports whether a's family is in the set.
func (f Families) Has(a netip.Addr) bool { return a.Is4() && f.IPv4 || a.Is6() && f.IPv6 }

// Any reports whether the set is not empty.
func (f Families) Any() bool { return f.IPv4 || f.IPv6 }

// Carried is a CIDR that this device carries.
type Carried struct {
	// Prefix is what devices of the network send to.
	Prefix netip.Prefix
	Kind   Kind
	// LAN is the prefix that is really there, of the same length, translated one to one in both directions; not valid or equal to Prefix: the same.
	LAN netip.Prefix
}

// Kind is how packets from the tunnel appear in a LAN.
type Kind uint8

const (
	// Masquerade has them come from the gateway's own address, so that the LAN's hosts need no route back.
	Masquerade Kind = iota
	// Site leaves the source address as it is.
	Site
)

// Router holds an interface.
type Router struct {
	cfg  Config
	tun  tun.Device
	name string
	platform
}

// TUN is the device for WireGuard to read from; whoever reads from it closes it.
func (r *Router) TUN() tun.Device { return r.tun }

// File is the interface itself, for the process that comes next: it lasts as long as anybody has it open. It is nil on systems where it is no file.
func (r *Router) File() *os.File { return r.tun.File() }

// Leave lets go of the interface, and leaves it and all of the host as they are, for the process that comes next.
func (r *Router) Leave() error {
	if err := r.tun.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("interface %s: %w", r.name, err)
	}
	return nil
}

// Name is the interface's name, which some systems choose themselves.
func (r *Router) Name() string { return r.name }
