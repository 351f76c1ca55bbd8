package backup

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"warren/coord/domain"
	"warren/coord/statedir"
	"warren/coord/store"
	"warren/coord/store/sqlite"
	"warren/proto/key"
)

// state is what is compared of two databases.
type state struct {
	network domain.Network
	devices []*store.Device
}

// read reads a database without changing it.
func read(ctx context.Context, path, scratch string) (*state, error) {
	dir, err := os.MkdirTemp(scratch, "warren-restore-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	copied := filepath.Join(dir, statedir.Database)
	if _, err := sqlite.Copy(ctx, path, copied); err != nil {
		return nil, err
	}
	st, err := sqlite.Open(ctx, copied)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	s := new(state)
	err = st.View(ctx, func(tx store.Tx) (err error) {
		if s.network, _, err = store.ReadNetwork(tx); err != nil {
			return err
		}
		s.devices, err = tx.Devices()
		return err
	})
	return s, err
}

// generation of the network; 0 if nothing is known.
func (s *state) generation() uint64 {
	if s == nil {
		return 0
	}
	return s.network.Generation
}

// compare gives the names of devices that had been removed in s and are members of now, and of members of s that now does not know.
func (s *state) compare(now *state) (again, lost []string) {
	if s == nil || s.network.ID != now.network.ID {
		return nil, nil
	}
	known := map[[key.Size]byte]*store.Device{}
	for _, d := range now.devices {
		known[d.Key.Raw()] = d
	}
	for _, d := range s.devices {
		switch n := known[d.Key.Raw()]; {
		case d.Removed && n != nil && !n.Removed:
			again = append(again, n.Name)
		case !d.Removed && n == nil:
			lost = append(lost, d.Name)
		}
	}
	slices.Sort(again)
	slices.Sort(lost)
	return again, lost
}
