package record

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
	"google.golang.org/protobuf/proto"

	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// Bounds on what one map statement may hold.
const (
	MaxGrants   = 8192
	MaxPrefixes = 4096
	MaxRelays   = 256
	MaxURLs     = 16
	// MaxMapRoutes bounds the routes through all gateways together.
	MaxMapRoutes = 16384
	// MaxGroupUsers bounds the users whose groups are told, MaxUserGroups the groups of one.
	MaxGroupUsers = 16384
	MaxUserGroups = 4096

	maxNetworkPrefixes = 16
)

// Certify signs a signing key with the authority key.
func Certify(by key.AuthorityPrivate, n NetworkID, k key.SigningPublic, now time.Time) (*pb.Signed, error) {
	return Sign(by, ContextSigningKey, &pb.SigningCertificate{
		NetworkId: n[:], SigningKey: k.Bytes(), IssuedAt: TimeToProto(now),
	})
}

// OpenCertificate gives the signing key that the authority certified for network n.
func OpenCertificate(by key.AuthorityPublic, n NetworkID, s *pb.Signed) (key.SigningPublic, error) {
	var m pb.SigningCertificate
	if err := Open(by, ContextSigningKey, s, &m); err != nil {
		return key.SigningPublic{}, err
	}
	if !bytes.Equal(m.GetNetworkId(), n[:]) {
		return key.SigningPublic{}, fmt.Errorf("signing certificate is of network %x, not %s", m.GetNetworkId(), n)
	}
	return key.SigningPublicFromBytes(m.GetSigningKey())
}

// BindTLS signs the hash of a server's SubjectPublicKeyInfo with the authority key.
func BindTLS(by key.AuthorityPrivate, n NetworkID, role pb.TLSRole, spki []byte) (*pb.Signed, error) {
	sum := sha256.Sum256(spki)
	return BindTLSHash(by, n, role, sum)
}

// BindTLSHash is BindTLS for a hash that came from a separate relay.
func BindTLSHash(by key.AuthorityPrivate, n NetworkID, role pb.TLSRole, sum [32]byte) (*pb.Signed, error) {
	return Sign(by, ContextTLS, &pb.TLSBinding{NetworkId: n[:], Role: role, SpkiSha256: sum[:]})
}

// CheckTLS verifies that binding covers spki in this role and network.
func CheckTLS(by key.AuthorityPublic, n NetworkID, role pb.TLSRole, spki []byte, binding *pb.Signed) error {
	var m pb.TLSBinding
	if err := Open(by, ContextTLS, binding, &m); err != nil {
		return err
	}
	sum := sha256.Sum256(spki)
	if !bytes.Equal(m.GetNetworkId(), n[:]) || m.GetRole() != role || !bytes.Equal(m.GetSpkiSha256(), sum[:]) {
		return errors.New("tls binding is for another network, role or key")
	}
	return nil
}

// Statement is an opened map statement. The embedded message has been checked, and must not be changed.
type Statement struct {
	*pb.MapStatement
	Device   key.DevicePublic
	Prefixes []netip.Prefix // of the network
	Routes   []Route        // that the device may use
	Waiting  []netip.Prefix // what the device itself advertises and nobody has approved
}

// DefaultPriority is that of a gateway of which nothing is said.
const DefaultPriority = 100

// Route is a CIDR, or all addresses of a family, and a device that carries it.
type Route struct {
	Prefix  netip.Prefix
	Gateway [key.Size]byte // device key
	// Priority is 1 to 255; of several gateways with the same prefix the highest one that works is used.
	Priority uint8
}

// ProbeAddresses are those that no device gets, and from which gateways probe their LANs: the last but one of each of the network's prefixes, at most
// one of a family.
func (s *Statement) ProbeAddresses() (out []netip.Addr) {
	for _, p := range s.Prefixes {
		a := netipx.PrefixLastIP(p).Prev()
		if !slices.ContainsFunc(out, func(o netip.Addr) bool { return o.Is4() == a.Is4() }) {
			out = append(out, a)
		}
	}
	return out
}

// OpenStatement verifies, parses and checks the map statement made for device d of network n.
func OpenStatement(by key.SigningPublic, n NetworkID, d key.DevicePublic, s *pb.Signed) (*Statement, error) {
	m := new(pb.MapStatement)
	if err := Open(by, ContextStatement, s, m); err != nil {
		return nil, err
	}
	forDevice, err := key.DevicePublicFromBytes(m.GetDeviceKey())
	if err != nil {
		return nil, fmt.Errorf("map statement: %w", err)
	}
	if !bytes.Equal(m.GetNetworkId(), n[:]) || !forDevice.Equal(d) {
		return nil, errors.New("map statement is for another network or device")
	}
	st := &Statement{MapStatement: m, Device: forDevice}
	if err := st.open(); err != nil {
		return nil, fmt.Errorf("map statement: %w", err)
	}
	return st, nil
}

// open checks the message's form, and decodes what others would have to.
func (s *Statement) open() (err error) {
	if err := checkStatement(s.MapStatement); err != nil {
		return err
	}
	if s.Routes, err = openRoutes(s.GetRoutes()); err != nil {
		return err
	}
	if s.Waiting, err = PrefixesFromProto(s.GetWaitingRoutes(), MaxRoutes); err != nil {
		return fmt.Errorf("waiting routes: %w", err)
	}
	s.Prefixes, err = PrefixesFromProto(s.GetNetworkPrefixes(), maxNetworkPrefixes)
	return err
}

