package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

const (
	birthdayGoal     = 15 * time.Second // within which 95 % are to be direct
	birthdayPatience = 25 * time.Second
	birthdayAtOnce   = 4 // pairs of each kind, every device behind boxes of its own
	birthdayLook     = time.Second
	birthdayPings    = 100 * time.Millisecond
)

// What nat/path does, and what the kernel's NAT has to give out.
const (
	birthdaySockets, birthdayPorts = 256, 65536 - 1024
	birthdayProbes, birthdayRate   = 1100, 100
)

// birthdayKind is what was measured of one pair of kinds.
type birthdayKind struct {
	easy, hard lab.NAT

	mu     sync.Mutex
	runs   int
	direct figures // seconds until both ends were direct, of those that were
}

// birthday has pairs of an endpoint-independent and a per-destination NAT meet by trying ports, each time from a fresh start of both tunnels.
// Several pairs are at it at once, in one network.
func (b *bench) birthday() error {
	n, done, err := b.network()
	if err != nil {
		return err
	}
	defer done()
	token, err := n.Token(b.ctx, "--reusable")
	if err != nil {
		return err
	}
	kinds := []*birthdayKind{
		{easy: lab.Easy, hard: lab.Hard}, {easy: lab.EasyCGNAT, hard: lab.Hard}, {easy: lab.Easy, hard: lab.HardCGNAT},
	}
	group, ctx := errgroup.WithContext(b.ctx)
	for _, k := range kinds {
		left := make(chan struct{}, b.runs) // runs, which the pairs share
		for range b.runs {
			left <- struct{}{}
		}
		close(left)
		for i := range min(birthdayAtOnce, b.runs) {
			from, to, err := birthdayPair(ctx, n, token, k, i)
			if err != nil {
				return err
			}
			group.Go(func() error {
				for range left {
					if err := k.run(ctx, from, to); err != nil {
						return fmt.Errorf("%s to %s: %w", from.Name, to.Name, err)
					}
				}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return b.birthdayTable(kinds)
}

// birthdayPair makes two devices, enrolled and down.
func birthdayPair(ctx context.Context, n *warrennet.Network, token string, k *birthdayKind, i int) (from, to *warrennet.Device, err error) {
	for _, end := range []struct {
		kind lab.NAT
		into **warrennet.Device
	}{{k.easy, &from}, {k.hard, &to}} {
		d, err := n.Device(ctx, fmt.Sprintf("%s-%s-%d-%s", k.easy, k.hard, i, end.kind), end.kind)
		if err != nil {
			return nil, nil, err
		}
		if err := errors.Join(d.Up(ctx, token), d.Warren(ctx, nil, "down")); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", d.Name, err)
		}
		*end.into = d
	}
	return from, to, nil
}

// run takes both tunnels up and measures from the moment that both are.
func (k *birthdayKind) run(ctx context.Context, from, to *warrennet.Device) error {
	if err := forget(from, to); err != nil {
		return err
	}
	both, up := errgroup.WithContext(ctx)
	for _, d := range []*warrennet.Device{from, to} {
		both.Go(func() error { return d.Up(up, "") })
		defer d.Warren(ctx, nil, "down")
	}
	if err := both.Wait(); err != nil {
		return err
	}
	began := time.Now()
	st, err := to.Status(ctx)
	if err != nil {
		return err
	}
	ping, err := warrennet.NewPinger(from.Host, st.Self.Addresses[0])
	if err != nil {
		return err
	}
	defer ping.Close()
	took, err := awaitBothDirect(ctx, from, to, ping, began)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.runs++
	if took > 0 {
		k.direct = append(k.direct, took.Seconds())
	}
	fmt.Fprintf(os.Stderr, "%s to %s: %.2f s\n", from.Name, to.Name, took.Seconds())
	return nil
}

// awaitBothDirect keeps traffic flowing and tells when both ends had become direct, by their own histories: to ask is not free where many are at
// it. 0 says that they did not.
func awaitBothDirect(ctx context.Context, from, to *warrennet.Device, ping *warrennet.Pinger, began time.Time) (time.Duration, error) {
	tick := time.NewTicker(birthdayPings)
	defer tick.Stop()
	for looked := began; time.Since(began) < birthdayPatience; {
		if _, err := ping.Ping(birthdayPings); err != nil && !errors.Is(err, warrennet.ErrNoAnswer) {
			return 0, err
		}
		if time.Since(looked) >= birthdayLook {
			looked = time.Now()
			at, err := bothDirect(ctx, from, to)
			if err != nil || !at.IsZero() {
				return max(at.Sub(began), time.Millisecond), err
			}
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
	return 0, nil
}

// bothDirect is when the later of both became direct; zero if one has not.
func bothDirect(ctx context.Context, from, to *warrennet.Device) (last time.Time, err error) {
	for _, d := range [][2]*warrennet.Device{{from, to}, {to, from}} {
		st, err := d[0].Status(ctx)
		if err != nil {
			return last, err
		}
		peer := st.Peer(d[1].Name)
		if peer == nil || peer.FirstDirect().IsZero() {
			return time.Time{}, nil
		}
		if at := peer.FirstDirect(); at.After(last) {
			last = at
		}
	}
	return last, nil
}

// missed is the chance that so many tries hit none of the sockets.
func missed(tries float64) float64 { return math.Pow(1-float64(birthdaySockets)/birthdayPorts, tries) }

// birthdayTable tells how many were direct in time, beside what is to be expected.
func (b *bench) birthdayTable(kinds []*birthdayKind) error {
	var out strings.Builder
	fmt.Fprintf(&out, "| easy side | hard side | direct within %.0f s | expected | median, s | worst, s | expected median of trying alone, s |\n"+
		"|---|---|---|---|---|---|---|\n", birthdayGoal.Seconds())
	for _, k := range kinds {
		inTime, median, worst := 0, "-", "-"
		for _, took := range k.direct {
			if took <= birthdayGoal.Seconds() {
				inTime++
			}
		}
		if len(k.direct) > 0 {
			median, worst = fmt.Sprintf("%.1f", k.direct.median()), fmt.Sprintf("%.1f", k.direct.largest())
		}
		if len(k.direct) < k.runs {
			worst += fmt.Sprintf(", and %d never", k.runs-len(k.direct))
		}
		fmt.Fprintf(&out, "| %s | %s | %d of %d (%.1f %%) | %.1f %% | %s | %s | %.1f |\n", k.easy, k.hard, inTime, k.runs, 100*float64(inTime)/float64(k.runs),
			100*(1-missed(birthdayProbes)), median, worst, math.Log(0.5)/math.Log(missed(1))/birthdayRate)
	}
	return b.publish("birthday", out.String())
}
