// Package storetest is the conformance suite of store.Store: what every engine must do. An engine's own test calls Run.
package storetest

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"warren/coord/domain"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// Run tests the engine. open gives an empty store each time, which the suite closes.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for name, f := range map[string]func(*suite){
		"meta": meta, "atomicity": atomicity, "views": views, "serial updates": serial, "cancelled": cancelled,
		"tokens": tokens, "token uses": tokenUses,
		"devices": devices, "claims": claims, "tombstones": tombstones, "sightings": sightings, "relays": relays,
		"change log": changeLog, "replaced changes": replaced, "audiences": audiences, "paging": paging, "pruning": pruning,
		"policies": policies,
	} {
		t.Run(name, func(t *testing.T) {
			st := open(t)
			defer func() {
				if err := st.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			f(&suite{T: t, st: st, authority: key.NewAuthority(), network: record.NetworkID{1, 2, 3}})
		})
	}
}

type suite struct {
	*testing.T
	st        store.Store
	authority key.AuthorityPrivate
	network   record.NetworkID
}

func (s *suite) update(f func(store.Tx) error) {
	s.Helper()
	if err := s.st.Update(s.Context(), f); err != nil {
		s.Fatalf("update: %v", err)
	}
}

func (s *suite) view(f func(store.Tx) error) {
	s.Helper()
	if err := s.st.View(s.Context(), f); err != nil {
		s.Fatalf("view: %v", err)
	}
}

// device makes a signed device; i gives it its name and addresses.
func (s *suite) device(i byte, change func(*domain.Device)) *store.Device {
	s.Helper()
	var d domain.Device
	d.Network, d.Key, d.NodeKey = s.network, key.NewDevice().Public(), key.NewNode().Public()
	d.Version = record.Version{Generation: 1, Counter: 1}
	d.Name = "device-" + string('a'+rune(i))
	d.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 1, i}), netip.AddrFrom16([16]byte{0xfd, 15: i})}
	d.CreatedAt = time.Unix(1_800_000_000, 0).UTC()
	if change != nil {
		change(&d)
	}
	return s.sign(&d)
}

func (s *suite) sign(d *domain.Device) *store.Device {
	s.Helper()
	signed, err := record.SignDevice(s.authority, &d.Device)
	if err != nil {
		s.Fatal(err)
	}
	return &store.Device{Device: *d, Signed: signed}
}

func (s *suite) put(all ...*store.Device) {
	s.Helper()
	s.update(func(tx store.Tx) error {
		for _, d := range all {
			if err := tx.PutDevice(d); err != nil {
				return err
			}
		}
		return nil
	})
}

// same compares what a store gave with what it was given.
func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, options()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func options() cmp.Option {
	return cmp.Options{
		protocmp.Transform(), cmp.Comparer(key.DevicePublic.Equal), cmp.Comparer(key.NodePublic.Equal), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
}

func missing(t testing.TB, what string, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%s: got error %v, want %v", what, err, store.ErrNotFound)
	}
}

func meta(s *suite) {
	s.view(func(tx store.Tx) error {
		_, err := tx.Meta("x")
		missing(s, "meta that was never set", err)
		return nil
	})
	for _, value := range [][]byte{{1, 2, 3}, {}, []byte("longer than before")} {
		s.update(func(tx store.Tx) error { return tx.SetMeta("x", value) })
		s.view(func(tx store.Tx) error {
			got, err := tx.Meta("x")
			if err != nil || string(got) != string(value) {
				s.Errorf("meta: %x, %v; want %x", got, err, value)
			}
			return nil
		})
	}
}

func atomicity(s *suite) {
	boom := errors.New("boom")
	d := s.device(3, nil)
	err := s.st.Update(s.Context(), func(tx store.Tx) error {
		if err := errors.Join(tx.SetMeta("x", []byte("y")), tx.PutDevice(d)); err != nil {
			return err
		}
		if _, err := tx.Append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: d.Key.Bytes(), Body: d.Signed}); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		s.Errorf("update gave %v, not its function's error", err)
	}
	s.view(func(tx store.Tx) error {
		_, err := tx.Meta("x")
		missing(s, "meta of a failed update", err)
		_, err = tx.Device(d.Key)
		missing(s, "device of a failed update", err)
		if r, err := tx.Revision(); r != 0 || err != nil {
			s.Errorf("revision %d, %v after a failed update, want 0", r, err)
		}
		return nil
	})
}

