package local

import (
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func callerOf(c net.Conn) (Caller, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return Caller{}, fmt.Errorf("%T is no Unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return Caller{}, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil {
		return Caller{}, err
	}
	if credErr != nil {
		return Caller{}, credErr
	}
	return Caller{cred.Uid, cred.Gid, cred.Pid}, nil
}

// listenPrivate makes the socket 0600 before anyone can connect: it is bound under a name nobody knows, and renamed.
func listenPrivate(path string) (*net.UnixListener, error) {
	hidden := path + ".new"
	if err := os.Remove(hidden); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(hidden, 0o600); err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		l.Close()
		os.Remove(hidden)
		return nil, err
	}
	return l, nil
}

// groupPrefix marks an operator that is a group.
const groupPrefix = "group:"

// Operator is who, besides root, may use the API. The zero value is nobody.
type Operator struct {
	set   bool
	group bool
	id    uint32
}

// LookUpOperator resolves a user, or a group written group:NAME. A bare name that is no user but a group is that group.
func LookUpOperator(name string) (Operator, error) {
	if name == "" {
		return Operator{}, nil
	}
	if g, ok := strings.CutPrefix(name, groupPrefix); ok {
		return lookUpGroup(g)
	}
	u, err := user.Lookup(name)
	if err != nil {
		if o, groupErr := lookUpGroup(name); groupErr == nil {
			return o, nil
		}
		return Operator{}, fmt.Errorf("operator %q: no such user or group on this machine", name)
	}
	id, err := strconv.ParseUint(u.Uid, 10, 32)
	return Operator{set: true, id: uint32(id)}, err
}

func lookUpGroup(name string) (Operator, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return Operator{}, fmt.Errorf("operator group %q: no such group on this machine", name)
	}
	id, err := strconv.ParseUint(g.Gid, 10, 32)
	return Operator{set: true, group: true, id: uint32(id)}, err
}

// Grant opens the socket file to the operator and nobody else.
func Grant(path string, o Operator) error {
	uid, gid, mode := os.Geteuid(), os.Getegid(), os.FileMode(0o600)
	switch {
	case o.set && o.group:
		gid, mode = int(o.id), 0o660
	case o.set:
		uid = int(o.id)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	if err := os.Chown(path, uid, gid); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// Administrator reports whether c is root or the user the daemon runs as.
func (c Caller) Administrator() bool {
	return c.UID == 0 || int(c.UID) == os.Geteuid()
}

// Allowed reports whether c may use the API while o is the operator.
func (c Caller) Allowed(o Operator) bool {
	switch {
	case c.Administrator():
		return true
	case !o.set:
		return false
	case !o.group:
		return c.UID == o.id
	case c.GID == o.id:
		return true
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(c.UID), 10))
	if err != nil {
		return false
	}
	groups, err := u.GroupIds()
	return err == nil && slices.Contains(groups, strconv.FormatUint(uint64(o.id), 10))
}
