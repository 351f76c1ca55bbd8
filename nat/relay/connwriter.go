package relay

import (
	"context"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// connWriter sends what waits for a device, by a goroutine that lives only while something does: most devices are idle.
type connWriter struct {
	ctx  context.Context
	ws   *websocket.Conn
	cork *cork // may be nil
	c    *serverConn

	mu      sync.Mutex
	running bool
	ended   bool
	group   sync.WaitGroup
}

// begin has the queue sent.
func (w *connWriter) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.running && !w.ended {
		w.running = true
		w.group.Go(w.run)
	}
}

// end waits until nothing is being sent any more. The connection is closed by then.
func (w *connWriter) end() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.group.Wait()
}

func (w *connWriter) run() {
	for {
		if err := w.c.queue.drain(w.send); err != nil {
			w.c.cancel(err)
			return // and running stays, so that nobody begins again
		}
		w.mu.Lock()
		if w.running = !w.c.queue.empty(); !w.running {
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
	}
}

// send bounds how long a reader may block it.
func (w *connWriter) send(b []byte) error {
	stuck := time.AfterFunc(writeTimeout, func() { w.c.cancel(errStuck) })
	defer stuck.Stop()
	return w.cork.together(func() error { return w.ws.Write(w.ctx, websocket.MessageBinary, b) })
}
