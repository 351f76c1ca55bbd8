package path

import (
	"fmt"
	"slices"
	"time"

	"warren/nat/candidate"
	pb "warren/proto/warrenv1"
)

// Cause is why a path changed: the class of the reason, of which there are few.
type Cause uint8

// The causes. The last four are those by which a direct path is given up.
const (
	InUse Cause = iota + 1
	Idle
	PeerHeard
	PeerLeft // the relay says that the peer is not connected to it
	RelayUp
	RelayDown
	Found       // a direct path answered where there was none
	Better      // another is clearly better than the one in use
	Replaced    // the one in use was in doubt and another answered
	LongLost    // long packets get through no more, or again
	LocalGone   // the local address of the path is no more
	Unanswered  // data goes out, nothing comes back, and checks go unanswered
	ConsentLost // no check was answered for too long (RFC 7675)
	PeerLost    // the peer has given up its own
)

// CauseMax is the last of them.
const CauseMax = PeerLost

// Causes lists all of them.
func Causes() []Cause {
	var out []Cause
	for c := InUse; c <= CauseMax; c++ {
		out = append(out, c)
	}
	return out
}

// String is for people; Label is for metrics and JSON, where it stays stable.
func (c Cause) String() string { text, _ := c.names(); return text }

// Label is one word for the cause.
func (c Cause) Label() string { _, label := c.names(); return label }

func (c Cause) names() (text, label string) {
	names := [...][2]string{
		{"", "none"}, {"peer is in use", "in-use"}, {"idle", "idle"}, {"peer is heard", "peer-heard"}, {"peer is not at the relay", "peer-left"},
		{"relay is connected", "relay-up"}, {"relay is not connected", "relay-down"}, {"a direct path answers", "found"},
		{"a better path answers", "better"}, {"another path answers and this does not", "replaced"}, {"other packet sizes get through", "mtu"},
		{"local address is gone", "local-gone"}, {"nothing comes back", "unanswered"}, {"no check was answered", "consent-lost"},
		{"the peer lost its path here", "peer-lost"},
	}
	if int(c) >= len(names) {
		return fmt.Sprintf("unknown cause %d", c), "unknown"
	}
	return names[c][0], names[c][1]
}

// Demotion reports whether a direct path was given up without a better one.
func (c Cause) Demotion() bool { return c >= LocalGone && c <= PeerLost }

// Explanation is what a Core knows of one peer, for people. It shares nothing with the Core.
type Explanation struct {
	// Configured says that the tunnel has the peer, Awake that checks and signals are sent. Both are false for a peer without a session.
	Configured, Awake bool
	// RelayUp says that this device has a relay, Gone that the relay has no connection to the peer.
	RelayUp, Gone bool
	Path          Path
	Cause         Cause
	Reason        string
	// InterfaceMTU is that of the tunnel's interface, in bytes.
	InterfaceMTU int
	// UsedAt is when data last flowed, HeardAt when the peer's last signal came, NextRound when all pairs are tried anew; zero for never.
	UsedAt, HeardAt, NextRound time.Time
	// Calls is how many calls the peer has left unanswered.
	Calls         int
	Local, Remote []candidate.Candidate
	Birthday      Birthday
	// Pairs are in the order in which they are tried.
	Pairs []PairState
}

// Birthday is how the search for a hard NAT's port stands.
type Birthday struct {
	// Off says that it was turned off here.
	Off bool
	// Trying says that it is under way with this peer, and Sent how many checks that has taken.
	Trying bool
	Sent   int
	// Wishes is how often the peer was told that this side would begin, without agreeing yet.
	Wishes int
	// Failed is how often it failed in a row, and After before when it is not tried again; zero if it may be at any time.
	Failed int
	After  time.Time
}

// PairState is a pair of addresses, and what became of checks of it.
type PairState struct {
	Pair
	// Kind is that of the peer's candidate; unspecified for one that only its checks told of (peer reflexive).
	Kind pb.CandidateKind
	// Sent and Answered count checks since the peer was first tried; LastSent and LastAnswer are zero for never.
	Sent, Answered       int
	LastSent, LastAnswer time.Time
	// HeardAt is when a check of the peer last came this way and earned one in return.
	HeardAt time.Time
	RTT     time.Duration // 0 while unknown
	Current bool
}

// Explain tells about a peer. It changes nothing.
func (c *Core) Explain(id ID) Explanation {
	e := Explanation{RelayUp: c.relayUp, InterfaceMTU: c.mtu, Local: slices.Clone(c.local)}
	e.Birthday.Off = c.cfg.BirthdayRate <= 0
	s := c.sessions[id]
	if s == nil {
		return e
	}
	e.Configured, e.Awake, e.Gone = s.configured, s.awake, s.gone
	e.Path, e.Cause, e.Reason = s.published, s.cause, s.reason
	e.UsedAt, e.HeardAt, e.NextRound = s.usedAt, s.heardAt, s.nextRound
	if s.calling {
		e.Calls = s.callTries
	}
	e.Birthday.Failed, e.Birthday.Wishes = s.huntFailed, s.wishes
	if s.huntAfter.After(c.now) {
		e.Birthday.After = s.huntAfter
	}
	if h := c.hunt; h != nil && h.s == s {
		e.Birthday.Trying, e.Birthday.Sent = h.hard || h.begun, h.sent
	}
	e.Remote = slices.Clone(s.remote)
	for _, p := range s.pairs {
		st := PairState{
			Pair: p.Pair, Sent: p.sent, Answered: p.answered, LastSent: p.lastSent, LastAnswer: p.lastAnswer, HeardAt: p.heardAt,
			RTT: p.rtt, Current: p == s.current,
		}
		for _, r := range s.remote {
			if r.Addr == p.Remote {
				st.Kind = r.Kind
			}
		}
		e.Pairs = append(e.Pairs, st)
	}
	return e
}
