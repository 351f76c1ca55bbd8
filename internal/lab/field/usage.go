package field

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what processes have taken of the machine.
type Usage struct {
	CPU      time.Duration // user and system, since they started
	Resident int64         // bytes
}

// UsageOf adds up the usage of processes.
func UsageOf(pids ...int) (Usage, error) {
	var sum Usage
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return Usage{}, fmt.Errorf("usage of process %d: %w", pid, err)
		}
		u, err := parseStat(string(text), os.Getpagesize())
		if err != nil {
			return Usage{}, fmt.Errorf("usage of process %d: %w", pid, err)
		}
		sum.CPU += u.CPU
		sum.Resident += u.Resident
	}
	return sum, nil
}

// clockTick is the unit of /proc/PID/stat on every Linux (sysconf(_SC_CLK_TCK)).
const clockTick = 10 * time.Millisecond

// Fields of /proc/PID/stat behind the program's name, which may itself hold blanks and parentheses; proc_pid_stat(5) counts from one, and
// from the process id.
const (
	statUser     = 14 - 3
	statSystem   = 15 - 3
	statResident = 24 - 3 // pages
)

func parseStat(text string, pageSize int) (Usage, error) {
	end := strings.LastIndex(text, ")")
	fields := strings.Fields(text[end+1:])
	if end < 0 || len(fields) <= statResident {
		return Usage{}, fmt.Errorf("not in the form of /proc/PID/stat: %q", text)
	}
	var got [3]int64
	for i, at := range [3]int{statUser, statSystem, statResident} {
		n, err := strconv.ParseInt(fields[at], 10, 64)
		if err != nil || n < 0 {
			return Usage{}, fmt.Errorf("field %d of /proc/PID/stat is %q, not a number", at+3, fields[at])
		}
		got[i] = n
	}
	return Usage{CPU: time.Duration(got[0]+got[1]) * clockTick, Resident: got[2] * int64(pageSize)}, nil
}
