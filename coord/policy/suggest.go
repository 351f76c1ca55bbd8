package policy

import (
	"iter"
	"strings"
)

// maxSuggestLen bounds the names that are compared; the cost grows with its square.
const maxSuggestLen = 64

// maxCandidates bounds how many names are looked at.
const maxCandidates = 10_000

// nearest gives the name that s was probably meant to be, or "".
func nearest(s string, names iter.Seq[string]) string {
	if len(s) > maxSuggestLen {
		return ""
	}
	best, distance, looked := "", 1+min(2, (len(s)+1)/3), 0
	low := strings.ToLower(s)
	for n := range names {
		if looked++; looked > maxCandidates {
			break
		}
		if len(n) > maxSuggestLen {
			continue
		}
		d := editDistance(low, strings.ToLower(n))
		if d < distance || d == distance && best != "" && n < best {
			best, distance = n, d
		}
	}
	return best
}

// didYouMean makes the end of a sentence of what nearest found.
func didYouMean(s, prefix string, names iter.Seq[string]) string {
	if n := nearest(s, names); n != "" {
		return "did you mean " + quote(prefix+n) + "?"
	}
	return ""
}

// editDistance counts insertions, deletions, replacements and swaps of neighbours.
func editDistance(a, b string) int {
	if abs(len(a)-len(b)) > 3 {
		return 4
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}
