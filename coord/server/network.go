package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"

	"warren/coord/domain"
	"warren/coord/statedir"
	"warren/coord/store"
	"warren/proto/record"
	"warren/proto/tlsbind"
	pb "warren/proto/warrenv1"
)

// Errors of Open that callers tell apart.
var (
	ErrLocked = statedir.ErrLocked
	ErrNewer  = statedir.ErrNewer
)

// TLSKey is the key for self-made TLS, with the authority's word for it as coordinator.
func (s *Server) TLSKey() (*ecdsa.PrivateKey, *pb.Signed, error) {
	spki, err := tlsbind.SPKI(s.id.TLS.Public())
	if err != nil {
		return nil, nil, err
	}
	binding, err := record.BindTLS(s.id.Authority, s.network.ID, pb.TLSRole_TLS_ROLE_COORDINATOR, spki)
	return s.id.TLS, binding, err
}

// metaPolicyAt is the meta value of up to when time windows were opened and closed.
const metaPolicyAt = "policy at"

// loadNetwork reads what was drawn at the first start, or draws it.
func (s *Server) loadNetwork(ctx context.Context) error {
	return s.store.Update(ctx, func(tx store.Tx) error {
		n, authority, err := store.ReadNetwork(tx)
		if errors.Is(err, store.ErrNotFound) {
			s.firstStart = true
			return errors.Join(s.makeNetwork(tx), s.writeFirstPolicy(tx))
		}
		if err != nil {
			return err
		}
		if !authority.Equal(s.Authority()) {
			return fmt.Errorf("state directory %s: its authority key is not the one that the devices in its database were enrolled with; restore both from one backup",
				s.cfg.StateDir)
		}
		s.network = n
		return errors.Join(s.checkPrefixes(), s.writeFirstPolicy(tx))
	})
}

func (s *Server) makeNetwork(tx store.Tx) error {
	rand.Read(s.network.ID[:])
	s.network.Epoch, s.network.Generation = newEpoch(), 1
	prefixes, err := domain.RandomPrefixes(rand.Reader)
	if err != nil {
		return err
	}
	for i, p := range []netip.Prefix{s.cfg.Prefix4, s.cfg.Prefix6} {
		if !p.IsValid() {
			continue
		}
		if err := domain.CheckPrefix(p, i == 1); err != nil {
			return err
		}
		prefixes[i] = p
	}
	s.network.Prefixes = prefixes
	return store.WriteNetwork(tx, s.network, s.Authority())
}

// checkPrefixes holds the configured prefixes against those of the first start.
func (s *Server) checkPrefixes() error {
	for i, want := range []netip.Prefix{s.cfg.Prefix4, s.cfg.Prefix6} {
		if want.IsValid() && want != s.network.Prefixes[i] {
			return fmt.Errorf("prefix %s: this network was made with %s, and devices have addresses from it; use that one or none", want, s.network.Prefixes[i])
		}
	}
	return nil
}
