package unixsock

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// xucredVersion is the only one that there is (XUCRED_VERSION).
const xucredVersion = 0

// credentials are those that the caller had when it connected.
func credentials(fd int) (Caller, error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return Caller{}, err
	}
	if cred.Version != xucredVersion || cred.Ngroups < 1 {
		return Caller{}, fmt.Errorf("credentials of version %d with %d groups", cred.Version, cred.Ngroups)
	}
	pid, err := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	if err != nil {
		return Caller{}, err
	}
	return Caller{cred.Uid, cred.Groups[0], int32(pid)}, nil
}
