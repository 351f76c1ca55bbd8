package serve

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"warren/coord/policy"
	"warren/internal/unixsock"
)

// person names who runs a process: the user who logged in, if the kernel has kept that through sudo, or else the user that the process runs as.
// The history of the policy has this name, and devices of a token that names no user belong to it.
func person(uid, pid int) string {
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/loginuid", pid)); err == nil {
		if login, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32); err == nil && login != 1<<32-1 {
			uid = int(login)
		}
	}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil && policy.CheckUser(u.Username) == nil {
		return u.Username
	}
	return fmt.Sprintf("uid-%d", uid)
}

func self() string { return person(os.Geteuid(), os.Getpid()) }

func personOf(c unixsock.Caller) string { return person(int(c.UID), int(c.PID)) }
