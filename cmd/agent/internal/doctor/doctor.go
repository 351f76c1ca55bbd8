// Package doctor finds out what keeps the agent from working on this host, and says what to do about it. Gather collects facts, each by a small
// function that asks the host, the running daemon, or, without one, the network itself; Judge makes findings of them, and asks nobody.
//
//	doctor.go       findings, Judge
//	facts.go        what is known
//	host.go         judgement of the host: TUN, rights, state directory, daemon, service, settings
//	reach.go        judgement of what has to be reached: names, coordinator, clock, UDP, relays
//	network.go      judgement of the host's network: other VPNs, rules, overlaps, forwarding, firewalls
//	gather*.go      collecting facts
package doctor

import "fmt"

// Outcomes of a check.
const (
	OK      = "ok"
	Failed  = "failed"
	Warning = "warning"
	Unknown = "unknown"
)

// Finding is one thing that was checked.
type Finding struct {
	// Name is one of a few words, for programs.
	Name, Outcome string
	// Text is what was seen and Help what to do about it, for a person; Help may be empty.
	Text, Help string
}

// Judge makes findings of facts, in the order in which a person would look. Of each check there is at least one.
func Judge(f Facts) (out []Finding) {
	for _, check := range []func(Facts) []Finding{
		tun, rights, stateDir, daemon, service, settings, membership, names, coordinator, clock, udp, relays, mtu, conflicts, rules, overlaps, forwarding, firewall,
	} {
		out = append(out, check(f)...)
	}
	return out
}

func one(name, outcome, help, format string, args ...any) []Finding {
	return []Finding{{Name: name, Outcome: outcome, Help: help, Text: fmt.Sprintf(format, args...)}}
}

func fine(name, format string, args ...any) []Finding { return one(name, OK, "", format, args...) }

func unknown(name, help, format string, args ...any) []Finding {
	return one(name, Unknown, help, format, args...)
}
