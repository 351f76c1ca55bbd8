package record

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/proto/cidr"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// Bounds on what one device record may hold.
const (
	MaxAddresses = 16
	MaxRoutes    = cidr.MaxRoutes
	MaxTags      = 64
	MaxLabel     = 63
)

// NetworkID names a network; it is drawn at the coordinator's first start.
type NetworkID [16]byte

// NetworkIDFromBytes takes 16 bytes from the wire.
func NetworkIDFromBytes(b []byte) (NetworkID, error) {
	if len(b) != len(NetworkID{}) {
		return NetworkID{}, fmt.Errorf("a network id has 16 bytes, not %d", len(b))
	}
	return NetworkID(b), nil
}

// String is the id in hexadecimal.
func (n NetworkID) String() string { return fmt.Sprintf("%x", n[:]) }

// Version orders the states of one record.
type Version struct{ Generation, Counter uint64 }

// Compare is negative if v is older than o.
func (v Version) Compare(o Version) int {
	return cmp.Or(cmp.Compare(v.Generation, o.Generation), cmp.Compare(v.Counter, o.Counter))
}

// Device is an opened device record.
type Device struct {
	Network     NetworkID
	Key         key.DevicePublic
	Version     Version
	Removed     bool
	Name        string
	NodeKey     key.NodePublic
	NextNodeKey key.NodePublic // zero unless rotating
	Addresses   []netip.Addr
	Routes      []netip.Prefix
	Tags        []string
	Owner       string
	CreatedAt   time.Time
	ExpiresAt   time.Time // zero: never
	Ephemeral   bool
}

// Expired reports whether the record has run out at now.
func (d *Device) Expired(now time.Time) bool {
	return !d.ExpiresAt.IsZero() && !now.Before(d.ExpiresAt)
}

// SignDevice signs d with the authority key. The caller has raised Version.
func SignDevice(by key.AuthorityPrivate, d *Device) (*pb.Signed, error) {
	m := &pb.DeviceRecord{
		NetworkId: d.Network[:],
		DeviceKey: d.Key.Bytes(),
		Version:   &pb.Version{Generation: d.Version.Generation, Counter: d.Version.Counter},
		Removed:   d.Removed,
	}
	if !d.Removed {
		fillRecord(m, d)
	}
	s, err := Sign(by, ContextDevice, m)
	if err != nil {
		return nil, err
	}
	if _, err := OpenDevice(by.Public(), d.Network, s); err != nil {
		return nil, fmt.Errorf("refused to sign: %w", err)
	}
	return s, nil
}

func fillRecord(m *pb.DeviceRecord, d *Device) {
	m.Name, m.Owner, m.Tags, m.Ephemeral = d.Name, d.Owner, d.Tags, d.Ephemeral
	m.NodeKey = d.NodeKey.Bytes()
	if !d.NextNodeKey.IsZero() {
		m.NextNodeKey = d.NextNodeKey.Bytes()
	}
	for _, a := range d.Addresses {
		m.Addresses = append(m.Addresses, a.AsSlice())
	}
	m.Routes = PrefixesToProto(d.Routes)
	m.CreatedAt, m.ExpiresAt = TimeToProto(d.CreatedAt), TimeToProto(d.ExpiresAt)
}

// OpenDevice verifies, parses and checks a device record of network n.
func OpenDevice(by key.AuthorityPublic, n NetworkID, s *pb.Signed) (*Device, error) {
	var m pb.DeviceRecord
	if err := Open(by, ContextDevice, s, &m); err != nil {
		return nil, err
	}
	d, err := deviceFromProto(&m)
	if err != nil {
		return nil, fmt.Errorf("device record %q: %w", m.GetName(), err)
	}
	if d.Network != n {
		return nil, fmt.Errorf("device record %q is of network %s, not %s", d.Name, d.Network, n)
	}
	return d, nil
}

// ParseDevice reads a device record whose signature was verified when it was stored. It checks the form, not who signed.
func ParseDevice(s *pb.Signed) (*Device, error) {
	var m pb.DeviceRecord
	if err := Parse(ContextDevice, s.GetPayload(), &m); err != nil {
		return nil, err
	}
	return deviceFromProto(&m)
}