func openRoutes(in []*pb.MapRoute) (out []Route, err error) {
	if len(in) > MaxMapRoutes {
		return nil, errors.New("too many routes")
	}
	for _, r := range in {
		p, err := PrefixFromProto(r.GetPrefix())
		if err != nil || len(r.GetGatewayKey()) != key.Size || r.GetPriority() > math.MaxUint8 {
			return nil, fmt.Errorf("route %v is malformed", r)
		}
		out = append(out, Route{p, [key.Size]byte(r.GetGatewayKey()), uint8(cmp.Or(r.GetPriority(), DefaultPriority))})
	}
	return out, nil
}

// checkStatement checks the form of m.
func checkStatement(m *pb.MapStatement) error {
	if len(m.GetGrants()) > MaxGrants || len(m.GetRelays()) > MaxRelays || len(m.GetEndpoints()) > MaxURLs {
		return errors.New("too many grants, relays or endpoints")
	}
	if len(m.GetDigest()) != sha256.Size || !m.GetGoodUntil().IsValid() || !m.GetIssuedAt().IsValid() {
		return errors.New("digest or times are malformed")
	}
	if n := NamedPeers(m.GetGrants()); n > MaxNamedPeers {
		return fmt.Errorf("grants name peers %d times, more than %d", n, MaxNamedPeers)
	}
	if len(m.GetGroups()) > MaxGroupUsers {
		return errors.New("too many users in groups")
	}
	for _, u := range m.GetGroups() {
		if u.GetUser() == "" || len(u.GetGroups()) > MaxUserGroups {
			return fmt.Errorf("groups of user %.80q are malformed", u.GetUser())
		}
	}
	for _, g := range m.GetGrants() {
		if _, err := PrefixesFromProto(g.GetSources(), MaxPrefixes); err != nil {
			return fmt.Errorf("grant %q: %w", g.GetId(), err)
		}
		if _, err := PrefixesFromProto(g.GetDestinations(), MaxPrefixes); err != nil {
			return fmt.Errorf("grant %q: %w", g.GetId(), err)
		}
		for _, f := range g.GetFlows() {
			if f.GetProtocol() > 255 || f.GetLastPort() > 65535 || f.GetFirstPort() > f.GetLastPort() {
				return fmt.Errorf("grant %q: flow %d %d-%d is malformed", g.GetId(), f.GetProtocol(), f.GetFirstPort(), f.GetLastPort())
			}
		}
	}
	for _, r := range m.GetRelays() {
		if len(r.GetRelayKey()) != key.Size || len(r.GetUrls()) > MaxURLs || len(r.GetStun()) > MaxURLs || CheckRegion(r.GetRegion()) != nil {
			return fmt.Errorf("relay %q is malformed", r.GetName())
		}
	}
	return nil
}

// GoodAt reports whether a map with this statement may be used at now, and else when it ran out.
func (s *Statement) GoodAt(now time.Time) (until time.Time, ok bool) {
	until = s.GetGoodUntil().AsTime()
	return until, now.Before(until)
}

// Digest sums up a set of device records by key and version, so that drift between two copies of a map shows. The order does not
// matter and one record is added or taken away in constant time: it is the exclusive or of each record's SHA-256. It is no defence
// against a forger; the statement's signature is.
type Digest [sha256.Size]byte

// Toggle adds a record that is not in the set, or removes one that is. Hashed are 32 bytes of key, and 8 each of generation and counter,
// big-endian.
func (d *Digest) Toggle(device key.DevicePublic, v Version) {
	raw := device.Raw()
	b := append(make([]byte, 0, key.Size+16), raw[:]...)
	b = binary.BigEndian.AppendUint64(b, v.Generation)
	b = binary.BigEndian.AppendUint64(b, v.Counter)
	d.Join(sha256.Sum256(b))
}

// Join adds the records of another set, or takes away those that both sets have.
func (d *Digest) Join(o Digest) { subtle.XORBytes(d[:], d[:], o[:]) }

// SignTicket makes a relay ticket for d.
func SignTicket(by key.SigningPrivate, n NetworkID, d key.DevicePublic, now, until time.Time) (*pb.Signed, error) {
	return Sign(by, ContextTicket, &pb.RelayTicket{
		NetworkId: n[:], DeviceKey: d.Bytes(), IssuedAt: TimeToProto(now), ExpiresAt: TimeToProto(until),
	})
}

// OpenTicket gives the device that a relay ticket of network n admits at now.
func OpenTicket(by key.SigningPublic, n NetworkID, now time.Time, s *pb.Signed) (key.DevicePublic, error) {
	var m pb.RelayTicket
	if err := Open(by, ContextTicket, s, &m); err != nil {
		return key.DevicePublic{}, err
	}
	if !bytes.Equal(m.GetNetworkId(), n[:]) {
		return key.DevicePublic{}, fmt.Errorf("relay ticket is of network %x, not %s", m.GetNetworkId(), n)
	}
	if until := TimeFromProto(m.GetExpiresAt()); !now.Before(until) {
		return key.DevicePublic{}, fmt.Errorf("relay ticket expired at %s", until.UTC().Format(time.RFC3339))
	}
	return key.DevicePublicFromBytes(m.GetDeviceKey())
}

// SignStatement signs m, which must be fit to be opened again.
func SignStatement(by key.SigningPrivate, m *pb.MapStatement) (*pb.Signed, error) {
	if err := (&Statement{MapStatement: m}).open(); err != nil {
		return nil, fmt.Errorf("refused to sign a map statement: %w", err)
	}
	return Sign(by, ContextStatement, proto.Clone(m))
}
