package serve

import (
	"context"
	"log/slog"
	"net"

	"golang.org/x/sync/errgroup"

	"warren/cmd/coordinator/internal/handover"
	"warren/internal/udpbatch"
	"warren/nat/relay"
	"warren/nat/stunserver"
)

// stunSockets are where STUN is served: on the port that was configured and, so that a device with one server can tell whether its NAT shows
// every port another address (RFC 5780 section 4.3), on the next one. Both are named in the map, which is signed; RFC 5780's OTHER-ADDRESS
// would do the same, but let a server send its clients anywhere.
//
// The first also serves the relay's datagrams, where there is a relay.
type stunSockets []*udpbatch.Conn

// openSTUN opens both. The second one is done without where its port is taken.
func openSTUN(h *handover.Sockets, address string, relay bool, log *slog.Logger) (stunSockets, error) {
	first, err := h.ListenUDP(placeSTUN, address, udpbatch.Options{GSO: relay, GRO: relay, Log: log})
	if err != nil {
		return nil, err
	}
	out := stunSockets{first}
	next := *first.UDPConn().LocalAddr().(*net.UDPAddr) // a port past the last is refused, as one that is taken
	next.Port++
	if second, err := h.ListenUDP(placeSTUN2, next.String(), udpbatch.Options{Log: log}); err == nil {
		out = append(out, second)
	}
	return out, nil
}

func (s stunSockets) ports() (out []uint16) {
	for _, c := range s {
		out = append(out, c.Port())
	}
	return out
}

func (s stunSockets) close() {
	for _, c := range s {
		c.Close()
	}
}

// serve answers on all of them. relays may be nil.
func (s stunSockets) serve(ctx context.Context, group *errgroup.Group, server *stunserver.Server, relays *relay.Server, log *slog.Logger) {
	if len(s) == 1 {
		log.Warn("STUN is served on one port only, since the next one is taken; devices cannot tell how their NAT maps", "port", s.ports()[0])
	}
	if len(s) > 1 {
		server.SetOther(s[1].UDPConn())
	}
	for i, c := range s {
		group.Go(func() error {
			if i == 0 && relays != nil {
				return relays.ServeUDP(ctx, c, server.Answer)
			}
			return server.Run(ctx, c.UDPConn())
		})
	}
}
