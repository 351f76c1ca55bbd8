package serve

import (
	"context"
	"log/slog"
	"net"

	"golang.org/x/sync/errgroup"

	"warren/nat/stunserver"
)

// stunSockets are where STUN is served: on the port that was configured and, so that a device with one server can tell whether its NAT shows
// every port another address (RFC 5780 section 4.3), on the next one. Both are named in the map, which is signed; RFC 5780's OTHER-ADDRESS
// would do the same, but let a server send its clients anywhere.
type stunSockets []*net.UDPConn

// openSTUN opens both. The second one is done without where its port is taken.
func openSTUN(ctx context.Context, address string) (stunSockets, error) {
	listen := new(net.ListenConfig)
	first, err := listen.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	out := stunSockets{first.(*net.UDPConn)}
	next := *out[0].LocalAddr().(*net.UDPAddr) // a port past the last is refused, as one that is taken
	next.Port++
	if second, err := listen.ListenPacket(ctx, "udp", next.String()); err == nil {
		out = append(out, second.(*net.UDPConn))
	}
	return out, nil
}

func (s stunSockets) ports() (out []uint16) {
	for _, c := range s {
		out = append(out, uint16(c.LocalAddr().(*net.UDPAddr).Port))
	}
	return out
}

func (s stunSockets) close() {
	for _, c := range s {
		c.Close()
	}
}

// serve answers on all of them.
func (s stunSockets) serve(ctx context.Context, group *errgroup.Group, server *stunserver.Server, log *slog.Logger) {
	if len(s) == 1 {
		log.Warn("STUN is served on one port only, since the next one is taken; devices cannot tell how their NAT maps", "port", s.ports()[0])
	}
	for _, c := range s {
		group.Go(func() error { return server.Run(ctx, c) })
	}
}
