package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"warren/coord/domain"
	"warren/proto/key"
	"warren/proto/record"
)

// Names of meta values.
const (
	metaNetwork    = "network"
	metaPrefixes   = "prefixes"
	metaEpoch      = "epoch"
	metaGeneration = "generation"
	metaAuthority  = "authority" // the public key, so that a database and another network's key are not mixed
)

// ReadNetwork gives the network, and the authority that its devices were enrolled with. The error is ErrNotFound if there is none yet; that a part
// of it is not there is another error.
func ReadNetwork(tx Tx) (n domain.Network, authority key.AuthorityPublic, err error) {
	id, err := tx.Meta(metaNetwork)
	if err != nil {
		return n, authority, err
	}
	read := func() error {
		if n.ID, err = record.NetworkIDFromBytes(id); err != nil {
			return err
		}
		public, err := tx.Meta(metaAuthority)
		if err != nil {
			return fmt.Errorf("%s: %w", metaAuthority, err)
		}
		if authority, err = key.AuthorityPublicFromBytes(public); err != nil {
			return fmt.Errorf("%s: %w", metaAuthority, err)
		}
		if n.Epoch, err = MetaNumber(tx, metaEpoch); err != nil {
			return err
		}
		if n.Generation, err = MetaNumber(tx, metaGeneration); err != nil {
			return err
		}
		n.Prefixes, err = readPrefixes(tx)
		return err
	}
	if err := read(); err != nil {
		return n, authority, fmt.Errorf("database is damaged: %v; restore a backup", err) // which is not ErrNotFound
	}
	return n, authority, nil
}

// WriteNetwork stores both. The network has two prefixes, that of IPv4 first.
func WriteNetwork(tx Tx, n domain.Network, authority key.AuthorityPublic) error {
	return errors.Join(
		tx.SetMeta(metaNetwork, n.ID[:]),
		tx.SetMeta(metaAuthority, authority.Bytes()),
		SetMetaNumber(tx, metaEpoch, n.Epoch),
		SetMetaNumber(tx, metaGeneration, n.Generation),
		tx.SetMeta(metaPrefixes, []byte(n.Prefixes[0].String()+" "+n.Prefixes[1].String())),
	)
}

// MetaNumber reads a number that SetMetaNumber stored.
func MetaNumber(tx Tx, name string) (uint64, error) {
	b, err := tx.Meta(name)
	if err == nil && len(b) != 8 {
		err = errors.New("has not 8 bytes")
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return binary.BigEndian.Uint64(b), nil
}

// SetMetaNumber stores a number under a name.
func SetMetaNumber(tx Tx, name string, n uint64) error {
	return tx.SetMeta(name, binary.BigEndian.AppendUint64(nil, n))
}

// Newest gives the name of the device that was here last, and when that was; a clock that says less was set back.
func Newest(devices []*Device) (name string, at time.Time) {
	for _, d := range devices {
		for _, seen := range []time.Time{d.LastSeen, d.CreatedAt} {
			if seen.After(at) {
				name, at = d.Name, seen
			}
		}
	}
	return name, at
}

func readPrefixes(tx Tx) (out []netip.Prefix, err error) {
	b, err := tx.Meta(metaPrefixes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", metaPrefixes, err)
	}
	var four, six string
	if _, err := fmt.Sscan(string(b), &four, &six); err != nil {
		return nil, fmt.Errorf("%s: %q: %w", metaPrefixes, b, err)
	}
	for _, text := range []string{four, six} {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", metaPrefixes, err)
		}
		out = append(out, p)
	}
	return out, nil
}
