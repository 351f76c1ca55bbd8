package flowlog

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"warren/internal/ipproto"
	"warren/tunnel/filter"
)

// The kinds of records.
const (
	Live    = "live"    // a flow that passes at present; never logged
	New     = "new"     // a flow began
	Ended   = "ended"   // a flow ended; one that began shortly before has no record of that
	Refused = "refused" // no grant allows it
	Omitted = "omitted" // what there was too much of
)

// Identity is who is behind a peer.
type Identity struct {
	Device, User string
	Tags         []string
}

// Record tells of a flow or, if Flows is more than 1, of several that differ in their source's port only. Its JSON is an interface that stays
// stable.
type Record struct {
	At   time.Time `json:"at"`
	Kind string    `json:"kind"`
	// Direction is "in" if the peer began, or else "out".
	Direction string   `json:"direction,omitempty"`
	Device    string   `json:"device,omitempty"`
	User      string   `json:"user,omitempty"`
	Tags      []string `json:"tags,omitempty"`
	Protocol  string   `json:"protocol,omitempty"`
	// Source and Destination are those of the first packet. Ports are 0 where there are none, and the source's also for several flows.
	Source          netip.Addr `json:"source,omitzero"`
	SourcePort      uint16     `json:"source_port,omitempty"`
	Destination     netip.Addr `json:"destination,omitzero"`
	DestinationPort uint16     `json:"destination_port,omitempty"`
	Grant           string     `json:"grant,omitempty"`
	Reason          string     `json:"reason,omitempty"`
	Began           time.Time  `json:"began,omitzero"`
	Last            time.Time  `json:"last,omitzero"`
	SentPackets     uint64     `json:"sent_packets"`
	SentBytes       uint64     `json:"sent_bytes"`
	ReceivedPackets uint64     `json:"received_packets"`
	ReceivedBytes   uint64     `json:"received_bytes"`
	Flows           uint64     `json:"flows,omitempty"`
	// OmittedNew, OmittedEnded and OmittedRefused count, in a record of kind Omitted, the flows that have none of their own.
	OmittedNew     uint64 `json:"omitted_new,omitempty"`
	OmittedEnded   uint64 `json:"omitted_ended,omitempty"`
	OmittedRefused uint64 `json:"omitted_refused,omitempty"`
}

// kindOf names the filter's kinds.
func kindOf(k filter.Kind) string { return [...]string{Live, New, Ended, Refused}[k] }

// FromFilter gives the record of one flow as the filter tells of it now.
func FromFilter(r *filter.Record, who Identity, now time.Time) Record {
	out := Record{
		At: now, Kind: kindOf(r.Kind), Direction: r.Direction.String(), Device: who.Device, User: who.User, Tags: who.Tags,
		Protocol: ipproto.Name(r.Proto), Source: r.Src.Addr(), Destination: r.Dst.Addr(), Grant: r.Grant, Reason: r.Reason.String(),
		Began: ago(now, r.Age), Last: ago(now, r.Idle), Flows: 1,
	}
	if ipproto.HasPorts(r.Proto) {
		out.SourcePort, out.DestinationPort = r.Src.Port(), r.Dst.Port()
	}
	out.count(&r.Traffic)
	return out
}

func ago(now time.Time, d time.Duration) time.Time { return now.Add(-d).Round(time.Millisecond) }

func (r *Record) count(t *[2]filter.Traffic) {
	r.ReceivedPackets += t[filter.In].Packets
	r.ReceivedBytes += t[filter.In].Bytes
	r.SentPackets += t[filter.Out].Packets
	r.SentBytes += t[filter.Out].Bytes
}

// String is a line for people.
func (r *Record) String() string {
	who := r.Device
	if r.User != "" {
		who += " of " + r.User
	}
	if r.Kind == Omitted {
		return fmt.Sprintf("omitted %s: %d new, %d ended and %d refused flows", who, r.OmittedNew, r.OmittedEnded, r.OmittedRefused)
	}
	text := fmt.Sprintf("%s %s %s to %s, %s %s", r.Kind, r.Protocol, end(r.Source, r.SourcePort), end(r.Destination, r.DestinationPort), r.Direction, who)
	if r.Flows > 1 {
		text += fmt.Sprintf(", %d flows", r.Flows)
	}
	if r.Grant != "" {
		text += ", grant " + r.Grant
	}
	if r.Reason != "" {
		text += ", " + r.Reason
	}
	return text
}

func end(a netip.Addr, port uint16) string {
	if port == 0 {
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}

// Query says which records are wanted; what is not set does not matter.
type Query struct {
	Kinds               []string
	Device, User, Grant string
	// Flow is a protocol, with the destination's port if Port is set.
	Protocol string
	Port     uint16
	Since    time.Time
}

// Matches reports whether r is wanted. Records of kind Omitted have no more than a device.
func (q *Query) Matches(r *Record) bool {
	switch {
	case len(q.Kinds) > 0 && !slices.Contains(q.Kinds, r.Kind),
		q.Device != "" && q.Device != r.Device,
		q.User != "" && q.User != r.User,
		q.Grant != "" && q.Grant != r.Grant,
		q.Protocol != "" && q.Protocol != r.Protocol,
		q.Port != 0 && q.Port != r.DestinationPort:
		return false
	}
	return q.Since.IsZero() || !r.At.Before(q.Since)
}
