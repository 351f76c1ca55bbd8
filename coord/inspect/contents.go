package inspect

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"warren/coord/domain"
	"warren/coord/policy"
	"warren/coord/statedir"
	"warren/coord/store"
	"warren/coord/store/sqlite"
	"warren/proto/key"
	"warren/proto/record"
)

// tolerance is how far a time in the database may be ahead of the clock.
const tolerance = 5 * time.Minute

// contents checks what a copy of the database holds. Its schema may be brought up to date.
func (r *Report) contents(ctx context.Context, path string, keys statedir.Keys) {
	st, err := sqlite.Open(ctx, path)
	if err != nil {
		r.add("contents", err, "")
		return
	}
	defer st.Close()
	err = st.View(ctx, func(tx store.Tx) error {
		n, authority, err := store.ReadNetwork(tx)
		if errors.Is(err, store.ErrNotFound) {
			err = errors.New("the database holds no network; restore a backup")
		}
		if err == nil && !keys.Authority.IsZero() && !authority.Equal(keys.Authority.Public()) {
			err = errors.New("the authority key is not the one that the devices in the database were enrolled with; restore both from one backup")
		}
		r.add("network", err, "%s, generation %d", n.ID, n.Generation)
		if err != nil {
			return nil
		}
		r.Network = &n
		devices, err := tx.Devices()
		r.devices(devices, err, n, authority)
		r.policy(tx)
		r.newest, r.newestAt = store.Newest(devices)
		return nil
	})
	if err != nil {
		r.add("contents", err, "")
	}
}

// devices checks the signature of each record, and that it may be one of this network.
func (r *Report) devices(all []*store.Device, err error, n domain.Network, authority key.AuthorityPublic) {
	if err != nil { // of a row that cannot even be read
		r.add("records", fmt.Errorf("%w; restore a backup", err), "")
		return
	}
	var errs []error
	members := 0
	for _, d := range all {
		if err := device(d, n, authority); err != nil {
			errs = append(errs, fmt.Errorf("device %s (%s): %w", d.Name, d.Key.Short(), err))
		}
		if !d.Removed {
			members++
		}
	}
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	if err = errors.Join(errs...); err != nil {
		err = fmt.Errorf("%w; restore a backup", err)
	}
	r.add("records", err, "%d devices and %d removed ones, all signed by the authority", members, len(all)-members)
}

func device(d *store.Device, n domain.Network, authority key.AuthorityPublic) error {
	if _, err := record.OpenDevice(authority, n.ID, d.Signed); err != nil {
		return err
	}
	if d.Version.Generation > n.Generation {
		return fmt.Errorf("its record is of generation %d, and the network of %d", d.Version.Generation, n.Generation)
	}
	outside := func(a netip.Addr) bool {
		return !slices.ContainsFunc(n.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if i := slices.IndexFunc(d.Addresses, outside); i >= 0 {
		return fmt.Errorf("address %s is not one of the network's", d.Addresses[i])
	}
	return nil
}

// policy checks that the document in force, and the one that it may be rolled back to, are understood.
func (r *Report) policy(tx store.Tx) {
	current, active, err := store.InForce(tx)
	if err != nil {
		r.add("policy", err, "")
		return
	}
	for _, p := range []*store.Policy{active, current} {
		if _, err = policy.Parse(p.Text); err != nil {
			err = fmt.Errorf("policy %d: %w; install the version that wrote it, or restore a backup", p.Number, err)
			break
		}
	}
	r.add("policy", err, "%d is in force", current.Number)
}

// clock finds a clock that was set back: what has happened is not in the future.
func clock(name string, at, now time.Time) error {
	if !at.After(now.Add(tolerance)) {
		return nil
	}
	return fmt.Errorf("it says %s, and device %s was here at %s; set this machine's clock", now.UTC().Format(time.RFC3339), name, at.UTC().Format(time.RFC3339))
}
