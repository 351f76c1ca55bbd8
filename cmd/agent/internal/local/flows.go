package local

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "warren/proto/warrenv1"
	"warren/tunnel/flowlog"
)

// FlowToWire encodes a record for the local API.
func FlowToWire(r *flowlog.Record) *pb.FlowRecord {
	out := &pb.FlowRecord{
		At: Stamp(r.At), Kind: r.Kind, Direction: r.Direction, Device: r.Device, User: r.User, Tags: r.Tags, Protocol: r.Protocol,
		SourcePort: uint32(r.SourcePort), DestinationPort: uint32(r.DestinationPort), Grant: r.Grant, Reason: r.Reason,
		Began: Stamp(r.Began), Last: Stamp(r.Last), SentPackets: r.SentPackets, SentBytes: r.SentBytes,
		ReceivedPackets: r.ReceivedPackets, ReceivedBytes: r.ReceivedBytes, Flows: r.Flows,
		OmittedNew: r.OmittedNew, OmittedEnded: r.OmittedEnded, OmittedRefused: r.OmittedRefused,
	}
	if r.Source.IsValid() {
		out.Source, out.Destination = r.Source.String(), r.Destination.String()
	}
	return out
}

// FlowFromWire decodes one.
func FlowFromWire(m *pb.FlowRecord) (flowlog.Record, error) {
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

func address(s string) (a netip.Addr, err error) {
	if s == "" {
		return a, nil
	}
	if a, err = netip.ParseAddr(s); err != nil {
		return a, fmt.Errorf("flow record from the daemon: %w", err)
	}
	return a, nil
}

// Stamp is t as a message has it: nil is never.
func Stamp(t time.Time) *timestamppb.Timestamp {
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
