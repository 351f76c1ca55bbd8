//go:build !linux && !darwin && !windows

package netmon

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"
)

// poll is how often the addresses are compared where the system is not asked for announcements yet.
const poll = 5 * time.Second

func watch(ctx context.Context, ignore string, changed chan<- struct{}) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	last := look(ignore)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if now := look(ignore); now != last {
				last = now
				notify(changed)
			}
		}
	}
}

// look lists the addresses, in order.
func look(ignore string) string {
	interfaces, err := net.Interfaces()
	if err != nil {
		return ""
	}
	var out []string
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil || i.Name == ignore || i.Flags&net.FlagUp == 0 {
			continue
		}
		for _, a := range addrs {
			out = append(out, i.Name+" "+a.String())
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// asleep is not known on this system yet: a change of addresses, which mostly comes with waking, has to do.
func asleep() time.Duration { return 0 }

func ticks(ctx context.Context, every time.Duration, tick chan<- struct{}) {
	tickMonotonic(ctx, every, tick)
}
