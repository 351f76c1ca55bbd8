package server

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"warren/coord/domain"
	"warren/proto/record"
)

// Agents that know grants that name peers by bits get those, others get prefixes; both say the same, whoever comes and goes.
func TestGrantPeers(t *testing.T) {
	c := start(t, nil)
	c.set(serversAndClients)
	servers, clients := c.token(domain.TokenWish{Reusable: true, Tags: []string{"server"}}), c.token(domain.TokenWish{Reusable: true})
	knows, other := c.member(servers, "knows"), c.member(servers, "other")
	knows.grantPeers = true
	var names []string
	enrol := func() {
		names = append(names, fmt.Sprintf("client-%d", len(names)))
		c.member(clients, names[len(names)-1])
	}
	for range 40 {
		enrol()
	}
	short, long := knows.watch(0, 0), other.watch(0, 0)
	sources := func(f *follower) string {
		var all []string
		for _, g := range f.statement.GetGrants() {
			prefixes, err := record.PrefixesFromProto(g.GetSources(), record.MaxPrefixes)
			c.must(err)
			for _, p := range prefixes {
				all = append(all, p.String())
			}
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	check := func(what string) {
		t.Helper()
		for f, self := range map[*follower]string{short: "knows", long: "other"} {
			f.sees(slices.Sorted(slices.Values(append(slices.Clone(names), self)))...)
		}
		if short.named != len(names) || long.named != 0 {
			t.Errorf("%s: %d and %d peers are named, want %d and none", what, short.named, long.named, len(names))
		}
		if got, want := sources(short), sources(long); got != want || strings.Count(got, "/") != 2*len(names) {
			t.Errorf("%s: sources %s, else %s", what, got, want)
		}
	}
	check("at first")
	enrol()
	check("one more")
	c.remove(names[7])
	names = slices.Delete(names, 7, 8)
	check("one less")
	short.close()
	short = short.resume()
	short.until("a new statement", func() bool { return short.statements > 0 })
	check("resumed")
}
