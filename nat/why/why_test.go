package why

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/nat/candidate"
	"warren/nat/path"
	"warren/nat/traversal"
	pb "warren/proto/warrenv1"
)

var (
	now    = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	lan    = netip.MustParseAddrPort("192.168.2.2:41641")
	theirs = netip.MustParseAddrPort("192.168.3.2:41641")
	seen   = netip.MustParseAddrPort("203.0.113.9:41641")
	other  = netip.MustParseAddrPort("203.0.113.17:9")
	six    = netip.MustParseAddrPort("[2001:db8::1]:41641")
)

const (
	host    = pb.CandidateKind_CANDIDATE_KIND_HOST
	reflex  = pb.CandidateKind_CANDIDATE_KIND_SERVER_REFLEXIVE
	easyMap = pb.Mapping_MAPPING_ENDPOINT_INDEPENDENT
	hardMap = pb.Mapping_MAPPING_ADDRESS_AND_PORT_DEPENDENT
	works   = pb.Reach_REACH_WORKS
	blocked = pb.Reach_REACH_BLOCKED
)

func ago(d time.Duration) time.Time { return now.Add(-d) }

// relayed is a peer that has been relayed for ten minutes, with NATs of which nothing is known.
func relayed() Facts {
	f := Facts{Now: now, Peer: "desk", CoordinatorUp: true, Online: true, Relays: 1}
	f.Configured, f.Awake, f.RelayUp, f.InterfaceMTU = true, true, true, 1420
	f.Path = traversal.Path{Kind: path.Relay, Relay: "coordinator", RTT: 21300 * time.Microsecond, Since: ago(10 * time.Minute)}
	f.Reason, f.Cause, f.HeardAt, f.UsedAt = "peer is in use", path.InUse, ago(time.Second), now
	f.Local = []candidate.Candidate{{Kind: host, Addr: lan}}
	f.Remote = []candidate.Candidate{{Kind: host, Addr: theirs}, {Kind: reflex, Addr: seen}}
	f.Pairs = []path.PairState{
		{Pair: path.Pair{Local: lan.Addr(), Remote: seen}, Kind: reflex, Sent: 20, LastSent: ago(time.Second)},
		{Pair: path.Pair{Local: lan.Addr(), Remote: theirs}, Kind: host, Sent: 1, LastSent: ago(time.Second)},
	}
	f.History = []traversal.Change{{At: ago(10 * time.Minute), Kind: path.Relay, Cause: path.InUse, Reason: "peer is in use"}}
	f.TheirsAt = ago(time.Second)
	return f
}

func direct() Facts {
	f := relayed()
	f.Path = traversal.Path{Kind: path.Direct, Local: lan, Remote: seen, RTT: 4 * time.Millisecond, MTU: 1420, Since: ago(90 * time.Second)}
	f.Reason, f.Cause = "a direct path answers", path.Found
	f.Pairs[0].Answered, f.Pairs[0].RTT, f.Pairs[0].Current = 18, 4*time.Millisecond, true
	f.History = append(f.History, traversal.Change{At: ago(90 * time.Second), Kind: path.Direct, Cause: path.Found})
	return f
}

func views(here, there pb.Mapping) func(*Facts) {
	return func(f *Facts) {
		f.Own.UDP, f.Theirs.UDP, f.Own.Mapping, f.Theirs.Mapping = works, works, here, there
	}
}

func nothing(*Facts) {}

