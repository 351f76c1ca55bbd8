package flowview

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "warren/proto/warrenv1"
	"warren/tunnel/flowlog"
)

// ToWire encodes a record for an API.
func ToWire(r *flowlog.Record) *pb.FlowRecord {
	out := &pb.FlowRecord{
		At: stamp(r.At), Kind: r.Kind, Direction: r.Direction, Device: r.Device, User: r.User, Tags: r.Tags, Protocol: r.Protocol,
		SourcePort: uint32(r.SourcePort), DestinationPort: uint32(r.DestinationPort), Grant: r.Grant, Reason: r.Reason,
		Began: stamp(r.Began), Last: stamp(r.Last), SentPackets: r.SentPackets, SentBytes: r.SentBytes,
		ReceivedPackets: r.ReceivedPackets, ReceivedBytes: r.ReceivedBytes, Flows: r.Flows,
		OmittedNew: r.OmittedNew, OmittedEnded: r.OmittedEnded, OmittedRefused: r.OmittedRefused,
	}
	if r.Source.IsValid() {
		out.Source, out.Destination = r.Source.String(), r.Destination.String()
	}
	return out
}

// FromWire decodes one.
func FromWire(m *pb.FlowRecord) (flowlog.Record, error) {
	r := flowlog.Record{
		At: moment(m.GetAt()), Kind: m.GetKind(), Direction: m.GetDirection(), Device: m.GetDevice(), User: m.GetUser(), Tags: m.GetTags(),
		Protocol: m.GetProtocol(), SourcePort: uint16(m.GetSourcePort()), DestinationPort: uint16(m.GetDestinationPort()),
		Grant: m.GetGrant(), Reason: m.GetReason(), Began: moment(m.GetBegan()), Last: moment(m.GetLast()),
		SentPackets: m.GetSentPackets(), SentBytes: m.GetSentBytes(), ReceivedPackets: m.GetReceivedPackets(), ReceivedBytes: m.GetReceivedBytes(),
		Flows: m.GetFlows(), OmittedNew: m.GetOmittedNew(), OmittedEnded: m.GetOmittedEnded(), OmittedRefused: m.GetOmittedRefused(),
	}
	var errSource, errDestination error
	r.Source, errSource = address(m.GetSource())
	r.Destination, errDestination = address(m.GetDestination())
	return r, errors.Join(errSource, errDestination)
}

// AllFromWire decodes many.
func AllFromWire(list []*pb.FlowRecord) ([]flowlog.Record, error) {
	out := make([]flowlog.Record, 0, len(list))
	for _, m := range list {
		r, err := FromWire(m)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func address(s string) (a netip.Addr, err error) {
	if s == "" {
		return a, nil
	}
	if a, err = netip.ParseAddr(s); err != nil {
		return a, fmt.Errorf("flow record: %w", err)
	}
	return a, nil
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func moment(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
