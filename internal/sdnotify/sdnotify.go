// Package sdnotify tells systemd how a service is (sd_notify(3)): FromEnvironment gives a Notifier, which does nothing where the program was not
// started by a manager that listens. Run tells it all, and answers its watchdog, for as long as the service works. Keep has it hold open files, which
// Inherited gives to the next process of the service.
package sdnotify

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Notifier speaks to the service manager. The zero Notifier speaks to nobody.
type Notifier struct {
	socket string
	// timeout is how long the manager waits for a word before it takes the service for dead; 0: it does not.
	timeout time.Duration
}

// FromEnvironment reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, and removes them from the environment, so that no program started by this
// one speaks for it.
func FromEnvironment() Notifier {
	var n Notifier
	n.socket = os.Getenv("NOTIFY_SOCKET")
	if n.socket != "" {
		n.timeout = watchdog(os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID"), os.Getpid())
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		os.Unsetenv(name)
	}
	if name, abstract := strings.CutPrefix(n.socket, "@"); abstract {
		n.socket = "\x00" + name
	}
	return n
}

// maxWatchdog keeps a number of microseconds within a Duration.
const maxWatchdog = uint64(1<<63-1) / uint64(time.Microsecond)

// watchdog is the time within which the process self has to give a word; 0 where none is asked of it.
func watchdog(microseconds, pid string, self int) time.Duration {
	us, err := strconv.ParseUint(microseconds, 10, 64)
	if err != nil || us > maxWatchdog || pid != "" && pid != strconv.Itoa(self) {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}

// ready says that the service serves, and what it does in a few words.
func (n Notifier) ready(status string) error { return n.send("READY=1\nSTATUS=" + oneLine(status)) }

// stopping says that the service is about to end.
func (n Notifier) stopping() error { return n.send("STOPPING=1") }

// oneLine keeps a text from being taken for more than one assignment.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func (n Notifier) send(state string) error {
	if n.socket == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", n.socket)
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	return nil
}

// watch calls check at a third of the time that the manager allows, and gives the manager a word whenever it succeeds, until ctx ends. A check gets
// that third to answer. If there is no watchdog it returns at once. failed is told why a word was not given.
func (n Notifier) watch(ctx context.Context, check func(context.Context) error, failed func(error)) {
	if n.timeout <= 0 {
		return
	}
	every := max(n.timeout/3, time.Millisecond)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := n.watchOnce(ctx, every, check); err != nil && ctx.Err() == nil {
			failed(err)
		}
	}
}

func (n Notifier) watchOnce(ctx context.Context, within time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := check(ctx); err != nil {
		return err
	}
	return n.send("WATCHDOG=1")
}
