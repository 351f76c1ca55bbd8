package why

import (
	"fmt"
	"net/netip"
	"time"

	"warren/nat/candidate"
	"warren/nat/path"
	pb "warren/proto/warrenv1"
)

// grace is how long looking for a direct path may take before its absence needs a reason: a round of checks lasts 1.6 s.
const grace = 2 * time.Second

// What would help, where several reasons lead to the same.
const (
	helpWire    = "send it something, for one by \"warren ping\": checks begin with the first packet"
	helpMapping = "turn on PCP, NAT-PMP or UPnP on the router at either end, forward a UDP port there, or use IPv6 at both ends"
)

// stopped says what stops a better path.
func (w *writer) stopped() {
	switch p := w.Path; {
	case p.Kind == path.Direct:
		w.direct(p.MTU)
	case !w.Configured:
		w.unused()
	case !w.RelayUp && w.Relays > 0:
		w.because("no relay is connected, so the peer cannot be called",
			"see what \"warren netcheck\" says of the relays")
	case !w.RelayUp:
		w.because("the network has no relay, so the peer cannot be called", "start the coordinator with its relay, or a separate relay")
	case w.Gone:
		w.gone()
	default:
		w.relayed()
	}
}

// direct: only smaller things can be wrong.
func (w *writer) direct(mtu int) {
	if mtu > 0 && mtu < w.InterfaceMTU {
		w.because(fmt.Sprintf("packets of more than %d bytes do not get through on this path, though the interface's are up to %d; they are made "+
			"smaller, or take the relay", mtu, w.InterfaceMTU),
			"look for a link with a small MTU between the two, such as PPPoE or another tunnel")
	}
	if w.Theirs.Path == pb.PathKind_PATH_KIND_RELAY {
		w.because(fmt.Sprintf("%s itself sends through its relay%s: its checks are not answered, or not yet", w.Peer, w.ago()))
	}
	if n := w.demotions(); n > 1 {
		w.because(fmt.Sprintf("direct paths were given up %d times within an hour; the last time: %s", n, w.lastReason()),
			"look for a link that drops packets, or a NAT that forgets mappings early")
	}
}

func (w *writer) lastReason() (reason string) {
	for _, c := range w.History {
		if c.Cause.Demotion() {
			reason = c.Reason
		}
	}
	return reason
}

// unused: the tunnel does not have the peer.
func (w *writer) unused() {
	if w.CoordinatorUp && !w.Online {
		w.offline("")
		return
	}
	w.because("no data has gone between the two for a while, so no path is kept", helpWire)
}

func (w *writer) offline(either string) {
	w.because(fmt.Sprintf("%s is not connected to the coordinator%s: it is off, asleep, or without a network", w.Peer, either),
		fmt.Sprintf("wake %s, or see \"warren status\" there", w.Peer))
}

func (w *writer) gone() {
	w.because(fmt.Sprintf("%s is not connected to a relay", w.Peer))
	if w.CoordinatorUp && w.Online {
		w.because("it is connected to the coordinator, so it is awake: its way to the relay is what fails",
			fmt.Sprintf("run \"warren netcheck\" on %s", w.Peer))
		return
	}
	if w.CoordinatorUp {
		w.offline(" either")
	}
}

// relayed: the relay carries the traffic.
func (w *writer) relayed() {
	if !w.Awake {
		w.because("no data has flowed for a while, so a direct path is neither kept nor looked for", helpWire)
		return
	}
	if w.HeardAt.IsZero() {
		w.because(fmt.Sprintf("%s has not told its addresses yet; it was called %s", w.Peer, plural(w.Calls, "time")),
			fmt.Sprintf("if that lasts, see whether the daemon on %s is running and of a current version", w.Peer))
		return
	}
	if at, reason := w.lastDemotion(); !at.IsZero() {
		w.because(fmt.Sprintf("the direct path was given up %s ago: %s", span(w.Now.Sub(at)), reason))
	} else if since := w.Path.Since; !since.IsZero() && w.Now.Sub(since) < grace {
		w.because("the search for a direct path has only begun", "ask again in a few seconds")
		return
	}
	if w.blocked() || w.apart() {
		return
	}
	w.unanswered()
}

