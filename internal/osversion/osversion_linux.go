package osversion

import "golang.org/x/sys/unix"

// Get gives the kernel's release.
func Get() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
