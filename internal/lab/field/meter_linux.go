package field

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// Meter measures. The zero value's durations are those of a full bench.
type Meter struct {
	Stream  time.Duration // length of a TCP stream; 0 for defaultStream
	Pause   time.Duration // for the first device to settle, and before memory is looked at; 0 for defaultPause
	Contact time.Duration // how long an answered ping is waited for; 0 for defaultContact
	Direct  time.Duration // how long a direct path is waited for where one is possible; 0 for defaultDirect
}

const (
	defaultStream  = 3 * time.Second
	defaultPause   = 5 * time.Second
	defaultContact = 30 * time.Second
	defaultDirect  = 20 * time.Second

	watch     = 2 * time.Second         // how long an impossible direct path is waited for
	pingEvery = 20 * time.Millisecond   // before there is contact
	checkGap  = 10 * time.Millisecond   // between pings that show the path
	inARow    = 5                       // answered pings that must agree on the path
	largePing = 1000                    // bytes of their payload, above all that agents and coordinators send of themselves in the steady state
	pings     = 200                     // in one figure of round trips
	lookAt    = 100 * time.Millisecond  // how often memory is looked at under load
	noAnswer  = 1000 * time.Millisecond // after which a ping counts as lost
)

func or(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// Measure runs a system between a pair in a lab of its own, from nothing to a stream, and removes everything.
func (m Meter) Measure(ctx context.Context, s System, pair Pair) (out Sample, err error) {
	out = Sample{System: s.Name(), Pair: pair.Name()}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s between %s: %w", out.System, out.Pair, err)
		}
	}()
	dir, err := os.MkdirTemp("", "field")
	if err != nil {
		return out, err
	}
	defer os.RemoveAll(dir)
	l, err := lab.New()
	if err != nil {
		return out, err
	}
	defer l.Close()
	r := &run{Meter: m, ctx: ctx, pair: pair, place: Place{Lab: l, Dir: dir}, out: &out}
	if err := r.hosts(); err != nil {
		return out, err
	}
	defer r.tap.close()
	return out, r.all(s)
}

// run is one call of Measure.
type run struct {
	Meter
	ctx     context.Context
	pair    Pair
	place   Place
	tap     *tap // at the relay's host
	network Network
	devices [2]Device
	out     *Sample
}

// hosts makes the hosts and starts counting.
func (r *run) hosts() (err error) {
	if r.place.Relay, err = r.place.Lab.Host("relay", lab.None); err != nil {
		return err
	}
	for i, kind := range []string{r.pair.First, r.pair.Second} {
		nat, err := lab.ParseNAT(kind)
		if err != nil {
			return err
		}
		if r.place.Devices[i], err = r.place.Lab.Host([]string{"first", "second"}[i], nat); err != nil {
			return err
		}
	}
	r.tap, err = newTap(r.place.Relay, largePing)
	return err
}

func (r *run) all(s System) (err error) {
	if r.network, err = s.Start(r.ctx, r.place); err != nil {
		return fmt.Errorf("starting it: %w", err)
	}
	if r.devices[0], err = r.network.Join(r.ctx, r.place.Devices[0]); err != nil {
		return fmt.Errorf("the first device: %w", err)
	}
	if err := r.pause(); err != nil {
		return err
	}
	if met, err := r.meet(); err != nil || !met {
		return err
	}
	if err := r.pause(); err != nil {
		return err
	}
	return r.load()
}

// pause lets everything come to rest.
func (r *run) pause() error { return wait(r.ctx, or(r.Pause, defaultPause)) }

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// pinger pings the first device from the second.
func (r *run) pinger(size int) (*warrennet.Pinger, error) {
	p, err := warrennet.NewPinger(r.place.Devices[1], r.devices[0].Address.String())
	if err == nil {
		p.Size = size
	}
	return p, err
}

// meet starts the second device and measures until there is contact, and until the path is direct.
func (r *run) meet() (met bool, err error) {
	ping, err := r.pinger(largePing)
	if err != nil {
		return false, err
	}
	defer ping.Close()
	ctx, cancel := context.WithTimeout(r.ctx, or(r.Contact, defaultContact))
	defer cancel()
	began := time.Now()
	joined := make(chan error, 1)
	go func() {
		var err error
		r.devices[1], err = r.network.Join(r.ctx, r.place.Devices[1])
		if joined <- err; err != nil {
			cancel()
		}
	}()
	noContact := ping.First(ctx, pingEvery)
	contact := time.Since(began)
	var direct time.Duration
	if noContact == nil {
		direct, err = r.awaitDirect(ping, began)
	}
	if failed := <-joined; failed != nil {
		return false, fmt.Errorf("the second device: %w", failed)
	}
	if err := errors.Join(err, r.ctx.Err()); err != nil || noContact != nil {
		return false, err
	}
	r.out.FirstPing, r.out.Direct = contact.Seconds()*1000, direct.Seconds()
	return true, nil
}

