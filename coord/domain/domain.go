// Package domain is the pure core of coordination: what a network, its join tokens and its devices are, and how they may change. It
// holds no clock, no database and no socket: callers pass the time, randomness and what is taken already, and store what it returns.
//
// Enrol, Rename, Expire, Remove and RotateNodeKey make the next state of a device; NewToken and Token.Admit rule tokens; PickName
// and PickAddresses choose what a new device gets.
package domain

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

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
	ErrRemoved      = errors.New("device was removed")
	ErrFull         = errors.New("no address is free")
)

// Network is what never changes after the first start, except Generation.
type Network struct {
	ID       record.NetworkID
	Prefixes []netip.Prefix // one IPv4, one IPv6
	// Generation is raised when a backup is restored, Epoch then drawn anew.
	Generation, Epoch uint64
}

// Device is a device as the coordinator knows it: its record and what is not the peers' business.
type Device struct {
	record.Device
	Hostname, OS, AgentVersion string
	LastSeen                   time.Time
	RemovedAt                  time.Time
	// Gone says that peers have been told that the device expired.
	Gone bool
	// Sequence is the highest of the device's signed changes.
	Sequence uint64
}

// Request is what a device asks for when it enrols. Its form has been checked except for Name and Hostname.
type Request struct {
	Device                     key.DevicePublic
	Node                       key.NodePublic
	Name                       string
	Hostname, OS, AgentVersion string
}

// Taken tells what other devices have already.
type Taken struct {
	Name    func(string) bool
	Address func(netip.Addr) bool
}

// Enrol makes a device of r, or renews old, which may be nil, by a token that admitted it.
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
	}
	if old == nil || (r.Name != "" && r.Name != old.Name) {
		name, err := PickName(r.Name, r.Hostname, taken.Name)
		if err != nil {
			return nil, err
		}
		d.Name = name
	}
	d.NodeKey, d.NextNodeKey = r.Node, key.NodePublic{}
	d.Tags, d.Owner, d.Ephemeral = t.Tags, t.Owner, t.Ephemeral
	d.ExpiresAt, d.Gone = time.Time{}, false
	d.Hostname, d.OS, d.AgentVersion = Clip(r.Hostname), Clip(r.OS), Clip(r.AgentVersion)
	d.LastSeen = now
	d.bump(n)
	return d, nil
}

// Clip bounds what a device says about itself, and drops what could confuse a terminal.
func Clip(s string) string {
	const most = 128
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' || (r >= 0x80 && r < 0xa0) {
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
	if d.Version.Generation < n.Generation {
		d.Version = record.Version{Generation: n.Generation}
	}
	d.Version.Counter++
}

// Rename gives d another name.
func Rename(n *Network, d *Device, name string, taken func(string) bool) (*Device, error) {
	if d.Removed {
		return nil, ErrRemoved
	}
	name, err := PickName(name, "", taken)
	if err != nil {
		return nil, err
	}
	next := *d
	next.Name = name
	next.bump(n)
	return &next, nil
}

// RotateNodeKey announces a next node key, or makes the announced one current.
func RotateNodeKey(n *Network, d *Device, k key.NodePublic) (*Device, error) {
	if d.Removed {
		return nil, ErrRemoved
	}
	next := *d
	switch {
	case k.Equal(d.NodeKey):
		next.NextNodeKey = key.NodePublic{}
	case !d.NextNodeKey.IsZero() && k.Equal(d.NextNodeKey):
		next.NodeKey, next.NextNodeKey = k, key.NodePublic{}
	default:
		next.NextNodeKey = k
	}
	next.bump(n)
	return &next, nil
}

// Expire sets when d runs out.
func Expire(n *Network, d *Device, at time.Time) (*Device, error) {
	if d.Removed {
		return nil, ErrRemoved
	}
	next := *d
	next.ExpiresAt, next.Gone = at, false
	next.bump(n)
	return &next, nil
}

// Remove makes the tombstone of d.
func Remove(n *Network, d *Device, now time.Time) (*Device, error) {
	if d.Removed {
		return nil, ErrRemoved
	}
	next := *d
	next.Removed, next.RemovedAt = true, now
	next.bump(n)
	return &next, nil
}

// Member reports whether d takes part in the network at now.
func (d *Device) Member(now time.Time) bool { return !d.Removed && !d.Expired(now) }

// maxSuffix bounds the search for a free name.
const maxSuffix = 100000

// PickName checks the wished name, or makes one from hostname: its first label in lower case, made unique by -2, -3 …
func PickName(wish, hostname string, taken func(string) bool) (string, error) {
	if wish != "" {
		if err := record.CheckLabel(wish); err != nil {
			return "", fmt.Errorf("%w: %w", ErrName, err)
		}
		if taken(wish) {
			return "", fmt.Errorf("%w: another device is called %q already; choose another with --name", ErrName, wish)
		}
		return wish, nil
	}
	base := labelFrom(hostname)
	for i := 1; i < maxSuffix; i++ {
		name := base
		if i > 1 {
			suffix := fmt.Sprintf("-%d", i)
			name = strings.TrimRight(base[:min(len(base), record.MaxLabel-len(suffix))], "-") + suffix
		}
		if !taken(name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: too many devices are called %q; choose another with --name", ErrName, base)
}

func labelFrom(hostname string) string {
	host, _, _ := strings.Cut(strings.ToLower(hostname), ".")
	host = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r == '-', r == '_', r == ' ':
			return '-'
		}
		return -1
	}, host)
	host = strings.Trim(host[:min(len(host), record.MaxLabel)], "-")
	if host == "" || host == "localhost" {
		return "device"
	}
	return host
}
