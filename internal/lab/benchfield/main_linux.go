// Command benchfield measures Warren beside a bare link, stock wireguard-go, tailscaled with Headscale, and Nebula, each in the same lab and by
// the same code, and prints tables. Systems take turns within a round, so that ratios compare neighbours in time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/field"
)

func main() {
	lab.Init()
	var b bench
	flag.StringVar(&b.bin, "bin", "bin", "directory of the built programs; those of others in field below it")
	flag.IntVar(&b.runs, "runs", 5, "runs of each system between each pair")
	pairs := flag.String("pairs", "", "only these pairs, with commas between")
	systems := flag.String("systems", "", "only these systems, with commas between")
	flag.StringVar(&b.samples, "samples", "", "file to add each run's figures to; the tables are then of all in it, earlier ones too")
	flag.StringVar(&b.document, "doc", "", "document that gets the tables")
	flag.DurationVar(&b.meter.Stream, "stream", 0, "length of a TCP stream, instead of 3 s")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.main(ctx, *pairs, *systems); err != nil {
		fmt.Fprintln(os.Stderr, "benchfield:", err)
		os.Exit(1)
	}
}

type bench struct {
	bin, samples, document string
	runs                   int
	meter                  field.Meter
	pairs                  []field.Pair
	systems                []field.System
	all                    []field.Sample
}

func (b *bench) main(ctx context.Context, pairs, systems string) (err error) {
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if b.pairs, err = field.ChoosePairs(pairs); err != nil {
		return err
	}
	if b.systems, err = field.ChooseSystems(systems, b.bin); err != nil {
		return err
	}
	head, err := b.head()
	if err != nil {
		return err
	}
	if b.samples != "" {
		if b.all, err = earlier(b.samples); err != nil {
			return fmt.Errorf("%s: %w", b.samples, err)
		}
	}
	failed := b.rounds(ctx)
	if ctx.Err() != nil {
		return failed
	}
	tables := head + "\n" + field.Tables(b.all)
	if b.document != "" {
		return errors.Join(failed, field.PutInto(b.document, tables))
	}
	fmt.Print(tables)
	return failed
}

// head says when, where and what.
func (b *bench) head() (string, error) {
	var names []string
	for _, s := range b.systems {
		names = append(names, s.Name())
	}
	versions, err := field.Versions(b.bin, names)
	if err != nil {
		return "", err
	}
	machine, err := field.Machine()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("Measured on %s on %s, everything on this one machine.\nVersions: %s.\n", time.Now().Format(time.DateOnly), machine, versions), nil
}

func earlier(file string) ([]field.Sample, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return field.ReadSamples(f)
}

// rounds measures. A run that failed does not keep others from being measured; its error comes in the end.
func (b *bench) rounds(ctx context.Context) error {
	var failed []string
	for _, pair := range b.pairs {
		first := field.NextRound(b.all, pair)
		for round := first; round < first+b.runs; round++ {
			for _, s := range b.systems {
				if ok, _ := s.Can(pair); !ok {
					continue
				}
				sample, err := b.meter.Measure(ctx, s, pair)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					failed = append(failed, err.Error())
					continue
				}
				sample.Round = round
				if err := b.keep(sample); err != nil {
					return err
				}
			}
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d runs failed:\n%s", len(failed), strings.Join(failed, "\n"))
	}
	return nil
}

func (b *bench) keep(s field.Sample) error {
	fmt.Fprintf(os.Stderr, "%s, %s: first ping %.0f ms, direct %.2f s, %s, %.2f ms, %.2f Gbit/s, %.1f CPU s per GB, %.0f and %.0f MB\n",
		s.Pair, s.System, s.FirstPing, s.Direct, s.Path, s.RoundTrip, s.Stream, s.CPU, s.Idle, s.Loaded)
	b.all = append(b.all, s)
	if b.samples == "" {
		return nil
	}
	return field.AppendSample(b.samples, s)
}
