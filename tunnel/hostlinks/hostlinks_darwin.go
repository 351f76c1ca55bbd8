package hostlinks

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"warren/internal/hostroutes"
	"warren/tunnel/routeplan"
)

// Read gives the links that are up and have addresses, by name.
func (r *Reader) Read() ([]routeplan.Link, error) {
	interfaces, err := hostroutes.Interfaces()
	if err != nil {
		return nil, err
	}
	table, err := hostroutes.Read()
	if err != nil {
		return nil, err
	}
	return r.linksOf(interfaces, table, dhcpServers, servedByName), nil
}

// dhcpPatience bounds the wait for ipconfig(8), which asks a process of the system's.
const dhcpPatience = time.Second

// dhcpServers asks for the server that gave a link its address. Where nothing is found, the address is renewed by broadcast when the time comes.
func dhcpServers(i hostroutes.Interface) []netip.Addr {
	if i.Flags&net.FlagBroadcast == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), dhcpPatience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/usr/sbin/ipconfig", "getoption", i.Name, "server_identifier").Output()
	if err != nil {
		return nil
	}
	if a, err := netip.ParseAddr(strings.TrimSpace(string(out))); err == nil {
		return []netip.Addr{a}
	}
	return nil
}

// Neighbours gives the hosts that the kernel has heard of lately on the links other than the tunnel's: those to which it has the link-layer address.
func (r *Reader) Neighbours() ([]netip.Addr, error) {
	found, err := hostroutes.Neighbours()
	if err != nil {
		return nil, err
	}
	tunnel := 0
	if i, err := net.InterfaceByName(r.Ignore); err == nil {
		tunnel = i.Index
	}
	return neighboursOf(found, tunnel), nil
}
