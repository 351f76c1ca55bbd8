package field

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

func TestMain(m *testing.M) { lab.Main(m) }

// quick measures with as little time as shows that everything is measured.
var quick = Meter{Stream: 200 * time.Millisecond, Pause: time.Millisecond, Contact: 20 * time.Second, Direct: 20 * time.Second}

func TestTapCountsWhatArrives(t *testing.T) {
	l, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var hosts [3]*lab.Host
	for i := range hosts {
		if hosts[i], err = l.Host(fmt.Sprint(i), lab.None); err != nil {
			t.Fatal(err)
		}
	}
	relay := hosts[0]
	tap, err := newTap(relay, largePing)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.close()
	for _, c := range []struct {
		name     string
		from, to *lab.Host
		size     int
		want     int
	}{
		{"between two others", hosts[1], hosts[2], largePing, 0},
		{"to the relay", hosts[1], relay, largePing, 1},
		{"small", hosts[1], relay, largePing / 2, 0},
		{"from the relay: only the answer arrives", relay, hosts[1], largePing, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := warrennet.NewPinger(c.from, c.to.Addr.String())
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			p.Size = c.size
			if _, err := p.Ping(5 * time.Second); err != nil {
				t.Fatal(err)
			}
			got, err := tap.count()
			if err != nil || got != c.want {
				t.Errorf("%d packets, %v; want %d", got, err, c.want)
			}
		})
	}
}

func TestMeasure(t *testing.T) {
	bin, err := warrennet.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		system System
		pair   string
		want   Path
		direct bool
	}{
		{Bare{}, "none+none", Direct, true},
		{Warren{bin}, "easy+easy", Direct, true},
		{Warren{bin}, "udp-blocked+udp-blocked", Relayed, false},
	} {
		t.Run(c.system.Name()+" "+c.pair, func(t *testing.T) {
			pair, err := ChoosePairs(c.pair)
			if err != nil {
				t.Fatal(err)
			}
			s, err := quick.Measure(t.Context(), c.system, pair[0])
			if err != nil {
				t.Fatal(err)
			}
			programs := c.system.Name() != NameBare
			for name, wrong := range map[string]bool{
				"system or pair": s.System != c.system.Name() || s.Pair != c.pair,
				"first ping":     s.FirstPing <= 0,
				"direct":         s.Direct > 0 != c.direct || c.direct && s.Direct*1000 < s.FirstPing,
				"path":           s.Path != c.want,
				"round trip":     s.RoundTrip <= 0,
				"stream":         s.Stream <= 0,
				"CPU":            s.CPU > 0 != programs,
				"memory":         s.Idle > 1 != programs || s.Loaded > 1 != programs,
			} {
				if wrong {
					t.Errorf("%s: %+v", name, s)
				}
			}
		})
	}
}

// broken is a system that fails at a step, after it has started programs on the host there.
type broken struct {
	at   int // 0: when it is started, 1 and 2: when a device joins
	how  func(context.Context) error
	mark string // argument of its programs, to find them by
}

var errBroken = errors.New("broken on purpose")

func (b *broken) Name() string            { return "broken" }
func (b *broken) Can(Pair) (bool, string) { return true, "" }

func (b *broken) Start(ctx context.Context, p Place) (Network, error) {
	n := &brokenNetwork{broken: b}
	return n, n.step(ctx, p.Relay)
}

type brokenNetwork struct {
	*broken
	steps int
}

func (n *brokenNetwork) step(ctx context.Context, h *lab.Host) error {
	// One that the driver knows, and one that has detached itself.
	if _, err := startProgram(h, nil, "sleep", n.mark); err != nil {
		return err
	}
	if _, err := output(h.Command(ctx, "sh", "-c", "setsid sleep "+n.mark+" >/dev/null 2>&1 &")); err != nil {
		return err
	}
	n.steps++
	if n.steps-1 == n.at {
		return n.how(ctx)
	}
	return nil
}

func (n *brokenNetwork) Programs() []int { return nil }

func (n *brokenNetwork) Join(ctx context.Context, h *lab.Host) (Device, error) {
	return Device{Address: h.Addr}, n.step(ctx, h)
}

func TestNothingIsLeftBehind(t *testing.T) {
	for _, c := range []struct {
		name string
		at   int
		want string
	}{
		{"the start fails", 0, "broken between none+none: starting it: broken on purpose"},
		{"the first device fails", 1, "the first device: broken on purpose"},
		{"the second device fails", 2, "the second device: broken on purpose"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			b := &broken{at: c.at, how: func(context.Context) error { return errBroken }, mark: fmt.Sprintf("%d.%d", 100000+c.at, os.Getpid())}
			_, err := quick.Measure(t.Context(), b, Pairs()[0])
			checkError(t, err, c.want)
			b.checkGone(t)
		})
	}
	t.Run("it is interrupted", func(t *testing.T) {
		t.Setenv("TMPDIR", t.TempDir())
		ctx, cancel := context.WithCancelCause(t.Context())
		b := &broken{at: 2, mark: fmt.Sprintf("200000.%d", os.Getpid()), how: func(ctx context.Context) error {
			cancel(errBroken)
			<-ctx.Done()
			return context.Cause(ctx)
		}}
		_, err := quick.Measure(ctx, b, Pairs()[0])
		checkError(t, err, errBroken.Error())
		b.checkGone(t)
	})
}

// checkGone looks for the system's programs, and for Measure's directory.
func (b *broken) checkGone(t *testing.T) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if text, err := os.ReadFile(l); err == nil && strings.Contains(string(text), b.mark) {
			t.Errorf("%s is left: %q", filepath.Dir(l), text)
		}
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

func TestWhoCannot(t *testing.T) {
	for name, want := range map[string]string{
		NameBare: "none+none", NameStock: "none+none", NameNebula: "none+none easy+easy easy+hard hard+hard",
		NameWarren: "none+none easy+easy easy+hard hard+hard udp-blocked+udp-blocked", NameTailscale: "none+none easy+easy easy+hard hard+hard udp-blocked+udp-blocked",
	} {
		s, err := ChooseSystems(name, "bin")
		if err != nil || len(s) != 1 {
			t.Fatalf("%s: %v, %v", name, s, err)
		}
		var can []string
		for _, p := range Pairs() {
			ok, why := s[0].Can(p)
			if ok {
				can = append(can, p.Name())
			}
			if ok != (why == "") {
				t.Errorf("%s between %s: %v, %q", name, p.Name(), ok, why)
			}
		}
		if got := strings.Join(can, " "); got != want {
			t.Errorf("%s can %s; want %s", name, got, want)
		}
	}
}

func TestPairsAreOfTheLab(t *testing.T) {
	for _, p := range Pairs() {
		for _, kind := range []string{p.First, p.Second} {
			if _, err := lab.ParseNAT(kind); err != nil {
				t.Error(err)
			}
		}
	}
}
