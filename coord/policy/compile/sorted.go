package compile

import (
	"cmp"
	"slices"
)

// sortedUnique makes a set of list, which it reorders: rising, each element once.
func sortedUnique[T cmp.Ordered](list []T) []T {
	slices.Sort(list)
	return slices.Compact(list)
}

// without gives the elements of a set that another one has not.
func without[T cmp.Ordered](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool {
		_, ok := slices.BinarySearch(b, x)
		return ok
	})
}
