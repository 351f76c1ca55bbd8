// Package clients accepts connections of a listener, a bounded number at a time, as the agent's proxies and forwarded ports do. Serve is all there is to call.
package clients

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// pause is how long to wait after a failed Accept, such as for lack of file descriptors.
const pause = 100 * time.Millisecond

// Serve has each connection of l served, at most so many at a time; others wait in the kernel's queue. It returns when ctx has ended, or somebody has closed
// l, and all are served; then l is closed. serve is to end with ctx, and closes its connection. failed is told of each Accept that fails.
func Serve(ctx context.Context, l net.Listener, most int, failed func(error), serve func(net.Conn)) {
	var group sync.WaitGroup
	defer group.Wait()
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	room := make(chan struct{}, most)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		c, err := l.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if err == nil {
				c.Close()
			}
			return
		}
		if err != nil {
			<-room
			failed(err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		group.Go(func() {
			defer func() { <-room }()
			serve(c)
		})
	}
}
