package field

import (
	"fmt"
	"slices"
	"strings"
)

// Names of the systems, as tables and flags have them.
const (
	NameBare      = "bare link"
	NameStock     = "wireguard-go"
	NameWarren    = "warren"
	NameNebula    = "nebula"
	NameTailscale = "tailscale"
)

// Reference is the system that the others are compared with.
const Reference = NameWarren

// Pair is two kinds of access, of the device that is up first and of the one that joins it.
type Pair struct {
	First, Second string
	// Possible tells whether a direct path exists in principle, which decides how long one is waited for.
	Possible bool
}

// Name is the pair's name in flags and tables.
func (p Pair) Name() string { return p.First + "+" + p.Second }

// Pairs are those that are measured, by the names that the lab gives kinds of access.
func Pairs() []Pair {
	return []Pair{
		{"none", "none", true},
		{"easy", "easy", true},
		{"easy", "hard", true},
		{"hard", "hard", false},
		{"udp-blocked", "udp-blocked", false},
	}
}

// ChoosePairs finds pairs by their names, with commas between; "" are all.
func ChoosePairs(names string) ([]Pair, error) {
	return choose("pair", names, Pairs(), Pair.Name)
}

// choose picks those of all whose names are in a list with commas, in the order of all.
func choose[T any](what, names string, all []T, name func(T) string) ([]T, error) {
	if names == "" {
		return all, nil
	}
	wanted := strings.Split(names, ",")
	var out []T
	var known []string
	for _, x := range all {
		known = append(known, name(x))
		if slices.Contains(wanted, name(x)) {
			out = append(out, x)
		}
	}
	for _, w := range wanted {
		if !slices.Contains(known, w) {
			return nil, fmt.Errorf("there is no %s %q; they are: %s", what, w, strings.Join(known, ", "))
		}
	}
	return out, nil
}