func views(s *suite) {
	if err := s.st.View(s.Context(), func(tx store.Tx) error { return tx.SetMeta("x", nil) }); err == nil {
		s.Error("a view could write")
	}
	// A view that began before an update goes on seeing what it saw.
	s.update(func(tx store.Tx) error { return tx.SetMeta("x", []byte("old")) })
	s.view(func(tx store.Tx) error {
		before, err := tx.Meta("x")
		if err != nil {
			return err
		}
		s.update(func(tx store.Tx) error { return tx.SetMeta("x", []byte("new")) })
		after, err := tx.Meta("x")
		if string(before) != "old" || string(after) != "old" {
			s.Errorf("a view saw %q, then %q", before, after)
		}
		return err
	})
}

func serial(s *suite) {
	const many = 20
	failed := make(chan error, many)
	for range many {
		go func() {
			failed <- s.st.Update(s.Context(), func(tx store.Tx) error {
				b, err := tx.Meta("n")
				if errors.Is(err, store.ErrNotFound) {
					b, err = []byte{0}, nil
				}
				if err != nil {
					return err
				}
				return tx.SetMeta("n", []byte{b[0] + 1})
			})
		}()
	}
	for range many {
		if err := <-failed; err != nil {
			s.Error(err)
		}
	}
	s.view(func(tx store.Tx) error {
		b, err := tx.Meta("n")
		if len(b) != 1 || b[0] != many {
			s.Errorf("%d updates counted to %v", many, b)
		}
		return err
	})
}

func cancelled(s *suite) {
	ctx, cancel := context.WithCancel(s.Context())
	err := s.st.Update(ctx, func(tx store.Tx) error {
		if err := tx.SetMeta("x", []byte("y")); err != nil {
			return err
		}
		cancel()
		return nil
	})
	if err == nil {
		s.Fatal("an update whose caller had gone was committed without an error")
	}
	s.view(func(tx store.Tx) error {
		_, err := tx.Meta("x")
		missing(s, "meta of a cancelled update", err)
		return nil
	})
}

func tokens(s *suite) {
	now := time.Unix(1_800_000_000, 5).UTC()
	all := []*domain.Token{
		{ID: "aa", Hash: [32]byte{1}, CreatedAt: now, ExpiresAt: now.Add(time.Hour), Owner: "ann", Tags: []string{"x", "y"}, Reusable: true, Ephemeral: true},
		{ID: "bb", Hash: [32]byte{2}, CreatedAt: now.Add(1), ExpiresAt: now.Add(2), Relay: true},
	}
	s.update(func(tx store.Tx) error { return errors.Join(tx.PutToken(all[1]), tx.PutToken(all[0])) })
	all[1].Revoked = true
	s.update(func(tx store.Tx) error { return tx.PutToken(all[1]) })
	s.view(func(tx store.Tx) error {
		got, err := tx.Tokens()
		same(s, "tokens, oldest first", got, all)
		byID, err1 := tx.Token("bb")
		same(s, "token by id", byID, all[1])
		byHash, err2 := tx.TokenByHash([32]byte{1})
		same(s, "token by hash", byHash, all[0])
		_, err3 := tx.Token("cc")
		missing(s, "unknown id", err3)
		_, err3 = tx.TokenByHash([32]byte{9})
		missing(s, "unknown hash", err3)
		return errors.Join(err, err1, err2)
	})
	err := s.st.Update(s.Context(), func(tx store.Tx) error {
		return tx.PutToken(&domain.Token{ID: "cc", Hash: [32]byte{1}, CreatedAt: now, ExpiresAt: now})
	})
	if err == nil {
		s.Error("two tokens have one hash")
	}
}

func tokenUses(s *suite) {
	now := time.Unix(1_800_000_000, 0)
	ann, bob := key.NewDevice().Public(), key.NewDevice().Public()
	s.update(func(tx store.Tx) error {
		err := tx.PutToken(&domain.Token{ID: "aa", Hash: [32]byte{1}, CreatedAt: now, ExpiresAt: now})
		return errors.Join(err, tx.UseToken("aa", ann, [32]byte{1}, now), tx.UseToken("aa", ann, [32]byte{2}, now), tx.UseToken("aa", bob, [32]byte{3}, now))
	})
	s.view(func(tx store.Tx) error {
		use, err := tx.TokenUse("aa", ann)
		same(s, "a device that used it twice", use, &domain.Use{Requests: [][32]byte{{1}, {2}}})
		_, err1 := tx.TokenUse("aa", key.NewDevice().Public())
		missing(s, "a device that did not use it", err1)
		tok, err2 := tx.Token("aa")
		if err2 == nil && tok.Uses != 2 {
			s.Errorf("%d uses, want 2: renewing does not count", tok.Uses)
		}
		return errors.Join(err, err2)
	})
	if err := s.st.Update(s.Context(), func(tx store.Tx) error { return tx.UseToken("zz", ann, [32]byte{}, now) }); err == nil {
		s.Error("a token that is not there was used")
	}
}
