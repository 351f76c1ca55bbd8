package field

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Sample is what one run of one system between one pair gave. What was not reached is zero.
type Sample struct {
	System string `json:"system"`
	Pair   string `json:"pair"`
	// Round pairs samples of several systems that were taken one after the other.
	Round int `json:"round"`
	// FirstPing is the time from the start of the second device until the first answered ping, in milliseconds; 0 without contact.
	FirstPing float64 `json:"first_ping_ms"`
	// Direct is the time from there until the path is direct in both directions, in seconds; 0 if it never was.
	Direct float64 `json:"direct_s"`
	// Path is how the stream went.
	Path Path `json:"path"`
	// RoundTrip is the median of a run of pings, in milliseconds, Stream one TCP stream's throughput in Gbit/s.
	RoundTrip float64 `json:"round_trip_ms"`
	Stream    float64 `json:"stream_gbit_s"`
	// CPU is what all of the system's programs, both agents and what runs at the relay's host, took for the stream: seconds per 10⁹ bytes.
	CPU float64 `json:"cpu_s_per_gb"`
	// Idle and Loaded are the resident memory of the larger of both agents, in 10⁶ bytes: after a pause, and the most during the stream.
	Idle   float64 `json:"idle_mb"`
	Loaded float64 `json:"loaded_mb"`
}

// Path is how packets go between the devices.
type Path string

// Kinds of paths.
const (
	NoPath  Path = ""
	Direct  Path = "direct"
	Relayed Path = "relayed"
	Mixed   Path = "mixed" // some packets this way, some that
)

// check refuses what no run can have given.
func (s Sample) check() error {
	if s.System == "" || s.Pair == "" {
		return errors.New("no system or no pair")
	}
	switch s.Path {
	case NoPath, Direct, Relayed, Mixed:
	default:
		return fmt.Errorf("path %q is not one", s.Path)
	}
	for _, x := range []float64{s.FirstPing, s.Direct, s.RoundTrip, s.Stream, s.CPU, s.Idle, s.Loaded} {
		if x < 0 {
			return fmt.Errorf("a negative figure, %v", x)
		}
	}
	return nil
}

// AppendSample adds a sample to a file, which need not exist, so that a bench that is interrupted keeps what it has.
func AppendSample(file string, s Sample) (err error) {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return err
}

// ReadSamples reads what AppendSample wrote, one sample a line.
func ReadSamples(r io.Reader) ([]Sample, error) {
	var out []Sample
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		var s Sample
		err := json.Unmarshal(lines.Bytes(), &s)
		if err == nil {
			err = s.check()
		}
		if err != nil {
			return nil, fmt.Errorf("sample in line %d: %w", n, err)
		}
		out = append(out, s)
	}
	return out, lines.Err()
}

// NextRound is the number of the first round of a pair that no sample is of.
func NextRound(samples []Sample, p Pair) int {
	next := 0
	for _, s := range samples {
		if s.Pair == p.Name() {
			next = max(next, s.Round+1)
		}
	}
	return next
}
