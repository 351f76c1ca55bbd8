package why

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"warren/nat/path"
	pb "warren/proto/warrenv1"
)

// goal is one address of the peer, with what became of checks from all local ones.
type goal struct {
	remote         netip.AddrPort
	kind           pb.CandidateKind
	sent, answered int
	heard          time.Time
	rtt            time.Duration
	current        bool
}

// goals are in the order in which the first pair of each is tried.
func (f Facts) goals() (out []goal) {
	for _, p := range f.Pairs {
		i := slices.IndexFunc(out, func(g goal) bool { return g.remote == p.Remote })
		if i < 0 {
			i = len(out)
			out = append(out, goal{remote: p.Remote, kind: p.Kind})
		}
		g := &out[i]
		g.sent, g.answered = g.sent+p.Sent, g.answered+p.Answered
		g.current = g.current || p.Current
		if p.HeardAt.After(g.heard) {
			g.heard = p.HeardAt
		}
		if p.RTT > 0 && (g.rtt == 0 || p.RTT < g.rtt) {
			g.rtt = p.RTT
		}
	}
	return out
}

func (f Facts) tried() (out []string) {
	for _, g := range f.goals() {
		s := fmt.Sprintf("%s (%s): ", g.remote, KindName(g.kind))
		switch {
		case g.sent == 0:
			s += "not checked yet"
		case g.answered == 0 && !g.heard.IsZero():
			s += plural(g.sent, "check") + ", none answered, though checks come from there"
		case g.answered == 0:
			s += plural(g.sent, "check") + ", none answered"
		case g.rtt > 0:
			s += fmt.Sprintf("answers, round trip %.1f ms", float64(g.rtt)/float64(time.Millisecond))
		default:
			s += "answered before"
		}
		if g.current {
			s += "; in use"
		}
		out = append(out, s)
	}
	return out
}

// KindName is a person's word for where an address came from.
func KindName(k pb.CandidateKind) string {
	switch k {
	case pb.CandidateKind_CANDIDATE_KIND_HOST:
		return "host"
	case pb.CandidateKind_CANDIDATE_KIND_SERVER_REFLEXIVE:
		return "server reflexive"
	case pb.CandidateKind_CANDIDATE_KIND_PORT_MAPPED:
		return "port mapped"
	}
	return "peer reflexive"
}

// families tells which versions of IP both sides have addresses of, and which one side has.
func (f Facts) families() (common, local, remote bool) {
	var has [2][2]bool
	for side, list := range [...][]netip.AddrPort{addresses(f.Local), addresses(f.Remote)} {
		for _, a := range list {
			if a.Addr().Is4() {
				has[side][0] = true
			} else {
				has[side][1] = true
			}
		}
	}
	return has[0][0] && has[1][0] || has[0][1] && has[1][1], has[0] != [2]bool{}, has[1] != [2]bool{}
}

// lastDemotion gives the last time that a direct path was given up, if that was the last that happened to the path.
func (f Facts) lastDemotion() (at time.Time, reason string) {
	if n := len(f.History); n > 0 && f.History[n-1].Cause.Demotion() {
		return f.History[n-1].At, f.History[n-1].Reason
	}
	return time.Time{}, ""
}

// demotions counts direct paths given up in the last hour.
func (f Facts) demotions() (n int) {
	for _, c := range f.History {
		if c.Cause.Demotion() && f.Now.Sub(c.At) < time.Hour {
			n++
		}
	}
	return n
}

// checks counts those that were sent and those of them that were answered.
func (f Facts) checks() (sent, answered int) {
	for _, p := range f.Pairs {
		sent, answered = sent+p.Sent, answered+p.Answered
	}
	return sent, answered
}

// heard reports whether checks of the peer reach us.
func (f Facts) heard() bool {
	return slices.ContainsFunc(f.Pairs, func(p path.PairState) bool { return !p.HeardAt.IsZero() })
}
