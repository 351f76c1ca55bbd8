// Package domain is the pure core of coordination: what a network, its join tokens and its devices are, and how they may change. It
// holds no clock, no database and no socket: callers pass the time, randomness and what is taken already, and store what it returns.
//
// Enrol, Rename, Expire, Remove, Restore, RuleRoutes and ApplySelf make the next state of a device and leave the old one as it was, and Settle
// works out which routes it then carries; NewToken and Token.Admit rule tokens; PickName and PickAddresses choose what a new device gets. Which peers a device
// may know of, package policy/compile says.
package domain

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"warren/proto/key"
	"warren/proto/record"
)

// Errors that callers tell apart. Each comes wrapped in a sentence for a person.
var (
	ErrTokenUnknown = errors.New("join token is not known")
	ErrTokenExpired = errors.New("join token has expired")
	ErrTokenUsed    = errors.New("join token is used up")
	ErrTokenRevoked = errors.New("join token was revoked")
	ErrTokenRole    = errors.New("join token is for something else")
	ErrName         = errors.New("name cannot be had")
	// ErrNameTaken is an ErrName too.
	ErrNameTaken = fmt.Errorf("%w", ErrName)
	ErrNodeKey   = errors.New("node key cannot be had")
	ErrRemoved   = errors.New("device was removed")
	ErrExpired   = errors.New("device has expired")
	ErrFull      = errors.New("no address is free")
	ErrNotOwn    = errors.New("a device changes itself only")
	ErrSequence  = errors.New("change is not newer than the last one")
)

// Network is what never changes after the first start, except Generation and Epoch.
type Network struct {
	ID       record.NetworkID
	Prefixes []netip.Prefix // one IPv4, one IPv6
	// Generation is raised when a backup is restored, Epoch then drawn anew.
	Generation, Epoch uint64
}

// Device is a device as the coordinator knows it: its record and what is not the peers' business.
type Device struct {
	record.Device
	Host
	LastSeen  time.Time
	RemovedAt time.Time
	// Gone says that peers have been told that the device expired.
	Gone bool
	// Sequence is the highest of the device's signed changes.
	Sequence uint64
	// Advertised is what it offers to carry, Rulings who may have it carry what; both in order of prefixes. Routes follow from them, by Settle.
	Advertised []Advertised
	Rulings    []Ruling
}

// Host is what a device says of itself when it enrols and logs in. Nobody can check it.
type Host struct {
	Hostname  string
	OS        string // by Go's name for it
	OSVersion string // of the system or, on Linux, its kernel
	// AgentVersion is that of warren.
	AgentVersion string
}

// Clipped is h as it may be kept and shown.
func (h Host) Clipped() Host {
	return Host{Clip(h.Hostname), Clip(h.OS), Clip(h.OSVersion), Clip(h.AgentVersion)}
}

// Request is what a device asks for when it enrols. Its form has been checked except for Name and Hostname.
type Request struct {
	Device key.DevicePublic
	Node   key.NodePublic
	Name   string
	Host
	// Counter is not less than any version counter given so far, so that a key which was forgotten never gets an old version again.
	Counter uint64
}

// Taken tells what other devices have already.
type Taken struct {
	Name    func(string) bool
	Address func(netip.Addr) bool
	// Node is asked about current and next keys.
	Node func(key.NodePublic) bool
}

// Enrol makes a device of r, or renews old, which may be nil, by a token that admitted it. If the record stays as it was, so does its
// version.
func Enrol(n *Network, old *Device, r Request, t *Token, taken Taken, random io.Reader, now time.Time) (*Device, error) {
	d := &Device{}
	if old != nil {
		if old.Removed {
			return nil, fmt.Errorf("%w; it needs a new key: run \"warren leave --force\" there, then join again", ErrRemoved)
		}
		*d = *old
	} else {
		addrs, err := PickAddresses(n.Prefixes, taken.Address, random)
		if err != nil {
			return nil, err
		}
		d.Network, d.Key, d.Addresses, d.CreatedAt = n.ID, r.Device, addrs, now.Truncate(time.Second)
		d.Version = record.Version{Generation: n.Generation, Counter: r.Counter}
	}
	if old == nil || (r.Name != "" && r.Name != old.Name) {
		name, err := PickName(r.Name, r.Hostname, taken.Name, random)
		if err != nil {
			return nil, err
		}
		d.Name = name
	}
	if !d.hasNodeKey(r.Node) && taken.Node(r.Node) {
		return nil, errNodeKeyTaken(r.Node)
	}
	d.NodeKey, d.NextNodeKey = r.Node, key.NodePublic{}
	d.Tags, d.Owner, d.Ephemeral = t.Tags, t.Owner, t.Ephemeral
	d.ExpiresAt, d.Gone = time.Time{}, false
	d.Host = r.Clipped()
	d.LastSeen = now
	if old == nil || old.Gone || !sameRecord(old, d) {
		d.bump(n)
	}
	return d, nil
}

