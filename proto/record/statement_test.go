package record

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

func statement(d key.DevicePublic) *pb.MapStatement {
	n := NetworkID{1, 2}
	net4 := []*pb.Prefix{{Address: []byte{100, 64, 0, 0}, Bits: 16}}
	return &pb.MapStatement{
		NetworkId: n[:], DeviceKey: d.Bytes(), Epoch: 5, Revision: 6, IssuedAt: timestamppb.New(at()), GoodUntil: timestamppb.New(at().Add(time.Hour)),
		NetworkPrefixes: net4, Digest: make([]byte, 32),
		Grants:    []*pb.Grant{{Id: "g", Sources: net4, Destinations: net4, Flows: []*pb.Flow{{Protocol: 6, FirstPort: 22, LastPort: 22}}}},
		Relays:    []*pb.Relay{{RelayKey: d.Bytes(), Name: "r", Urls: []string{"https://r.example"}, TlsMode: pb.TLSMode_TLS_MODE_SELF}},
		Endpoints: []*pb.Endpoint{{Url: "https://c.example", TlsMode: pb.TLSMode_TLS_MODE_SELF}},
	}
}

func TestStatement(t *testing.T) {
	k, d := key.NewSigning(), key.NewDevice().Public()
	m := statement(d)
	s, err := SignStatement(k, m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenStatement(k.Public(), NetworkID{1, 2}, d, s)
	if err != nil || !proto.Equal(got.MapStatement, m) || !got.Device.Equal(d) || len(got.Prefixes) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	if _, ok := got.GoodAt(at().Add(time.Hour - 1)); !ok {
		t.Error("not good in time")
	}
	if until, ok := got.GoodAt(at().Add(time.Hour)); ok || !until.Equal(at().Add(time.Hour)) {
		t.Errorf("good for too long, until %s", until)
	}
	for name, open := range map[string]func() (*Statement, error){
		"another device": func() (*Statement, error) {
			return OpenStatement(k.Public(), NetworkID{1, 2}, key.NewDevice().Public(), s)
		},
		"another network": func() (*Statement, error) { return OpenStatement(k.Public(), NetworkID{1}, d, s) },
		"another signer":  func() (*Statement, error) { return OpenStatement(key.NewSigning().Public(), NetworkID{1, 2}, d, s) },
		"no signer":       func() (*Statement, error) { return OpenStatement(key.SigningPublic{}, NetworkID{1, 2}, d, s) },
		"nothing":         func() (*Statement, error) { return OpenStatement(k.Public(), NetworkID{1, 2}, d, nil) },
	} {
		if _, err := open(); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestStatementBounds(t *testing.T) {
	k, d := key.NewSigning(), key.NewDevice().Public()
	grant := func(f ...*pb.Flow) func(*pb.MapStatement) {
		return func(m *pb.MapStatement) { m.Grants[0].Flows = f }
	}
	for name, test := range map[string]struct {
		change func(*pb.MapStatement)
		ok     bool
	}{
		"as it is":          {func(*pb.MapStatement) {}, true},
		"nothing granted":   {func(m *pb.MapStatement) { m.Grants, m.Relays, m.Endpoints = nil, nil, nil }, true},
		"4096 grants":       {func(m *pb.MapStatement) { m.Grants = slicesOf(MaxGrants, m.Grants[0]) }, true},
		"4097 grants":       {func(m *pb.MapStatement) { m.Grants = slicesOf(MaxGrants+1, m.Grants[0]) }, false},
		"256 relays":        {func(m *pb.MapStatement) { m.Relays = slicesOf(MaxRelays, m.Relays[0]) }, true},
		"257 relays":        {func(m *pb.MapStatement) { m.Relays = slicesOf(MaxRelays+1, m.Relays[0]) }, false},
		"16 endpoints":      {func(m *pb.MapStatement) { m.Endpoints = slicesOf(MaxURLs, m.Endpoints[0]) }, true},
		"17 endpoints":      {func(m *pb.MapStatement) { m.Endpoints = slicesOf(MaxURLs+1, m.Endpoints[0]) }, false},
		"17 prefixes":       {func(m *pb.MapStatement) { m.NetworkPrefixes = slicesOf(17, m.NetworkPrefixes[0]) }, false},
		"short digest":      {func(m *pb.MapStatement) { m.Digest = m.Digest[:31] }, false},
		"no end":            {func(m *pb.MapStatement) { m.GoodUntil = nil }, false},
		"unreadable end":    {func(m *pb.MapStatement) { m.GoodUntil = &timestamppb.Timestamp{Seconds: 1 << 62} }, false},
		"no beginning":      {func(m *pb.MapStatement) { m.IssuedAt = nil }, false},
		"every flow":        {grant(&pb.Flow{LastPort: 65535}), true},
		"no protocol":       {grant(&pb.Flow{Protocol: 256}), false},
		"port beyond":       {grant(&pb.Flow{Protocol: 6, LastPort: 65536}), false},
		"range upside down": {grant(&pb.Flow{Protocol: 6, FirstPort: 2, LastPort: 1}), false},
		"4097 sources":      {func(m *pb.MapStatement) { m.Grants[0].Sources = slicesOf(MaxPrefixes+1, m.Grants[0].Sources[0]) }, false},
		"bad source":        {func(m *pb.MapStatement) { m.Grants[0].Sources = []*pb.Prefix{{Address: []byte{1}}} }, false},
		"bad destination": {func(m *pb.MapStatement) {
			m.Grants[0].Destinations = []*pb.Prefix{{Address: []byte{1, 2, 3, 4}, Bits: 8}}
		}, false},
		"groups": {func(m *pb.MapStatement) {
			m.Groups = slicesOf(MaxGroupUsers, &pb.UserGroups{User: "ann", Groups: []string{"group:a"}})
		}, true},
		"groups of too many": {func(m *pb.MapStatement) { m.Groups = slicesOf(MaxGroupUsers+1, &pb.UserGroups{User: "ann"}) }, false},
		"many groups": {func(m *pb.MapStatement) {
			m.Groups = []*pb.UserGroups{{User: "ann", Groups: slicesOf(MaxUserGroups, "g")}}
		}, true},
		"too many groups": {func(m *pb.MapStatement) {
			m.Groups = []*pb.UserGroups{{User: "ann", Groups: slicesOf(MaxUserGroups+1, "g")}}
		}, false},
		"groups of nobody":  {func(m *pb.MapStatement) { m.Groups = []*pb.UserGroups{{Groups: []string{"g"}}} }, false},
		"relay without key": {func(m *pb.MapStatement) { m.Relays[0].RelayKey = nil }, false},
		"relay, 17 URLs":    {func(m *pb.MapStatement) { m.Relays[0].Urls = slicesOf(MaxURLs+1, "x") }, false},
		"relay, 17 STUN":    {func(m *pb.MapStatement) { m.Relays[0].Stun = slicesOf(MaxURLs+1, "x") }, false},
	} {
		m := statement(d)
		test.change(m)
		s, err := Sign(k, ContextStatement, m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenStatement(k.Public(), NetworkID{1, 2}, d, s); (err == nil) != test.ok {
			t.Errorf("%s: opening: %v", name, err)
		}
		if _, err := SignStatement(k, m); (err == nil) != test.ok {
			t.Errorf("%s: signing: %v", name, err)
		}
	}
}

func TestCertificate(t *testing.T) {
	authority, k := key.NewAuthority(), key.NewSigning()
	s, err := Certify(authority, NetworkID{1}, k.Public(), at())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenCertificate(authority.Public(), NetworkID{1}, s); err != nil || !got.Equal(k.Public()) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := OpenCertificate(authority.Public(), NetworkID{2}, s); err == nil {
		t.Error("opened in another network")
	}
	if _, err := OpenCertificate(key.NewAuthority().Public(), NetworkID{1}, s); !errors.Is(err, ErrSignature) {
		t.Errorf("opened under another authority: %v", err)
	}
	n := NetworkID{1}
	if s, err = Sign(authority, ContextSigningKey, &pb.SigningCertificate{NetworkId: n[:]}); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCertificate(authority.Public(), n, s); err == nil {
		t.Error("a certificate for no key")
	}
}

func TestTLSBinding(t *testing.T) {
	authority, n := key.NewAuthority(), NetworkID{1}
	s, err := BindTLS(authority, n, pb.TLSRole_TLS_ROLE_RELAY, []byte("spki"))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		err error
		ok  bool
	}{
		"itself":            {CheckTLS(authority.Public(), n, pb.TLSRole_TLS_ROLE_RELAY, []byte("spki"), s), true},
		"another role":      {CheckTLS(authority.Public(), n, pb.TLSRole_TLS_ROLE_COORDINATOR, []byte("spki"), s), false},
		"no role":           {CheckTLS(authority.Public(), n, 0, []byte("spki"), s), false},
		"another network":   {CheckTLS(authority.Public(), NetworkID{}, pb.TLSRole_TLS_ROLE_RELAY, []byte("spki"), s), false},
		"another key":       {CheckTLS(authority.Public(), n, pb.TLSRole_TLS_ROLE_RELAY, []byte("SPKI"), s), false},
		"another authority": {CheckTLS(key.NewAuthority().Public(), n, pb.TLSRole_TLS_ROLE_RELAY, []byte("spki"), s), false},
		"nothing":           {CheckTLS(authority.Public(), n, pb.TLSRole_TLS_ROLE_RELAY, []byte("spki"), nil), false},
	} {
		if (test.err == nil) != test.ok {
			t.Errorf("%s: %v", name, test.err)
		}
	}
}

func TestTicket(t *testing.T) {
	k, d, n := key.NewSigning(), key.NewDevice().Public(), NetworkID{1}
	s, err := SignTicket(k, n, d, at(), at().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenTicket(k.Public(), n, at().Add(time.Hour-1), s); err != nil || !got.Equal(d) {
		t.Errorf("%v, %v", got, err)
	}
	endless, err := Sign(k, ContextTicket, &pb.RelayTicket{NetworkId: n[:], DeviceKey: d.Bytes()})
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() (key.DevicePublic, error){
		"too late":        func() (key.DevicePublic, error) { return OpenTicket(k.Public(), n, at().Add(time.Hour), s) },
		"another network": func() (key.DevicePublic, error) { return OpenTicket(k.Public(), NetworkID{2}, at(), s) },
		"another signer":  func() (key.DevicePublic, error) { return OpenTicket(key.NewSigning().Public(), n, at(), s) },
		"without an end":  func() (key.DevicePublic, error) { return OpenTicket(k.Public(), n, at(), endless) },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s: opened for %v", name, got)
		}
	}
}

func FuzzStatement(f *testing.F) {
	k, err := key.SigningPrivateFromBytes(bytes.Repeat([]byte{1}, key.Size)) // the same for every worker
	if err != nil {
		f.Fatal(err)
	}
	device, err := key.DevicePrivateFromBytes(bytes.Repeat([]byte{2}, key.Size))
	if err != nil {
		f.Fatal(err)
	}
	d := device.Public()
	seed, err := proto.Marshal(statement(d))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, payload []byte) {
		s := &pb.Signed{Payload: payload, Signature: k.Sign(Message(ContextStatement, payload))}
		st, err := OpenStatement(k.Public(), NetworkID{1, 2}, d, s)
		if err != nil {
			return
		}
		if _, err := SignStatement(k, st.MapStatement); err != nil {
			t.Errorf("opened, but not fit to be signed: %v", err)
		}
		st.GoodAt(at())
	})
}

// TestProbeAddresses: the last address but one, which no device gets, of each family once.
func TestProbeAddresses(t *testing.T) {
	s := &Statement{}
	for _, p := range []string{"100.70.0.0/16", "fd12:3456:789a::/48", "10.9.0.0/24"} {
		s.Prefixes = append(s.Prefixes, netip.MustParsePrefix(p))
	}
	want := []netip.Addr{netip.MustParseAddr("100.70.255.254"), netip.MustParseAddr("fd12:3456:789a:ffff:ffff:ffff:ffff:fffe")}
	if got := s.ProbeAddresses(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
