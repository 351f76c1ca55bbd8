package client

import (
	"fmt"

	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// maxBlocked bounds how many devices a relay refuses by name.
const maxBlocked = 1 << 16

// blocklist is what a relay learns from its Watch: whom not to serve. Between the marks of a snapshot absence means that a device may be
// served again.
type blocklist struct {
	cfg      *Config
	known    map[[key.Size]byte]key.DevicePublic
	snapshot map[[key.Size]byte]key.DevicePublic
}

// begin forgets a snapshot that was cut off.
func (b *blocklist) begin() { b.snapshot = nil }

func (b *blocklist) handle(m *pb.WatchResponse) error {
	switch e := m.GetEvent().(type) {
	case *pb.WatchResponse_SnapshotBegin:
		b.snapshot = map[[key.Size]byte]key.DevicePublic{}
	case *pb.WatchResponse_SnapshotEnd:
		for k, d := range b.known {
			if _, still := b.snapshot[k]; !still {
				b.cfg.OnBlocked(d, false)
			}
		}
		b.known, b.snapshot = b.snapshot, nil
	case *pb.WatchResponse_Change:
		if e.Change.GetKind() == pb.Kind_KIND_BLOCKED {
			return b.change(e.Change)
		}
	}
	return nil
}

func (b *blocklist) change(c *pb.Change) error {
	d, err := key.DevicePublicFromBytes(c.GetId())
	if err != nil {
		return fmt.Errorf("blocked device: %w", err)
	}
	if b.known == nil {
		b.known = map[[key.Size]byte]key.DevicePublic{}
	}
	into := b.known
	if b.snapshot != nil {
		into = b.snapshot
	}
	if c.GetBody() == nil {
		delete(into, d.Raw())
		if b.snapshot == nil {
			b.cfg.OnBlocked(d, false)
		}
		return nil
	}
	// The word to block is the authority's own: a record of this device that is removed or has an end.
	r, err := record.OpenDevice(b.cfg.Authority, b.cfg.Network, c.GetBody())
	if err != nil {
		return err
	}
	if !r.Key.Equal(d) || (!r.Removed && !r.Expired(b.cfg.Now())) {
		return fmt.Errorf("the record of %s does not say that it is blocked", d.Short())
	}
	if len(into) >= maxBlocked {
		return fmt.Errorf("more than %d blocked devices", maxBlocked)
	}
	into[d.Raw()] = d
	b.cfg.OnBlocked(d, true)
	return nil
}
