package sdnotify

import (
	"context"
	"errors"
	"strconv"
	"sync"
)

// Service is what Run tells of.
type Service struct {
	// Status says in a few words what the service does.
	Status string
	// Check finds out whether the service still works, within its context's time; nil: whatever runs does.
	Check func(context.Context) error
	// Failed is told, from any goroutine, why the manager was not told something.
	Failed func(error)
}

// Run calls run, and tells the manager that the service is ready once run has called the function that it is given, that it lives as long as it
// does, and that it is about to stop when ctx ends. It returns what run does.
func (n Notifier) Run(ctx context.Context, s Service, run func(ctx context.Context, ready func()) error) error {
	report := func(err error) {
		if err != nil {
			s.Failed(err)
		}
	}
	if s.Check == nil {
		s.Check = func(context.Context) error { return nil }
	}
	var telling sync.WaitGroup
	defer telling.Wait()
	watch, done := context.WithCancel(ctx)
	defer done()
	return run(ctx, func() {
		report(n.ready(s.Status))
		telling.Go(func() {
			n.watch(watch, s.Check, report)
			<-watch.Done()
			report(n.stopping())
		})
	})
}

// Reload tells the manager that the service takes its settings anew while do runs, and then that it is ready again. It is what a program does on SIGHUP
// whose unit has "ExecReload=kill -HUP $MAINPID".
func (n Notifier) Reload(do func()) error {
	if n.socket == "" {
		do()
		return nil
	}
	now, err := monotonic()
	if err == nil {
		err = n.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(now.Microseconds(), 10))
	}
	do()
	return errors.Join(err, n.send("READY=1"))
}
