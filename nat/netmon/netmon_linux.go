package netmon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/internal/netdump"
)

// watch follows netlink's announcements in the network namespace of the process.
func watch(ctx context.Context, ignore string, changed chan<- struct{}) error {
	s, err := subscribe(ctx)
	if err != nil {
		return err
	}
	return s.follow(ctx, ignore, changed)
}

// subscription is a set of open netlink sockets.
type subscription struct {
	cancel context.CancelFunc
	failed chan error
	addrs  chan netlink.AddrUpdate
	links  chan netlink.LinkUpdate
	routes chan netlink.RouteUpdate
}

// subscribe opens the sockets in the calling thread's network namespace.
func subscribe(ctx context.Context) (*subscription, error) {
	ctx, cancel := context.WithCancel(ctx)
	failed := make(chan error, 3)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	addrs := make(chan netlink.AddrUpdate)
	links := make(chan netlink.LinkUpdate)
	routes := make(chan netlink.RouteUpdate)
	err := errors.Join(
		netlink.AddrSubscribeWithOptions(addrs, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: fail}),
		netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: fail}),
		netlink.RouteSubscribeWithOptions(routes, ctx.Done(), netlink.RouteSubscribeOptions{ErrorCallback: fail}),
	)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return &subscription{cancel, failed, addrs, links, routes}, nil
}

// follow reports what counts until ctx ends or a socket fails.
func (s *subscription) follow(ctx context.Context, ignore string, changed chan<- struct{}) error {
	// The goroutines behind the channels end when their channels are drained and their context is done.
	defer func() {
		s.cancel()
		go drain(s.addrs)
		go drain(s.links)
		go drain(s.routes)
	}()
	state := map[int]linkState{}
	for {
		counts, open := false, true
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.failed:
			return fmt.Errorf("netlink: %w", err)
		case u, ok := <-s.addrs:
			open, counts = ok, ok && !isNamed(u.LinkIndex, ignore)
		case u, ok := <-s.links:
			open = ok
			if ok && u.Attrs() != nil {
				counts = linkChanged(state, u) && u.Attrs().Name != ignore
			}
		case u, ok := <-s.routes:
			open, counts = ok, ok && routeCounts(u, ignore)
		}
		if !open {
			return errors.New("netlink: the subscription ended")
		}
		if counts {
			notify(changed)
		}
	}
}

// linkState is what makes a link usable; counters and the like are announced too.
type linkState struct {
	up    bool
	state netlink.LinkOperState
}

func linkChanged(known map[int]linkState, u netlink.LinkUpdate) bool {
	a := u.Attrs()
	if u.Header.Type == unix.RTM_DELLINK {
		delete(known, a.Index)
		return true
	}
	now := linkState{a.Flags&net.FlagUp != 0, a.OperState}
	old, seen := known[a.Index]
	known[a.Index] = now
	return !seen || old != now
}

// routeCounts leaves out routes of the tunnel and those of the local and multicast kinds, which come and go with addresses.
func routeCounts(u netlink.RouteUpdate, ignore string) bool {
	if u.Route.Table == unix.RT_TABLE_LOCAL || u.Route.Type == unix.RTN_MULTICAST {
		return false
	}
	return !isNamed(u.Route.LinkIndex, ignore)
}

// isNamed reports whether the link has this name. One that is gone already has none, and counts as another.
func isNamed(index int, name string) bool {
	if index == 0 || name == "" {
		return false
	}
	i, err := net.InterfaceByIndex(index)
	return err == nil && i.Name == name
}

func drain[T any](c <-chan T) {
	for range c {
	}
}

// look lists the addresses and routes that packets may take, in order. Link-local addresses are no candidates, and come and go by
// themselves.
func look(ignore string) string {
	var out []string
	links, _ := netdump.Whole(netlink.LinkList) // what goes on changing is looked at again
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, _ := netdump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	for _, a := range addrs {
		if names[a.LinkIndex] != ignore && !a.IP.IsLinkLocalUnicast() {
			out = append(out, fmt.Sprintf("address %s on %d", a.IPNet, a.LinkIndex))
		}
	}
	routes, _ := netdump.Whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	for _, r := range routes {
		if names[r.LinkIndex] != ignore && (r.Dst == nil || !r.Dst.IP.IsLinkLocalUnicast()) {
			out = append(out, fmt.Sprintf("route %s by %s on %d", r.Dst, r.Gw, r.LinkIndex))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// asleep is the time by which the boot clock, which goes on in sleep, is ahead of the monotonic one.
func asleep() time.Duration {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return 0
	}
	return time.Duration(boot.Nano() - mono.Nano())
}

// ticks runs by the boot clock: what fell due in sleep comes at once on waking.
func ticks(ctx context.Context, every time.Duration, tick chan<- struct{}) {
	if tickBoot(ctx, every, tick) != nil {
		tickMonotonic(ctx, every, tick)
	}
}

// tickBoot fails if the kernel has no such timer.
func tickBoot(ctx context.Context, every time.Duration, tick chan<- struct{}) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return err
	}
	timer := os.NewFile(uintptr(fd), "timerfd")
	defer timer.Close()
	step := unix.NsecToTimespec(every.Nanoseconds())
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: step, Value: step}, nil); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { timer.Close() })
	defer stop()
	for expirations := make([]byte, 8); ; {
		if _, err := timer.Read(expirations); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("timer: %w", err)
		}
		notify(tick)
	}
}
