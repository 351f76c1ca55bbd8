package storetest

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"time"

	"warren/coord/domain"
	"warren/coord/store"
	"warren/proto/cidr"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

func devices(s *suite) {
	full := s.device(1, func(d *domain.Device) {
		d.NextNodeKey = key.NewNode().Public()
		d.Routes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		d.Tags, d.Owner, d.Ephemeral = []string{"web"}, "ann", true
		d.ExpiresAt = time.Unix(1_900_000_000, 0).UTC()
		d.Host = domain.Host{Hostname: "ann's laptop", OS: "linux", OSVersion: "6.1.0-18-amd64", AgentVersion: "1.2"}
		d.LastSeen = time.Unix(1_800_000_001, 7).UTC()
		d.Gone, d.Sequence = true, 1<<62
		d.Advertised, d.Rulings = routes()
	})
	plain := s.device(2, nil)
	s.put(full, plain)
	want := []*store.Device{full, plain}
	slices.SortFunc(want, func(a, b *store.Device) int { return bytes.Compare(a.Key.Bytes(), b.Key.Bytes()) })
	s.view(func(tx store.Tx) error {
		got, err := tx.Device(full.Key)
		same(s, "device", got, full)
		all, err1 := tx.Devices()
		same(s, "devices in order of their keys", all, want)
		_, err2 := tx.Device(key.NewDevice().Public())
		missing(s, "unknown device", err2)
		return errors.Join(err, err1)
	})
	next := full.Device
	next.Version.Counter++
	next.Name, next.NodeKey, next.NextNodeKey, next.Gone = "renamed", full.NextNodeKey, key.NodePublic{}, false
	next.Advertised, next.Rulings = next.Advertised[1:], nil
	s.put(s.sign(&next))
	s.view(func(tx store.Tx) error {
		got, err := tx.Device(full.Key)
		same(s, "the next state", got, s.sign(&next))
		return err
	})
}

// routes are of each kind.
func routes() ([]domain.Advertised, []domain.Ruling) {
	route := func(k cidr.Kind, prefix, lan string, priority uint8) domain.Advertised {
		return domain.Advertised{Route: cidr.Route{Kind: k, Prefix: netip.MustParsePrefix(prefix), LAN: netip.MustParsePrefix(lan)}, Priority: priority}
	}
	at := time.Unix(1_800_000_002, 9).UTC()
	return []domain.Advertised{
			route(cidr.Exit, "0.0.0.0/0", "0.0.0.0/0", 1),
			route(cidr.Masqueraded, "10.0.0.0/8", "10.0.0.0/8", 100),
			route(cidr.Translated, "172.16.0.0/24", "192.168.0.0/24", 255),
			route(cidr.Site, "fd01::/48", "fd01::/48", 7),
		}, []domain.Ruling{
			{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Approved: true, By: "ann", At: at},
			{Prefix: netip.MustParsePrefix("172.16.0.0/24"), By: "ann", At: at},
			{Prefix: netip.MustParsePrefix("fd01::/48"), Approved: true, Policy: true, At: at},
		}
}