// awaitDirect pings until several in a row were direct, and gives when the first of those was answered, since the beginning; 0 if time is up.
func (r *run) awaitDirect(ping *warrennet.Pinger, began time.Time) (time.Duration, error) {
	patience := watch
	if r.pair.Possible {
		patience = or(r.Direct, defaultDirect)
	}
	var first time.Duration
	for row := 0; ; {
		path, err := r.path(ping)
		if err != nil {
			return 0, err
		}
		if path != Direct {
			row = 0
		} else if row++; row == 1 {
			first = time.Since(began)
		}
		if row == inARow {
			return first, nil
		}
		if row == 0 && time.Since(began) > patience {
			return 0, nil
		}
		if err := wait(r.ctx, checkGap); err != nil {
			return 0, err
		}
	}
}

// path sees by one ping how packets go: NoPath if it is not answered.
func (r *run) path(ping *warrennet.Pinger) (Path, error) {
	if _, err := r.tap.count(); err != nil {
		return NoPath, err
	}
	if _, err := ping.Ping(noAnswer); err != nil {
		if errors.Is(err, warrennet.ErrNoAnswer) {
			err = nil
		}
		return NoPath, err
	}
	seen, err := r.tap.count()
	switch {
	case err != nil:
		return NoPath, err
	case seen > 0: // the request, the answer, or both
		return Relayed, nil
	}
	return Direct, nil
}

// load measures what the path carries, and what that takes.
func (r *run) load() error {
	idle, err := r.resident()
	if err != nil {
		return err
	}
	r.out.Idle = idle
	if err := r.roundTrips(); err != nil {
		return err
	}
	before, err := r.steadyPath()
	if err != nil {
		return err
	}
	if err := r.stream(); err != nil {
		return err
	}
	after, err := r.steadyPath()
	if r.out.Path = before; before != after {
		r.out.Path = Mixed
	}
	return err
}

// roundTrips measures the median of many small pings.
func (r *run) roundTrips() error {
	ping, err := r.pinger(48)
	if err != nil {
		return err
	}
	defer ping.Close()
	var all []float64
	for range pings {
		d, err := ping.Ping(2 * noAnswer)
		if err != nil {
			return fmt.Errorf("round trips: %w", err)
		}
		all = append(all, d.Seconds()*1000)
	}
	slices.Sort(all)
	r.out.RoundTrip = median(all)
	return nil
}

// steadyPath sees by several pings how packets go.
func (r *run) steadyPath() (Path, error) {
	ping, err := r.pinger(largePing)
	if err != nil {
		return NoPath, err
	}
	defer ping.Close()
	var path Path
	for i := range inARow {
		p, err := r.path(ping)
		if err != nil {
			return NoPath, err
		}
		if i > 0 && p != path {
			p = Mixed
		}
		path = p
	}
	return path, nil
}

// stream sends one TCP stream from the first device to the second, and keeps account of what the programs take meanwhile.
func (r *run) stream() error {
	programs := r.network.Programs()
	for _, d := range r.devices {
		if d.Process != 0 {
			programs = append(slices.Clone(programs), d.Process)
		}
	}
	before, err := UsageOf(programs...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.ctx)
	most := make(chan float64, 1)
	go func() { most <- r.mostResident(ctx) }()
	n, took, err := warrennet.Stream(r.ctx, r.place.Devices[0], r.place.Devices[1], r.devices[1].Address.String(), or(r.Meter.Stream, defaultStream))
	cancel()
	r.out.Loaded = <-most
	if err != nil {
		return fmt.Errorf("TCP stream: %w", err)
	}
	after, err := UsageOf(programs...)
	if err != nil {
		return err
	}
	r.out.Stream = float64(n) * 8 / took.Seconds() / 1e9
	r.out.CPU = (after.CPU - before.CPU).Seconds() / (float64(n) / 1e9)
	return nil
}

// mostResident is the most that resident gives until ctx ends.
func (r *run) mostResident(ctx context.Context) (most float64) {
	for {
		if mb, err := r.resident(); err == nil {
			most = max(most, mb)
		}
		if wait(ctx, lookAt) != nil {
			return most
		}
	}
}

// resident is the memory of the larger agent, in 10⁶ bytes.
func (r *run) resident() (mb float64, err error) {
	for _, d := range r.devices {
		if d.Process == 0 {
			continue
		}
		u, err := UsageOf(d.Process)
		if err != nil {
			return 0, err
		}
		mb = max(mb, float64(u.Resident)/1e6)
	}
	return mb, nil
}