func deviceFromProto(m *pb.DeviceRecord) (*Device, error) {
	n, err := NetworkIDFromBytes(m.GetNetworkId())
	if err != nil {
		return nil, err
	}
	k, err := key.DevicePublicFromBytes(m.GetDeviceKey())
	if err != nil {
		return nil, fmt.Errorf("device key: %w", err)
	}
	d := &Device{
		Network: n, Key: k, Removed: m.GetRemoved(),
		Version: Version{m.GetVersion().GetGeneration(), m.GetVersion().GetCounter()},
	}
	if d.Removed {
		return d, nil
	}
	d.Name, d.Owner, d.Tags, d.Ephemeral = m.GetName(), m.GetOwner(), m.GetTags(), m.GetEphemeral()
	if err := CheckLabel(d.Name); err != nil {
		return nil, err
	}
	if len(d.Tags) > MaxTags || len(d.Owner) > 256 {
		return nil, errors.New("too many tags or too long an owner")
	}
	for _, tag := range d.Tags {
		if err := CheckLabel(tag); err != nil {
			return nil, fmt.Errorf("tag: %w", err)
		}
	}
	if d.NodeKey, err = key.NodePublicFromBytes(m.GetNodeKey()); err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	if len(m.GetNextNodeKey()) > 0 {
		if d.NextNodeKey, err = key.NodePublicFromBytes(m.GetNextNodeKey()); err != nil {
			return nil, fmt.Errorf("next node key: %w", err)
		}
	}
	if d.Addresses, err = addressesFromProto(m.GetAddresses()); err != nil {
		return nil, err
	}
	if d.Routes, err = PrefixesFromProto(m.GetRoutes(), MaxRoutes); err != nil {
		return nil, err
	}
	if e := m.GetExpiresAt(); e != nil && !e.IsValid() {
		return nil, errors.New("time of expiry is malformed") // and must not pass for never
	}
	d.CreatedAt, d.ExpiresAt = TimeFromProto(m.GetCreatedAt()), TimeFromProto(m.GetExpiresAt())
	return d, nil
}

func addressesFromProto(in [][]byte) ([]netip.Addr, error) {
	if len(in) == 0 || len(in) > MaxAddresses {
		return nil, fmt.Errorf("%d addresses, wanted 1 to %d", len(in), MaxAddresses)
	}
	out := make([]netip.Addr, 0, len(in))
	for _, b := range in {
		a, ok := netip.AddrFromSlice(b)
		if !ok || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
			return nil, fmt.Errorf("%x is no address that a device can have", b)
		}
		out = append(out, a)
	}
	return out, nil
}

// PrefixesToProto encodes prefixes.
func PrefixesToProto(in []netip.Prefix) []*pb.Prefix {
	var out []*pb.Prefix
	for _, p := range in {
		out = append(out, PrefixToProto(p))
	}
	return out
}

// PrefixToProto encodes one prefix.
func PrefixToProto(p netip.Prefix) *pb.Prefix {
	return &pb.Prefix{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())}
}

// PrefixFromProto decodes one prefix, which must be masked and not IPv4-mapped.
func PrefixFromProto(m *pb.Prefix) (netip.Prefix, error) {
	a, ok := netip.AddrFromSlice(m.GetAddress())
	if !ok || a.Is4In6() || m.GetBits() > uint32(a.BitLen()) {
		return netip.Prefix{}, fmt.Errorf("prefix %x/%d is malformed", m.GetAddress(), m.GetBits())
	}
	p := netip.PrefixFrom(a, int(m.GetBits()))
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("prefix %s has bits set beyond its length", p)
	}
	return p, nil
}

// PrefixesFromProto decodes at most limit prefixes, as PrefixFromProto does.
func PrefixesFromProto(in []*pb.Prefix, limit int) ([]netip.Prefix, error) {
	if len(in) > limit {
		return nil, fmt.Errorf("%d prefixes, more than %d", len(in), limit)
	}
	var out []netip.Prefix
	for _, m := range in {
		p, err := PrefixFromProto(m)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// CheckLabel accepts one DNS label (RFC 1123 section 2.1), lower case only.
func CheckLabel(s string) error {
	if s == "" || len(s) > MaxLabel {
		return fmt.Errorf("name %.70q: a name has 1 to %d characters", s, MaxLabel)
	}
	for i := range len(s) {
		c := s[i]
		edge := i == 0 || i == len(s)-1
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || edge) {
			return fmt.Errorf("name %q: only a to z, 0 to 9 and, inside, hyphens", s)
		}
	}
	return nil
}

// CheckRegion accepts the region of a relay: none, or what CheckLabel accepts.
func CheckRegion(s string) error {
	if s == "" {
		return nil
	}
	if err := CheckLabel(s); err != nil {
		return fmt.Errorf("region: %w", err)
	}
	return nil
}

// TimeToProto encodes a time; nil is never.
func TimeToProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// TimeFromProto decodes one; what is missing or malformed is never.
func TimeFromProto(t *timestamppb.Timestamp) time.Time {
	if t == nil || !t.IsValid() {
		return time.Time{}
	}
	return t.AsTime()
}
