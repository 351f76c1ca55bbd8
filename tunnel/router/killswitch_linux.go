package router

import (
	"fmt"
	"net/netip"
)

// KillSwitchOn reports whether the kill switch is set on this host, whoever runs.
func KillSwitchOn() (bool, error) { return false, nil }

// LiftKillSwitch removes the kill switch. That there is none is no error.
func LiftKillSwitch() error { return nil }

// WriteKillSwitch writes the kill switch to path as a file for "nft -f", which sets it as Apply would for the interface name and with the
// same exceptions, so that it can be loaded when the host starts, before its network is up.
func WriteKillSwitch(path, name string, _ []netip.Prefix) error {
	return fmt.Errorf("kill switch of %s in %s: %w", name, path, ErrUnsupported)
}

// CleanUp takes back what a process that was killed has left on the host by the journal at that path, and returns what it did in words. It may
// be called at any time that no Router with that journal is open, and more than once. The kill switch stays.
func CleanUp(string) ([]string, error) { return nil, nil }

// Notes say in words what Apply has changed on the host beyond the interface, for people to read, the oldest first.
func (r *Router) Notes() []string { return nil }
