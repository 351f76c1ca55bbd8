package field

import (
	"fmt"
	"slices"
	"strings"
)

// columns are the heads of a table, in order.
var columns = [...]string{
	"system", "contact", "first ping, ms", "became direct", "seconds to direct", "path of the stream", "round trip, ms", "one TCP stream, Gbit/s",
	Reference + " / this", "CPU s per GB", "idle, MB", "loaded, MB",
}

// Tables prints a table for each pair: a row for each system, each figure the median of its runs, with the least and the most in parentheses
// where those vary much. The ratio of streams is the median of ratios within rounds.
func Tables(samples []Sample) string {
	var out strings.Builder
	for _, pair := range order(samples, func(s Sample) string { return s.Pair }, pairNames()) {
		of := filter(samples, func(s Sample) bool { return s.Pair == pair })
		fmt.Fprintf(&out, "### %s\n\n| %s |\n|%s\n", pair, strings.Join(columns[:], " | "), strings.Repeat("---|", len(columns)))
		for _, system := range order(of, func(s Sample) string { return s.System }, systemNames()) {
			fmt.Fprintf(&out, "| %s |\n", strings.Join(row(system, of), " | "))
		}
		out.WriteString("\n")
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// row makes a system's row out of all samples of a pair.
func row(system string, pair []Sample) []string {
	own := filter(pair, func(s Sample) bool { return s.System == system })
	met := filter(own, func(s Sample) bool { return s.FirstPing > 0 })
	direct := filter(own, func(s Sample) bool { return s.Direct > 0 })
	return []string{
		system,
		fmt.Sprintf("%d/%d", len(met), len(own)),
		spread("%.0f", met, func(s Sample) float64 { return s.FirstPing }),
		fmt.Sprintf("%d/%d", len(direct), len(own)),
		spread("%.2f", direct, func(s Sample) float64 { return s.Direct }),
		paths(met),
		middle("%.2f", met, func(s Sample) float64 { return s.RoundTrip }),
		spread("%.2f", met, func(s Sample) float64 { return s.Stream }),
		ratio(system, pair),
		middle("%.1f", met, func(s Sample) float64 { return s.CPU }),
		middle("%.0f", met, func(s Sample) float64 { return s.Idle }),
		middle("%.0f", met, func(s Sample) float64 { return s.Loaded }),
	}
}

const nothing = "-"

// spread prints the median of a figure's values that are there, and between what they lie.
func spread(format string, samples []Sample, value func(Sample) float64) string {
	var all []float64
	for _, s := range samples {
		if v := value(s); v > 0 {
			all = append(all, v)
		}
	}
	return spreadOf(format, all)
}

// middle is spread without the bounds.
func middle(format string, samples []Sample, value func(Sample) float64) string {
	text, _, _ := strings.Cut(spread(format, samples, value), " ")
	return text
}

func spreadOf(format string, all []float64) string {
	if len(all) == 0 {
		return nothing
	}
	slices.Sort(all)
	text := fmt.Sprintf(format, median(all))
	if len(all) > 1 {
		text += fmt.Sprintf(" ("+format+" to "+format+")", all[0], all[len(all)-1])
	}
	return text
}

// median of sorted values, at least one: the middle, or the mean of the two in the middle.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// ratio compares streams of the reference with a system's, round by round.
func ratio(system string, pair []Sample) string {
	if system == Reference {
		return nothing
	}
	of := func(name string) map[int]float64 {
		m := map[int]float64{}
		for _, s := range pair {
			if s.System == name && s.Stream > 0 {
				m[s.Round] = s.Stream
			}
		}
		return m
	}
	ours, theirs := of(Reference), of(system)
	var all []float64
	for round, x := range theirs {
		if y, ok := ours[round]; ok {
			all = append(all, y/x)
		}
	}
	return spreadOf("%.2f", all)
}

// paths names the paths of the streams, with counts if there are several.
func paths(samples []Sample) string {
	count := map[Path]int{}
	for _, s := range samples {
		count[s.Path]++
	}
	var out []string
	for _, p := range []Path{Direct, Relayed, Mixed} {
		switch n := count[p]; {
		case n == len(samples) && n > 0:
			return string(p)
		case n > 0:
			out = append(out, fmt.Sprintf("%s %d", p, n))
		}
	}
	if len(out) == 0 {
		return nothing
	}
	return strings.Join(out, ", ")
}

func filter(samples []Sample, keep func(Sample) bool) []Sample {
	var out []Sample
	for _, s := range samples {
		if keep(s) {
			out = append(out, s)
		}
	}
	return out
}

// order lists the names that occur: the known ones first, in their order, then others as they come.
func order(samples []Sample, name func(Sample) string, known []string) []string {
	var occur []string
	for _, s := range samples {
		if !slices.Contains(occur, name(s)) {
			occur = append(occur, name(s))
		}
	}
	rank := func(s string) int {
		if i := slices.Index(known, s); i >= 0 {
			return i
		}
		return len(known)
	}
	slices.SortStableFunc(occur, func(a, b string) int { return rank(a) - rank(b) })
	return occur
}

func pairNames() []string {
	var out []string
	for _, p := range Pairs() {
		out = append(out, p.Name())
	}
	return out
}

func systemNames() []string {
	return []string{NameBare, NameStock, NameWarren, NameTailscale, NameNebula}
}
