package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	uapiClients  = 16 // served at once
	uapiDeadline = 5 * time.Second
	uapiLine     = 4096
	uapiSetBytes = 1 << 20 // of a set that is read before it is refused
)

// serveUAPI answers wg and wgctrl on the UAPI socket until ctx ends. Having no socket is a warning: nothing of ours needs it.
func (e *Engine) serveUAPI(ctx context.Context) error {
	if e.cfg.Name == "" {
		<-ctx.Done()
		return nil
	}
	l, err := listenUAPI(e.cfg.SocketDir, e.cfg.Name)
	if err != nil {
		e.log.Warn("wg cannot show this interface: no UAPI socket", "err", err)
		<-ctx.Done()
		return nil
	}
	defer l.remove()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var clients sync.WaitGroup
	defer clients.Wait()
	slots := make(chan struct{}, uapiClients)
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case err != nil:
			e.log.Warn("UAPI socket no longer answers", "err", err)
			<-ctx.Done()
			return nil
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			c.Close()
			return nil
		}
		clients.Go(func() {
			defer func() { <-slots }()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			if err := answerUAPI(c, e.dev.get); err != nil && !errors.Is(err, io.EOF) {
				e.log.Debug("UAPI client", "err", err)
			}
		})
	}
}

// answerUAPI serves one client: any number of operations, each ended by an empty line and answered by an errno. Only get is done.
func answerUAPI(c net.Conn, get func() (string, error)) error {
	defer c.Close()
	r := bufio.NewReaderSize(c, uapiLine)
	for {
		if err := c.SetDeadline(time.Now().Add(uapiDeadline)); err != nil {
			return err
		}
		op, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		operation := string(op)
		if err := skipBody(r); err != nil {
			return err
		}
		var answer string
		switch operation {
		case "get=1\n":
			text, err := get()
			if err != nil {
				answer = fmt.Sprintf("errno=%d\n\n", -int(syscall.EIO))
				break
			}
			answer = shownConfig(text) + "errno=0\n\n"
		case "set=1\n":
			answer = fmt.Sprintf("errno=%d\n\n", -int(syscall.EPERM))
		default:
			return fmt.Errorf("unknown operation %.40q", operation)
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return err
		}
	}
}

// skipBody reads up to the empty line that ends an operation.
func skipBody(r *bufio.Reader) error {
	for total := 0; total < uapiSetBytes; {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 1 {
			return nil
		}
		total += len(line)
	}
	return fmt.Errorf("an operation of more than %d bytes", uapiSetBytes)
}

// shownConfig leaves out the endpoints of peers that have none.
func shownConfig(text string) string { return strings.ReplaceAll(text, "endpoint=0.0.0.0:0\n", "") }
