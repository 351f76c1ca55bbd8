// Package skew tests programs of today together with those of older commits, which it builds from the repository's history: make test-system
// runs it, by -tags skew. WARREN_BIN may name a directory with the programs of today, WARREN_OLD_BIN one that has those of older commits in
// subdirectories.
package skew
