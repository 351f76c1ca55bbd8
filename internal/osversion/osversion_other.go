//go:build !linux && !darwin && !windows

package osversion

// Get is not known here.
func Get() string { return "" }