// TestStopped has every situation: what is said to stop a better path, and to help.
func TestStopped(t *testing.T) {
	const hardHere = "the NAT of this device maps each destination to another port, and what is in front of desk lets in only what it was sent to"
	const firewall = "look at the firewall of desk, and at what this network lets out"
	for name, tc := range map[string]struct {
		from          func() Facts
		change        func(*Facts)
		stopped, help []string
	}{
		"a direct path": {from: direct, change: nothing},
		"a small MTU": {direct, func(f *Facts) { f.Path.MTU = 1280 },
			[]string{"packets of more than 1280 bytes do not get through on this path, though the interface's are up to 1420; they are made smaller, or take the relay"},
			[]string{"look for a link with a small MTU between the two, such as PPPoE or another tunnel"}},
		"direct for one side only": {direct, func(f *Facts) { f.Theirs.Path, f.TheirsAt = pb.PathKind_PATH_KIND_RELAY, ago(30*time.Second) },
			[]string{"desk itself sends through its relay (30 seconds ago): its checks are not answered, or not yet"}, nil},
		"a shaky path": {direct, func(f *Facts) {
			f.History = []traversal.Change{
				{At: ago(3 * time.Hour), Cause: path.Unanswered, Reason: "long ago"},
				{At: ago(9 * time.Minute), Cause: path.Unanswered, Reason: "nothing comes back and 4 checks went unanswered"},
				{At: ago(8 * time.Minute), Cause: path.Found},
				{At: ago(7 * time.Minute), Cause: path.ConsentLost, Reason: "no check was answered for 6.5s"},
				{At: ago(6 * time.Minute), Kind: path.Direct, Cause: path.Found},
			}
		}, []string{"direct paths were given up 2 times within an hour; the last time: no check was answered for 6.5s"},
			[]string{"look for a link that drops packets, or a NAT that forgets mappings early"}},
		"never used": {func() Facts { return Facts{Now: now, Peer: "desk", CoordinatorUp: true, Online: true, Relays: 1} }, nothing,
			[]string{"no data has gone between the two for a while, so no path is kept"}, []string{helpWire}},
		"never used and off": {func() Facts { return Facts{Now: now, Peer: "desk", CoordinatorUp: true, Relays: 1} }, nothing,
			[]string{"desk is not connected to the coordinator: it is off, asleep, or without a network"},
			[]string{`wake desk, or see "warren status" there`}},
		"never used, coordinator away": {func() Facts { return Facts{Now: now, Peer: "desk", Relays: 1} }, nothing,
			[]string{"no data has gone between the two for a while, so no path is kept"}, []string{helpWire}},
		"no relay connected": {relayed, func(f *Facts) { f.Path, f.RelayUp = traversal.Path{}, false },
			[]string{"no relay is connected, so the peer cannot be called"}, []string{`see what "warren netcheck" says of the relays`}},
		"no relay at all": {relayed, func(f *Facts) { f.Path, f.RelayUp, f.Relays = traversal.Path{}, false, 0 },
			[]string{"the network has no relay, so the peer cannot be called"}, []string{"start the coordinator with its relay, or a separate relay"}},
		"peer asleep": {relayed, func(f *Facts) { f.Path, f.Gone, f.Online = traversal.Path{}, true, false },
			[]string{"desk is not connected to a relay", "desk is not connected to the coordinator either: it is off, asleep, or without a network"},
			[]string{`wake desk, or see "warren status" there`}},
		"peer without relay": {relayed, func(f *Facts) { f.Path, f.Gone = traversal.Path{}, true },
			[]string{"desk is not connected to a relay", "it is connected to the coordinator, so it is awake: its way to the relay is what fails"},
			[]string{`run "warren netcheck" on desk`}},
		"peer gone, coordinator away": {relayed, func(f *Facts) { f.Path, f.Gone, f.CoordinatorUp, f.Online = traversal.Path{}, true, false, false },
			[]string{"desk is not connected to a relay"}, nil},
		"idle": {relayed, func(f *Facts) { f.Awake = false },
			[]string{"no data has flowed for a while, so a direct path is neither kept nor looked for"}, []string{helpWire}},
		"call unanswered": {relayed, func(f *Facts) { f.HeardAt, f.Remote, f.Pairs, f.Calls = time.Time{}, nil, nil, 3 },
			[]string{"desk has not told its addresses yet; it was called 3 times"},
			[]string{"if that lasts, see whether the daemon on desk is running and of a current version"}},
		"only begun": {relayed, func(f *Facts) { f.Path.Since = ago(time.Second) },
			[]string{"the search for a direct path has only begun"}, []string{"ask again in a few seconds"}},
		"blocked here": {relayed, func(f *Facts) { f.Own.UDP = blocked },
			[]string{"UDP is blocked here: no STUN server answers"},
			[]string{"let UDP out of the network of this device, at least to the other end and to the STUN server"}},
		"blocked there": {relayed, func(f *Facts) { f.Theirs.UDP, f.TheirsAt = blocked, ago(3*time.Minute) },
			[]string{"UDP is blocked at desk, by its own word (3 minutes ago)"},
			[]string{"let UDP out of the network of desk, at least to the other end and to the STUN server"}},
		"IPv4 against IPv6": {relayed, func(f *Facts) { f.Remote = []candidate.Candidate{{Kind: host, Addr: six}} },
			[]string{"one side has only IPv4 and the other only IPv6"}, []string{"give both the same version of IP"}},
		"no address here": {relayed, func(f *Facts) { f.Local = nil },
			[]string{"this device has no address that it could be reached at"}, []string{"see whether it has a network besides the tunnel"}},
		"no address there": {relayed, func(f *Facts) { f.Remote = nil },
			[]string{"desk knows no address that it could be reached at"}, []string{`run "warren netcheck" on desk`}},
		"hard against hard": {relayed, views(hardMap, hardMap),
			[]string{"both NATs map each destination to another port, so neither side can foresee where the other will be seen"}, []string{helpMapping}},
		"hard here": {relayed, views(hardMap, easyMap),
			[]string{hardHere, "its ports are tried at random while data flows, if both sides do that"}, []string{helpMapping}},
		"hard here, turned off": {relayed, func(f *Facts) { views(hardMap, easyMap)(f); f.Birthday.Off = true },
			[]string{hardHere, "ports of that NAT are not tried at random, which is turned off here"},
			[]string{helpMapping, "start the daemon without --hard-nat-rate 0"}},
		"hard here, trying": {relayed, func(f *Facts) { views(hardMap, easyMap)(f); f.Birthday = path.Birthday{Trying: true, Sent: 256} },
			[]string{hardHere, "ports of that NAT are being tried at random; 256 checks sent so far"}, []string{helpMapping, "ask again in 15 seconds"}},
		"hard here, in vain": {relayed, func(f *Facts) {
			views(hardMap, easyMap)(f)
			f.Birthday = path.Birthday{Failed: 1, After: now.Add(50 * time.Minute)}
		}, []string{hardHere, "its ports were tried at random, in vain; that is tried again in 50 minutes"}, []string{helpMapping}},
		"hard here, desk busy": {relayed, func(f *Facts) { views(hardMap, easyMap)(f); f.Birthday.Wishes = 3 },
			[]string{hardHere, "its ports are tried at random once desk is free for it, which it was asked 3 times: one peer's are tried at a time"},
			[]string{helpMapping}},
		"hard there": {relayed, views(easyMap, pb.Mapping_MAPPING_ADDRESS_DEPENDENT),
			[]string{"the NAT of desk maps each destination to another port, and what is in front of this device lets in only what it was sent to",
				"its ports are tried at random while data flows, if both sides do that"},
			[]string{helpMapping}},
		"NATs unknown": {relayed, nothing,
			[]string{"none of 21 checks was answered; how the NATs of both sides map is not known, so it may be either of them, or a firewall"},
			[]string{`run "warren netcheck" on both sides`, helpMapping}},
		"a firewall": {relayed, views(easyMap, pb.Mapping_MAPPING_NONE),
			[]string{"none of 21 checks was answered, though neither NAT is of the kind that would explain it: a firewall drops them"},
			[]string{`let UDP through between the two; "warren netcheck" on both sides shows which filters`}},
		"one direction": {relayed, func(f *Facts) { views(easyMap, easyMap)(f); f.Pairs[0].HeardAt = ago(time.Second) },
			[]string{"checks of desk arrive here but ours are not answered: something lets packets pass in one direction only"}, []string{firewall}},
		"given up": {relayed, func(f *Facts) {
			views(easyMap, easyMap)(f)
			f.History = append(f.History, traversal.Change{At: ago(20 * time.Second), Kind: path.Relay, Cause: path.Unanswered, Reason: "nothing comes back"})
			f.Pairs[0].Answered, f.NextRound = 3, now.Add(40*time.Second)
		}, []string{"the direct path was given up 20 seconds ago: nothing comes back", "a direct path worked before and does not answer now",
			"the next attempt is in 40 seconds"}, nil},
		"no check yet": {relayed, func(f *Facts) { f.Pairs[0].Sent, f.Pairs[1].Sent = 0, 0 },
			[]string{"no check has been sent yet"}, []string{"ask again in a few seconds"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := tc.from()
			tc.change(&f)
			w := Explain(f)
			if diff := cmp.Diff(tc.stopped, w.Stopped); diff != "" {
				t.Errorf("stopped: %s", diff)
			}
			if diff := cmp.Diff(tc.help, w.Help); diff != "" {
				t.Errorf("help: %s", diff)
			}
			for _, s := range append(append([]string{w.Now}, w.Stopped...), append(w.Tried, w.Help...)...) {
				if s == "" || strings.HasSuffix(s, ".") || strings.Contains(s, "  ") || strings.Contains(s, "%!") {
					t.Errorf("%q is not as sentences are here", s)
				}
			}
		})
	}
}