func (d *Device) hasNodeKey(k key.NodePublic) bool {
	return !k.IsZero() && (k.Equal(d.NodeKey) || k.Equal(d.NextNodeKey))
}

func errNodeKeyTaken(k key.NodePublic) error {
	return fmt.Errorf("%w: another device uses %s; a node key belongs to one device, make a new one", ErrNodeKey, k.Short())
}

// sameRecord compares what peers see of a and b besides the version and Routes, which Settle compares. Addresses do not change yet.
func sameRecord(a, b *Device) bool {
	return a.Name == b.Name && a.Owner == b.Owner && a.Ephemeral == b.Ephemeral && a.Removed == b.Removed &&
		slices.Equal(a.Tags, b.Tags) && a.ExpiresAt.Equal(b.ExpiresAt) &&
		a.NodeKey.Equal(b.NodeKey) && a.NextNodeKey.Equal(b.NextNodeKey)
}

// Clip bounds what a device says about itself, and drops what could confuse a terminal, such as a change of writing direction.
func Clip(s string) string {
	const most = 128
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

// bump makes the next version.
func (d *Device) bump(n *Network) {
	d.Version.Generation = max(d.Version.Generation, n.Generation)
	d.Version.Counter++
}

// Rename gives d another name. It is unchanged if it has that name already.
func Rename(n *Network, d *Device, name string, taken func(string) bool) (*Device, error) {
	if d.Removed {
		return nil, ErrRemoved
	}
	if name == d.Name {
		return d, nil
	}
	if name == "" {
		return nil, fmt.Errorf("%w: %w", ErrName, record.CheckLabel(name))
	}
	name, err := PickName(name, "", taken, nil)
	if err != nil {
		return nil, err
	}
	next := *d
	next.Name = name
	next.bump(n)
	return &next, nil
}

// RotateNodeKey announces a next node key beside the current one, which both hold until UseNodeKey. Announcing the current key takes an
// announcement back; repeating an announcement changes nothing.
func RotateNodeKey(n *Network, d *Device, k key.NodePublic, taken func(key.NodePublic) bool) (*Device, error) {
	next := *d
	switch {
	case d.Removed:
		return nil, ErrRemoved
	case k.Equal(d.NodeKey) && d.NextNodeKey.IsZero(), !k.Equal(d.NodeKey) && k.Equal(d.NextNodeKey):
		return d, nil
	case k.Equal(d.NodeKey):
		next.NextNodeKey = key.NodePublic{}
	case taken(k):
		return nil, errNodeKeyTaken(k)
	default:
		next.NextNodeKey = k
	}
	next.bump(n)
	return &next, nil
}

// UseNodeKey is for when the device says which key it uses: using the next one ends the rotation.
func UseNodeKey(n *Network, d *Device, k key.NodePublic) (*Device, error) {
	switch {
	case d.Removed:
		return nil, ErrRemoved
	case !d.hasNodeKey(k):
		return nil, fmt.Errorf("%w: %s is not the key of this device's record; join again with \"warren up TOKEN\"", ErrNodeKey, k.Short())
	case k.Equal(d.NodeKey):
		return d, nil
	}
	next := *d
	next.NodeKey, next.NextNodeKey = k, key.NodePublic{}
	next.bump(n)
	return &next, nil
}

// Expire sets when d runs out. If that is not after now, its peers lose sight of it at once.
func Expire(n *Network, d *Device, at, now time.Time) (*Device, error) {
	if d.Removed {
		return nil, ErrRemoved
	}
	next := *d
	next.ExpiresAt = at
	next.Gone = next.Expired(now)
	next.bump(n)
	return &next, nil
}

// Lapse takes d out of its peers' sight if it has expired; otherwise d stays as it is.
func Lapse(n *Network, d *Device, now time.Time) *Device {
	if d.Removed || d.Gone || !d.Expired(now) {
		return d
	}
	next := *d
	next.Gone = true
	next.bump(n)
	return &next
}

// Remove makes the tombstone of d.
func Remove(n *Network, d *Device, now time.Time) (*Device, error) {
	if d.Removed {
		return nil, ErrRemoved
	}
	next := *d
	next.Removed, next.RemovedAt = true, now
	next.Routes, next.Advertised, next.Rulings = nil, nil, nil
	next.bump(n)
	return &next, nil
}

// Restore makes d's state in a raised generation, tombstones too.
func Restore(n *Network, d *Device) *Device {
	next := *d
	next.bump(n)
	return &next
}

// Member reports whether d takes part in the network at now.
func (d *Device) Member(now time.Time) bool { return !d.Removed && !d.Expired(now) }

// Visible tells whether any peer may know of d; which do, the policy says.
func (d *Device) Visible() bool { return !d.Removed && !d.Gone }
