package domain

import (
	"fmt"
	"time"

	"warren/proto/key"
)

// SelfChange is one signed change that a device asks for. One of Leave, Name, Node and Advertise is set.
type SelfChange struct {
	// By is the key that signed, and Sequence the number that it signed.
	By       key.DevicePublic
	Sequence uint64
	Leave    bool
	Name     string
	Node     key.NodePublic
	// Advertise says that Routes are all that the device offers to carry.
	Advertise bool
	Routes    []Advertised
}

// CheckSelf decides whether c may be considered for d at all: a device changes itself only, and each change once.
func CheckSelf(d *Device, c SelfChange) error {
	if !c.By.Equal(d.Key) {
		return fmt.Errorf("%w, and %s is not %s", ErrNotOwn, c.By.Short(), d.Key.Short())
	}
	if c.Sequence <= d.Sequence {
		return fmt.Errorf("%w: its number is %d, and %d was seen", ErrSequence, c.Sequence, d.Sequence)
	}
	return nil
}

// ApplySelf makes the next state of d as its device asked. An expired device can still leave, and one that left can leave again without
// effect. When it refuses, the caller stores the sequence number all the same, or the change could be played again at a better time.
func ApplySelf(n *Network, d *Device, c SelfChange, taken Taken, now time.Time) (*Device, error) {
	if err := CheckSelf(d, c); err != nil {
		return nil, err
	}
	if c.Leave && d.Removed {
		return d, nil
	}
	if c.Leave {
		return Remove(n, d, now)
	}
	if !d.Removed && d.Expired(now) {
		return nil, fmt.Errorf("%w at %s; renew it by \"warren up\" with a new token", ErrExpired, d.ExpiresAt.UTC().Format(time.RFC3339))
	}
	switch {
	case !c.Node.IsZero():
		return RotateNodeKey(n, d, c.Node, taken.Node)
	case c.Advertise:
		return advertise(n, d, c.Routes)
	}
	return Rename(n, d, c.Name, taken.Name)
}
