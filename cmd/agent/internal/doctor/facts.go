package doctor

import (
	"io/fs"
	"net/netip"
	"time"

	"warren/internal/diskspace"
)

// Facts are what is known of this host, its daemon and its network. A nil part could not be found out, or makes no sense here.
type Facts struct {
	// OS is as in runtime.GOOS, Version that of this command, Interface the name that the tunnel is to have.
	OS, Version, Interface string
	// UID is the user's who asks; root is 0.
	UID int

	Settings Settings

	TUN     *TUN
	Rights  *Rights
	State   State
	Daemon  Daemon
	Service Service
	Member  *Member

	Resolver    *Resolver
	Coordinator *Coordinator
	Net         *Net
	Host        *Host
	// HostErr is why there is no Host.
	HostErr error
}

// Userspace is the name of an interface that is none: the tunnel ends in the daemon's own process.
const Userspace = "userspace"

func (f Facts) userspace() bool { return f.Interface == Userspace }

// Settings are those of the configuration file.
type Settings struct {
	// File is the one that was read; empty: there is none.
	File string
	// Err is why they cannot be used.
	Err error
}

// TUN is the device that the tunnel is made with.
type TUN struct {
	Path string
	// Err is what opening it gave.
	Err error
}

// Rights are those of the daemon, or of this command where none runs.
type Rights struct {
	// Daemon says whose they are.
	Daemon bool
	// Missing are the capabilities that are needed and not there.
	Missing []string
}

// State is the state directory.
type State struct {
	Dir    string
	Absent bool
	// Denied says that this user may not look into it.
	Denied bool
	// Err is why the state in it cannot be read, if it is damaged or of a newer program.
	Err  error
	Mode fs.FileMode
	// Space is that of its file system; nil: not known.
	Space *diskspace.Space
}

// Daemon is the running one.
type Daemon struct {
	Socket string
	// Running says that it answers. Denied: one does, but not this user.
	Running, Denied bool
	// Err is why none answers.
	Err     error
	Version string
	PID     int
}

// Service is what the service manager knows of it; the zero Service: there is no manager that we know.
type Service struct {
	// Manager is "systemd".
	Manager string
	// Load, Active, Sub, Enabled and Result are systemd's words: "loaded", "active", "running", "enabled", "success".
	Load, Active, Sub, Enabled, Result string
	Restarts                           int
}

// Member is what the device is in its network.
type Member struct {
	// Up says that the tunnel is wanted.
	Up bool
	// State is the daemon's word: "up", "down", "starting", "rejected"; empty without one.
	State string
	// Warnings are the daemon's.
	Warnings []string
	// Addresses are the device's own, Overlay the network's prefixes as far as they are known.
	Addresses []netip.Addr
	Overlay   []netip.Prefix
	// Advertised are the CIDRs that the device carries for others.
	Advertised []netip.Prefix
	// Routes are those of others that it may use.
	Routes []Route
}

// Route is a CIDR behind another gateway.
type Route struct {
	Prefix netip.Prefix
	// Use and Reason are as in the local API's RouteStatus.
	Use, Reason string
}

// Resolver is how names become addresses.
type Resolver struct {
	File    string
	Servers []netip.Addr
	FileErr error
	// Name is the one that was looked up, of the coordinator; empty: it has none.
	Name string
	Err  error
}

// Coordinator is how it is reached.
type Coordinator struct {
	// URLs are those that it may have.
	URLs []string
	// URL is the one in use, or the one tried last.
	URL       string
	Connected bool
	Err       error
	// Proxy is that of the environment, of which nothing secret is kept; empty: none.
	Proxy string
	// MapAge is how long ago the map was current; 0: it is.
	MapAge time.Duration
	// ClockAhead is how far this machine's clock is ahead of the coordinator's, if that is known.
	ClockAhead *time.Duration
}

// Net is what the network here lets through.
type Net struct {
	// Err is why that could not be found out.
	Err        error
	IPv4, IPv6 Family
	Relays     []Relay
	PortalURL  string
	Portal     bool
	// Findings are netcheck's sentences about UDP.
	Findings []string
}

// Family is one version of IP.
type Family struct {
	// Local is the address packets go out from; invalid: there is none.
	Local netip.Addr
	// UDP is "yes", "no" or "unknown".
	UDP string
	// MTU is the largest packet that passed, in bytes; 0: not known.
	MTU int
}

// Relay is one of the network's.
type Relay struct {
	Name      string
	Connected bool
	// Reached says that TCP and TLS answer.
	Reached bool
	Err     string
}

// Host is the host's network.
type Host struct {
	Links  []Link
	Rules  []Rule
	Routes []HostRoute
	// Chains are the base chains of nftables, and those with a rule that drops 100.64.0.0/10. ChainsErr is why they are not known.
	Chains    []Chain
	ChainsErr error
	// Forwards4 and Forwards6 say that the kernel forwards packets of that family.
	Forwards4, Forwards6 bool
}

// Link is an interface that is up, the tunnel's own and the loopback one left out.
type Link struct {
	Name, Kind string
	MTU        int
	Prefixes   []netip.Prefix
}

// HostRoute is a route that is not of the tunnel.
type HostRoute struct {
	Prefix    netip.Prefix
	Interface string
	Table     int
}

// Rule is an entry of the routing policy that is not of this program.
type Rule struct {
	IPv6     bool
	Priority int
	// A packet matches if its mark has the bits Mark where Mask is set; Mask 0: any.
	Mark, Mask uint32
	// Always says that nothing else than the mark limits it.
	Always bool
	Table  int
}

// Chain is one of nftables, in a table that is not of this program.
type Chain struct {
	Family, Table, Name string
	// Hook is "input", "forward", another word, or empty for a chain that others call.
	Hook string
	// Drops says that what no rule accepts is dropped; NamesUs that a rule names the tunnel's interface.
	Drops, NamesUs bool
	// DropsShared says that a rule drops what comes from 100.64.0.0/10, DropsInvalid that one of a chain that forwards drops packets of connections
	// whose beginning it has not seen, the tunnel's among them.
	DropsShared, DropsInvalid bool
}
