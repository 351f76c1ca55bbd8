package client

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"warren/coord/reason"
	"warren/proto/cidr"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// ErrOldCoordinator says that the coordinator is older than what was asked of it.
var ErrOldCoordinator = errors.New("the coordinator is too old for that")

// Advertise tells the coordinator all that this device offers to carry, in place of what it told before; none: nothing any more. priority, 1 to 255,
// is that of the device among gateways with the same CIDR. What the coordinator refuses it refuses as a whole (ErrRefused; its sentence says
// why), and what it had been told before stays.
//
// It is idempotent: who is not certain that an answer came, or has changed settings, calls it again, and what is told twice changes nothing.
// An answer says that it was understood, not that anything was approved: Self.Routes of the map are those that were, WaitingRoutes of its
// statement those that were not. An error is ErrUnreachable while the coordinator is away, and ErrOldCoordinator if it knows nothing of routes;
// both are worth another attempt, the latter not before the next connection.
func (c *Client) Advertise(ctx context.Context, routes []cidr.Route, priority uint8) error {
	err := c.apply(ctx, func(b *pb.ApplyBody) {
		b.Change = &pb.ApplyBody_Advertise{Advertise: &pb.Advertise{Routes: advertised(routes, priority)}}
	})
	if err != nil && strings.Contains(err.Error(), reason.NoSuchChange) {
		return fmt.Errorf("%w: it knows no routes through gateways, and nothing is advertised; upgrade warren-coordinator", ErrOldCoordinator)
	}
	return err
}

func advertised(routes []cidr.Route, priority uint8) (out []*pb.AdvertisedRoute) {
	for _, r := range routes {
		m := &pb.AdvertisedRoute{Prefix: record.PrefixToProto(r.Prefix), Priority: uint32(priority), Site: r.Kind == cidr.Site}
		if r.Kind == cidr.Translated {
			m.Lan = record.PrefixToProto(r.LAN)
		}
		out = append(out, m)
	}
	return out
}
