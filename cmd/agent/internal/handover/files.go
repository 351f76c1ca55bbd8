package handover

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"warren/internal/sdnotify"
)

// Names of the files.
const (
	TUN   = "warren-tun"
	UDP4  = "warren-udp4"
	UDP6  = "warren-udp6"
	Known = "warren-state" // a sealed State
)

// Names are all there are.
func Names() []string { return []string{TUN, UDP4, UDP6, Known} }

// Files are open files by their names. Each is the caller's to close.
type Files map[string]*os.File

// Take sorts out what was inherited, and closes what nobody has a use for. Of two of one name the later counts.
func Take(kept []sdnotify.Kept) (files Files, unwanted []string) {
	files = Files{}
	for _, k := range kept {
		if !slices.Contains(Names(), k.Name) {
			k.File.Close()
			unwanted = append(unwanted, k.Name)
			continue
		}
		if old := files[k.Name]; old != nil {
			old.Close()
			unwanted = append(unwanted, k.Name)
		}
		files[k.Name] = k.File
	}
	return files, unwanted
}

// Close closes all of them.
func (f Files) Close() {
	for _, file := range f {
		file.Close()
	}
}

// variable of the environment names the files that stay open while the process becomes another program: NAME=NUMBER, with commas.
const variable = "INHERITED_BY_WARREN"

// maxNumber is greater than that of any open file.
const maxNumber = 1 << 20

// parse reads the variable. Numbers of the three standard files, and of one file twice, are refused.
func parse(text string) (map[string]int, error) {
	out := map[string]int{}
	seen := map[int]bool{}
	for part := range strings.SplitSeq(text, ",") {
		name, number, _ := strings.Cut(part, "=")
		n, err := strconv.Atoi(number)
		if err != nil || n < 3 || n > maxNumber || seen[n] || !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("%s=%.80q: %q is no file to be taken over", variable, text, part)
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("%s=%.80q: %s is there twice", variable, text, name)
		}
		out[name], seen[n] = n, true
	}
	return out, nil
}

func format(numbers map[string]int) string {
	var parts []string
	for name, n := range numbers {
		parts = append(parts, name+"="+strconv.Itoa(n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}