// claims: no two devices share a name, an address or a node key, whatever the caller believes.
func claims(s *suite) {
	a := s.device(1, func(d *domain.Device) { d.NextNodeKey = key.NewNode().Public() })
	s.put(a)
	s.view(func(tx store.Tx) error {
		for what, taken := range map[string]func() (bool, error){
			"name":          func() (bool, error) { return tx.NameTaken(a.Name) },
			"IPv4 address":  func() (bool, error) { return tx.AddressTaken(a.Addresses[0]) },
			"IPv6 address":  func() (bool, error) { return tx.AddressTaken(a.Addresses[1]) },
			"node key":      func() (bool, error) { return tx.NodeKeyTaken(a.NodeKey) },
			"next node key": func() (bool, error) { return tx.NodeKeyTaken(a.NextNodeKey) },
		} {
			if ok, err := taken(); !ok || err != nil {
				s.Errorf("%s is not taken (%v)", what, err)
			}
		}
		for what, taken := range map[string]func() (bool, error){
			"name":     func() (bool, error) { return tx.NameTaken("free") },
			"address":  func() (bool, error) { return tx.AddressTaken(netip.MustParseAddr("100.64.9.9")) },
			"node key": func() (bool, error) { return tx.NodeKeyTaken(key.NewNode().Public()) },
		} {
			if ok, err := taken(); ok || err != nil {
				s.Errorf("a free %s is taken (%v)", what, err)
			}
		}
		return nil
	})
	for what, change := range map[string]func(*domain.Device){
		"name":          func(d *domain.Device) { d.Name = a.Name },
		"address":       func(d *domain.Device) { d.Addresses[1] = a.Addresses[1] },
		"node key":      func(d *domain.Device) { d.NodeKey = a.NodeKey },
		"next node key": func(d *domain.Device) { d.NodeKey = a.NextNodeKey },
		"as next":       func(d *domain.Device) { d.NextNodeKey = a.NodeKey },
	} {
		b := s.device(2, change)
		if err := s.st.Update(s.Context(), func(tx store.Tx) error { return tx.PutDevice(b) }); err == nil {
			s.Errorf("two devices share: %s", what)
		}
	}
	// Names are released by a rename, node keys by a rotation.
	next := a.Device
	next.Name, next.NodeKey, next.NextNodeKey = "other", a.NextNodeKey, key.NodePublic{}
	s.put(s.sign(&next))
	s.put(s.device(2, func(d *domain.Device) { d.Name, d.NodeKey = a.Name, a.NodeKey }))
}

func tombstones(s *suite) {
	a := s.device(1, nil)
	s.put(a)
	gone := domain.Device{RemovedAt: time.Unix(1_800_000_000, 0).UTC(), Sequence: 7}
	gone.Network, gone.Key, gone.Version, gone.Removed = s.network, a.Key, a.Version, true
	gone.Version.Counter++
	s.put(s.sign(&gone))
	s.view(func(tx store.Tx) error {
		got, err := tx.Device(a.Key)
		same(s, "tombstone", got, s.sign(&gone))
		all, err1 := tx.Devices()
		if len(all) != 1 {
			s.Errorf("%d devices, want the tombstone", len(all))
		}
		return errors.Join(err, err1)
	})
	s.put(s.device(1, func(d *domain.Device) { d.NodeKey = a.NodeKey })) // all that it had is free
}

func sightings(s *suite) {
	a := s.device(1, nil)
	s.put(a)
	seen := store.Sighting{At: time.Unix(1_800_000_009, 0).UTC(), Host: domain.Host{Hostname: "h", OS: "o", OSVersion: "w", AgentVersion: "v"}}
	s.update(func(tx store.Tx) error {
		return errors.Join(tx.Seen(a.Key, seen), tx.Seen(key.NewDevice().Public(), seen))
	})
	s.view(func(tx store.Tx) error {
		got, err := tx.Device(a.Key)
		want := *a
		want.LastSeen, want.Host = seen.At, seen.Host
		same(s, "seen device", got, &want)
		return err
	})
}

func relays(s *suite) {
	k := key.NewDevice().Public()
	r := &store.Relay{
		Key: k, Desc: &pb.Relay{RelayKey: k.Bytes(), Name: "ams", Urls: []string{"https://a:1"}, TlsMode: pb.TLSMode_TLS_MODE_SELF, Stun: []string{"a:3478"}},
		CreatedAt: time.Unix(1_800_000_000, 0).UTC(), LastSeen: time.Unix(1_800_000_001, 0).UTC(),
	}
	s.update(func(tx store.Tx) error { return tx.PutRelay(r) })
	r.Desc.Name, r.Removed = "fra", true
	s.update(func(tx store.Tx) error { return tx.PutRelay(r) })
	s.view(func(tx store.Tx) error {
		got, err := tx.Relays()
		same(s, "relays", got, []*store.Relay{r})
		return err
	})
}