func TestNow(t *testing.T) {
	for want, change := range map[string]func(*Facts){
		"relayed by coordinator, for 10 minutes, round trip 21.3 ms; peer is in use": nothing,
		"relayed":                        func(f *Facts) { f.Path, f.Reason = traversal.Path{Kind: path.Relay}, "" },
		"no path; peer is in use":        func(f *Facts) { f.Path = traversal.Path{} },
		"no path, since nothing is sent": func(f *Facts) { f.Path, f.Configured = traversal.Path{}, false },
		"direct, from 192.168.2.2:41641 to 203.0.113.9:41641, for 90 seconds, round trip 4.0 ms; a direct path answers": func(f *Facts) { *f = direct() },
		"direct, to 203.0.113.9:41641, for less than a second; a direct path answers": func(f *Facts) {
			*f = direct()
			f.Path = traversal.Path{Kind: path.Direct, Remote: seen, Since: now}
		},
	} {
		f := relayed()
		change(&f)
		if got := Explain(f).Now; got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

func TestTried(t *testing.T) {
	f := direct()
	f.Pairs = append(f.Pairs,
		path.PairState{Pair: path.Pair{Local: six.Addr(), Remote: theirs}, Kind: host, Sent: 2},
		path.PairState{Pair: path.Pair{Remote: other}, Sent: 1, HeardAt: now},
		path.PairState{Pair: path.Pair{Remote: six}, Kind: pb.CandidateKind_CANDIDATE_KIND_PORT_MAPPED},
		path.PairState{Pair: path.Pair{Remote: lan}, Kind: host, Sent: 9, Answered: 1},
	)
	want := []string{
		"203.0.113.9:41641 (server reflexive): answers, round trip 4.0 ms; in use",
		"192.168.3.2:41641 (host): 3 checks, none answered",
		"203.0.113.17:9 (peer reflexive): 1 check, none answered, though checks come from there",
		"[2001:db8::1]:41641 (port mapped): not checked yet",
		"192.168.2.2:41641 (host): answered before",
	}
	if diff := cmp.Diff(want, Explain(f).Tried); diff != "" {
		t.Error(diff)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "less than a second", 0: "less than a second", time.Second: "1 second", 119 * time.Second: "119 seconds",
		2 * time.Minute: "2 minutes", 90 * time.Minute: "90 minutes", 5 * time.Hour: "5 hours", 49 * time.Hour: "2 days",
	} {
		if got := span(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}