// blocked: UDP does not work on one side or both.
func (w *writer) blocked() bool {
	here, there := w.Own.UDP == pb.Reach_REACH_BLOCKED, w.Theirs.UDP == pb.Reach_REACH_BLOCKED
	const help = "let UDP out of the network of %s, at least to the other end and to the STUN server"
	if here {
		w.because("UDP is blocked here: no STUN server answers", fmt.Sprintf(help, "this device"))
	}
	if there {
		w.because(fmt.Sprintf("UDP is blocked at %s, by its own word%s", w.Peer, w.ago()), fmt.Sprintf(help, w.Peer))
	}
	return here || there
}

// apart: the two have no addresses between which a packet could go.
func (w *writer) apart() bool {
	common, local, remote := w.families()
	switch {
	case common:
		return false
	case !local:
		w.because("this device has no address that it could be reached at", "see whether it has a network besides the tunnel")
	case !remote:
		w.because(fmt.Sprintf("%s knows no address that it could be reached at", w.Peer), fmt.Sprintf("run \"warren netcheck\" on %s", w.Peer))
	default:
		w.because("one side has only IPv4 and the other only IPv6", "give both the same version of IP")
	}
	return true
}

// unanswered: checks go out and none is answered.
func (w *writer) unanswered() {
	sent, answered := w.checks()
	here, there := hard(w.Own.Mapping), hard(w.Theirs.Mapping)
	switch {
	case sent == 0:
		w.because("no check has been sent yet", "ask again in a few seconds")
	case here && there:
		w.because("both NATs map each destination to another port, so neither side can foresee where the other will be seen", helpMapping)
	case here || there:
		who, other := "this device", w.Peer
		if there {
			who, other = w.Peer, "this device"
		}
		w.because(fmt.Sprintf("the NAT of %s maps each destination to another port, and what is in front of %s lets in only what it was sent to",
			who, other), helpMapping)
		w.birthday()
	case answered > 0:
		w.because("a direct path worked before and does not answer now")
		w.oneWay()
	case w.heard():
		w.oneWay()
	case w.Own.Mapping == 0 || w.Theirs.Mapping == 0:
		w.because(fmt.Sprintf("none of %s was answered; how the NATs of both sides map is not known, so it may be either of them, or a firewall",
			plural(sent, "check")), "run \"warren netcheck\" on both sides", helpMapping)
	default:
		w.because(fmt.Sprintf("none of %s was answered, though neither NAT is of the kind that would explain it: a firewall drops them",
			plural(sent, "check")), "let UDP through between the two; \"warren netcheck\" on both sides shows which filters")
	}
	if next := w.NextRound; next.After(w.Now) {
		w.because(fmt.Sprintf("the next attempt is in %s", span(next.Sub(w.Now))))
	}
}

// birthday: where one NAT is hard, its ports are tried at random.
func (w *writer) birthday() {
	switch b := w.Birthday; {
	case b.Off:
		w.because("ports of that NAT are not tried at random, which is turned off here", "start the daemon without --hard-nat-rate 0")
	case b.Trying:
		w.because(fmt.Sprintf("ports of that NAT are being tried at random; %s sent so far", plural(b.Sent, "check")), "ask again in 15 seconds")
	case b.Failed > 0 && b.After.After(w.Now):
		w.because(fmt.Sprintf("its ports were tried at random, in vain; that is tried again in %s", span(b.After.Sub(w.Now))))
	case b.Wishes > 1:
		w.because(fmt.Sprintf("its ports are tried at random once %s is free for it, which it was asked %s: one peer's are tried at a time",
			w.Peer, plural(b.Wishes, "time")))
	default:
		w.because("its ports are tried at random while data flows, if both sides do that")
	}
}

// oneWay: checks of the peer come in.
func (w *writer) oneWay() {
	if w.heard() {
		w.because(fmt.Sprintf("checks of %s arrive here but ours are not answered: something lets packets pass in one direction only", w.Peer),
			fmt.Sprintf("look at the firewall of %s, and at what this network lets out", w.Peer))
	}
}

// ago tells how old the peer's word is, if it is not fresh.
func (w *writer) ago() string {
	if d := w.Now.Sub(w.TheirsAt); d > 5*time.Second {
		return " (" + span(d) + " ago)"
	}
	return ""
}

func hard(m pb.Mapping) bool {
	return m == pb.Mapping_MAPPING_ADDRESS_DEPENDENT || m == pb.Mapping_MAPPING_ADDRESS_AND_PORT_DEPENDENT
}

func addresses(list []candidate.Candidate) (out []netip.AddrPort) {
	for _, c := range list {
		out = append(out, c.Addr)
	}
	return out
}
