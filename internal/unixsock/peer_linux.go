package unixsock

import "golang.org/x/sys/unix"

func credentials(fd int) (Caller, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Caller{}, err
	}
	return Caller{cred.Uid, cred.Gid, cred.Pid}, nil
}
