package netmon

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"warren/internal/netnstest"
)

// TestKernel changes a network namespace of its own and waits for each event.
func TestKernel(t *testing.T) {
	events := make(chan Event, 16)
	ctx, cancel := context.WithCancel(t.Context())
	steps, result := make(chan func() error), make(chan error)
	ready := make(chan error)
	go func() {
		if err := netnstest.Enter(); err != nil {
			ready <- err
			return
		}
		looks := func() {}
		s, err := subscribe(ctx) // on this thread, hence in its namespace
		if err == nil {
			m := New(Config{OnEvent: func(e Event) { events <- e }})
			m.source = s.follow
			look := m.look
			asked, answers := make(chan string), make(chan string)
			m.look = func(ignore string) string { // netlink's own sockets must be opened on this thread too
				asked <- ignore
				return <-answers
			}
			go m.Run(ctx)
			looks = func() {
				select {
				case ignore := <-asked:
					answers <- look(ignore)
				case <-time.After(50 * time.Millisecond):
				}
			}
		}
		ready <- err
		for err == nil {
			select {
			case f, more := <-steps:
				if !more {
					return
				}
				result <- f()
			default:
				looks()
			}
		}
	}()
	defer close(steps)
	defer cancel()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	do := func(what string, f func() error) {
		t.Helper()
		steps <- f
		if err := <-result; err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	expect := func(what string) {
		t.Helper()
		select {
		case e := <-events:
			if !e.Changed {
				t.Errorf("%s: %v", what, e)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s was not noticed", what)
		}
	}
	var link netlink.Link = &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "d0"}, PeerName: "d1"}
	do("link up", func() error {
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("d1")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(peer); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	do("address", func() error {
		addr, err := netlink.ParseAddr("192.0.2.1/24")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(link, addr)
	})
	expect("a new address")
	do("route", func() error {
		_, to, err := net.ParseCIDR("198.51.100.0/24")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to})
	})
	expect("a new route")
	do("link gone", func() error { return netlink.LinkDel(link) })
	expect("a link that is gone")
}

// TestBootClockTicks: the kernel's timer delivers, again and again, and ends with its context.
func TestBootClockTicks(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	tick, done := make(chan struct{}, 1), make(chan error)
	go func() { done <- tickBoot(ctx, time.Millisecond, tick) }()
	for range 3 {
		<-tick
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
