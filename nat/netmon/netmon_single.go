//go:build darwin || windows

package netmon

import (
	"context"
	"time"

	"warren/internal/hostroutes"
)

// watch follows the system's announcements. Those of the tunnel count, too: look tells that nothing else has changed.
func watch(ctx context.Context, _ string, changed chan<- struct{}) error {
	return hostroutes.Watch(ctx, func() { notify(changed) })
}

func look(ignore string) string {
	interfaces, _ := hostroutes.Interfaces() // what goes on changing is looked at again
	table, _ := hostroutes.Read()
	return describe(interfaces, table, ignore)
}

func ticks(ctx context.Context, every time.Duration, tick chan<- struct{}) {
	tickMonotonic(ctx, every, tick)
}
