package local

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"warren/internal/unixsock"
)

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
		uid, mode = int(o.id), 0o660
	}
	// A service without CAP_FOWNER changes the mode of its own files only, and one without CAP_DAC_OVERRIDE reaches an operator's by its group.
	if err := os.Chown(path, os.Geteuid(), os.Getegid()); err != nil {
		return err
	}
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	return os.Chown(path, uid, gid)
}

// Admits reports whether c may use the API while o is the operator.
func (o Operator) Admits(c unixsock.Caller) bool {
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
