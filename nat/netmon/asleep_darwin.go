package netmon

import (
	"time"

	"golang.org/x/sys/unix"
)

// asleep is the time by which the monotonic clock, which goes on in sleep, is ahead of the one that stands still.
func asleep() time.Duration {
	var all, awake unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &all) != nil || unix.ClockGettime(unix.CLOCK_UPTIME_RAW, &awake) != nil {
		return 0
	}
	return time.Duration(all.Nano() - awake.Nano())
}
