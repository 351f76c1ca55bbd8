package engine

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/proto/key"
)

// world is a device, a Bind and a TUN wrapper that only remember what they were told.
type world struct {
	device   map[string][]string // peer's public key in base64 -> prefixes
	counts   map[[key.Size]byte]counters
	tun      map[string]bool
	released map[string]int
	forgot   map[string]int
	traffic  map[string]time.Time
	calling  map[string]bool // peers whose initiation is held
	reads    int
	fail     error

	keepalives []string // what the device was told about them
	set        []string // peers for which something was applied, and whether only if it had them
}

func newWorld() *world {
	return &world{
		device: map[string][]string{}, counts: map[[key.Size]byte]counters{}, tun: map[string]bool{},
		calling: map[string]bool{}, released: map[string]int{}, forgot: map[string]int{}, traffic: map[string]time.Time{},
	}
}

func (w *world) apply(lines string) error {
	if w.fail != nil {
		return w.fail
	}
	peer, updateOnly := "", false
	for line := range strings.Lines(lines) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "public_key":
			raw, _ := hex.DecodeString(value)
			k, err := key.NodePublicFromBytes(raw)
			if err != nil {
				return err
			}
			peer, updateOnly = k.String(), false
			w.set = append(w.set, peer)
		case "update_only":
			updateOnly = true
			w.set[len(w.set)-1] += " update"
		case "remove":
			delete(w.device, peer)
		case "replace_allowed_ips":
			if _, ok := w.device[peer]; ok || !updateOnly {
				w.device[peer] = []string{}
			}
		case "allowed_ip":
			for other, list := range w.device { // one owner for each
				for i, p := range list {
					if p == value {
						w.device[other] = append(list[:i:i], list[i+1:]...)
					}
				}
			}
			w.device[peer] = append(w.device[peer], value)
		case "persistent_keepalive_interval":
			w.keepalives = append(w.keepalives, value)
		case "endpoint":
			if value != peer {
				return fmt.Errorf("endpoint %s of peer %s", value, peer)
			}
		default:
			return fmt.Errorf("line %q", line)
		}
	}
	return nil
}

func (w *world) peers() (map[[key.Size]byte]counters, error) { w.reads++; return w.counts, nil }

func (w *world) Forget(k key.NodePublic) { w.forgot[k.String()]++ }

func (w *world) Release(k key.NodePublic) bool {
	w.released[k.String()]++
	return w.calling[k.String()]
}

func (w *world) Traffic(k key.NodePublic) (sent, received time.Time) {
	return w.traffic[k.String()], time.Time{}
}

func (w *world) Configured(k key.NodePublic, on bool) {
	if on {
		w.tun[k.String()] = true
	} else {
		delete(w.tun, k.String())
	}
}

func (w *world) roster(most int) *roster {
	return newRoster(w, w, w, slog.New(slog.DiscardHandler), 5*time.Minute, most)
}

// setPeers makes the members those of a whole map.
func (r *roster) setPeers(peers []Peer) { r.change(r.diff(peers)) }

func nodes(n int) (out []key.NodePublic) {
	for range n {
		out = append(out, key.NewNode().Public())
	}
	return out
}

func peerOf(k key.NodePublic, prefixes ...string) Peer {
	p := Peer{NodeKey: k}
	for _, s := range prefixes {
		p.Prefixes = append(p.Prefixes, netip.MustParsePrefix(s))
	}
	return p
}

// told gives the events as text.
func told(r *roster, names map[string]string) string {
	var out []string
	for _, e := range r.takeEvents() {
		out = append(out, map[bool]string{true: "+", false: "-"}[e.active]+names[e.peer.String()])
	}
	return strings.Join(out, " ")
}

func TestRosterLazy(t *testing.T) {
	w, k := newWorld(), nodes(3)
	a, b := k[0], k[1]
	names := map[string]string{a.String(): "a", b.String(): "b"}
	r := w.roster(10)
	now := time.Now()
	r.setPeers([]Peer{peerOf(a, "100.64.0.1/32"), peerOf(b, "100.64.0.2/32", "10.0.0.0/8")})
	if len(w.device) != 0 {
		t.Fatal("peers are configured before anyone wants them")
	}
	r.want(k[2], now) // not in the map
	r.want(b, now)
	r.want(b, now)
	if diff := cmp.Diff(map[string][]string{b.String(): {"100.64.0.2/32", "10.0.0.0/8"}}, w.device); diff != "" {
		t.Errorf("device (-want +got):\n%s", diff)
	}
	if got := told(r, names); got != "+b" || !w.tun[b.String()] || w.released[b.String()] != 2 {
		t.Errorf("told %q, TUN %v, released %v", got, w.tun, w.released)
	}
	// Traffic keeps it, its end removes it.
	w.traffic[b.String()] = now.Add(4 * time.Minute)
	w.counts[b.Raw()] = counters{handshake: now, rx: 5, tx: 7}
	r.sweep(now.Add(8 * time.Minute))
	if len(w.device) != 1 {
		t.Error("a peer in use was removed")
	}
	r.sweep(now.Add(9 * time.Minute))
	if got := told(r, names); len(w.device) != 0 || w.tun[b.String()] || w.forgot[b.String()] != 1 || got != "-b" {
		t.Errorf("an idle peer was not removed: device %v, TUN %v, told %q", w.device, w.tun, got)
	}
	delete(w.counts, b.Raw())
	want := []PeerStats{{NodeKey: b, LastHandshake: now, RxBytes: 5, TxBytes: 7}}
	if diff := cmp.Diff(want, r.stats(), cmp.Comparer(key.NodePublic.Equal)); diff != "" {
		t.Errorf("counts of a removed peer (-want +got):\n%s", diff)
	}
	r.want(b, now)
	w.counts[b.Raw()] = counters{handshake: now.Add(time.Hour), rx: 1, tx: 1}
	want = []PeerStats{{NodeKey: b, LastHandshake: now.Add(time.Hour), RxBytes: 6, TxBytes: 8, Configured: true}}
	if diff := cmp.Diff(want, r.stats(), cmp.Comparer(key.NodePublic.Equal)); diff != "" {
		t.Errorf("counts add up wrongly (-want +got):\n%s", diff)
	}
}

func TestRosterMapChanges(t *testing.T) {
	w, k := newWorld(), nodes(3)
	a, b, c := k[0], k[1], k[2]
	r := w.roster(10)
	now := time.Now()
	r.setPeers([]Peer{peerOf(a, "10.0.0.1/32"), peerOf(b, "10.0.0.2/32"), peerOf(c, "10.0.0.3/32")})
	for _, n := range k {
		r.want(n, now)
	}
	// b is gone, its prefix moves to c, a stays as it is.
	r.setPeers([]Peer{peerOf(a, "10.0.0.1/32"), peerOf(c, "10.0.0.3/32", "10.0.0.2/32")})
	want := map[string][]string{a.String(): {"10.0.0.1/32"}, c.String(): {"10.0.0.3/32", "10.0.0.2/32"}}
	if diff := cmp.Diff(want, w.device); diff != "" {
		t.Errorf("device (-want +got):\n%s", diff)
	}
	if w.tun[b.String()] || w.forgot[b.String()] == 0 || w.forgot[a.String()] != 0 {
		t.Errorf("TUN %v, forgotten %v", w.tun, w.forgot)
	}
	r.want(b, now)
	if len(w.device) != 2 {
		t.Error("a peer that left the map can be configured")
	}
	// Prefixes swap owners in one change.
	r.setPeers([]Peer{peerOf(a, "10.0.0.3/32"), peerOf(c, "10.0.0.1/32")})
	want = map[string][]string{a.String(): {"10.0.0.3/32"}, c.String(): {"10.0.0.1/32"}}
	if diff := cmp.Diff(want, w.device); diff != "" {
		t.Errorf("device after a swap (-want +got):\n%s", diff)
	}
	r.setPeers(nil)
	if len(w.device)+len(w.tun)+len(r.byKey)+len(r.configured) != 0 {
		t.Error("an empty map leaves something")
	}
}

func TestRosterRotation(t *testing.T) {
	w, k := newWorld(), nodes(2)
	old, next := k[0], k[1]
	names := map[string]string{old.String(): "old", next.String(): "next"}
	r := w.roster(10)
	now := time.Now()
	p, device := "10.0.0.1/32", key.NewDevice().Public()
	peer := func(k, next key.NodePublic) []Peer {
		return []Peer{{Device: device, NodeKey: k, NextNodeKey: next, Prefixes: []netip.Prefix{netip.MustParsePrefix(p)}}}
	}
	step := func(do string, wantDevice key.NodePublic, wantTUN key.NodePublic, events string) {
		t.Helper()
		if diff := cmp.Diff(map[string][]string{wantDevice.String(): {p}}, w.device); diff != "" {
			t.Errorf("%s: device (-want +got):\n%s", do, diff)
		}
		if diff := cmp.Diff(map[string]bool{wantTUN.String(): true}, w.tun); diff != "" {
			t.Errorf("%s: TUN (-want +got):\n%s", do, diff)
		}
		if got := told(r, names); got != events {
			t.Errorf("%s: told %q, want %q", do, got, events)
		}
	}
	r.setPeers(peer(old, key.NodePublic{}))
	r.want(old, now)
	step("configured", old, old, "+old")
	r.setPeers(peer(old, next))
	step("a next key is announced", old, old, "")
	r.want(next, now)
	step("the peer calls with the next key", next, old, "-old +old")
	r.want(old, now)
	step("its current key is wanted by traffic", next, old, "")
	r.setPeers(peer(next, key.NodePublic{}))
	step("the next key is the current one", next, next, "-old +next")
	if w.forgot[next.String()] != 0 {
		t.Error("the key in use was forgotten")
	}
	r.setPeers(peer(old, key.NodePublic{}))
	if len(w.device) != 0 {
		t.Error("a key that is no longer the peer's stays configured")
	}
}

// TestRosterCallsAgain: those of whom nothing was heard are made anew in the device, and called; for others they stayed where they are.
func TestRosterCallsAgain(t *testing.T) {
	w, k := newWorld(), nodes(4)
	r, now := w.roster(10), time.Now()
	r.setPeers([]Peer{peerOf(k[0], "10.0.0.1/32"), peerOf(k[1], "10.0.0.2/32"), peerOf(k[2], "10.0.0.3/32")})
	r.want(k[0], now)
	r.want(k[1], now)
	w.counts[k[0].Raw()] = counters{tx: 148}
	w.counts[k[1].Raw()] = counters{handshake: now, tx: 148}
	r.takeEvents()
	w.keepalives = nil
	got := r.callAgain(k) // k[2] is not configured, k[3] unknown
	if diff := cmp.Diff([]key.NodePublic{k[0]}, got, cmp.Comparer(key.NodePublic.Equal)); diff != "" {
		t.Errorf("called (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"1", "0"}, w.keepalives); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	want := map[string][]string{k[0].String(): {"10.0.0.1/32"}, k[1].String(): {"10.0.0.2/32"}}
	if diff := cmp.Diff(want, w.device); diff != "" {
		t.Errorf("device (-want +got)\n%s", diff)
	}
	if ev := r.takeEvents(); len(ev) > 0 || w.forgot[k[0].String()] > 0 || !w.tun[k[0].String()] {
		t.Errorf("others were told: %v, %v, %v", ev, w.forgot, w.tun)
	}
	w.counts[k[0].Raw()] = counters{tx: 148}
	if s := r.stats(); s[slices.IndexFunc(s, func(p PeerStats) bool { return p.NodeKey.Equal(k[0]) })].TxBytes != 296 {
		t.Errorf("counted %+v", s)
	}
}

// TestRosterRecalls: those that are configured under the key are set to what they are, and nobody is added.
func TestRosterRecalls(t *testing.T) {
	w, k := newWorld(), nodes(4)
	r := w.roster(10)
	rotating := peerOf(k[1], "10.0.0.2/32")
	rotating.NextNodeKey = k[3]
	r.setPeers([]Peer{peerOf(k[0], "10.0.0.1/32"), rotating, peerOf(k[2], "10.0.0.3/32")})
	for _, want := range []key.NodePublic{k[0], k[3]} {
		r.want(want, time.Now())
	}
	before := maps.Clone(w.device)
	w.set = nil
	r.recall(append(nodes(1), k...))
	if diff := cmp.Diff([]string{k[0].String() + " update", k[3].String() + " update"}, w.set); diff != "" {
		t.Errorf("peers set (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(before, w.device); diff != "" {
		t.Errorf("device (-want +got)\n%s", diff)
	}
}

func TestRosterBound(t *testing.T) {
	w, k := newWorld(), nodes(100)
	r := w.roster(32)
	now := time.Now()
	var peers []Peer
	for i, n := range k {
		peers = append(peers, peerOf(n, fmt.Sprintf("10.0.0.%d/32", i)))
	}
	r.setPeers(peers)
	w.traffic[k[0].String()] = now.Add(time.Hour) // the first is busy
	for i, n := range k {
		r.want(n, now.Add(time.Duration(i)*time.Second))
		if len(w.device) > 32 {
			t.Fatalf("%d peers configured", len(w.device))
		}
	}
	if w.device[k[0].String()] == nil || w.device[k[99].String()] == nil || w.device[k[1].String()] != nil {
		t.Error("not the least recently used were removed")
	}
	if w.reads > 40 {
		t.Errorf("the device's counters were read %d times", w.reads)
	}
}

// TestRosterCalls: whoever is configured gets a handshake, unless it began one itself.
// TestRosterActive: those that were used lately come first, by the key that is in use; those of long ago do not come at all.
func TestRosterActive(t *testing.T) {
	w, k := newWorld(), nodes(5)
	r := w.roster(10)
	now := time.Now()
	rotating := peerOf(k[1], "100.64.0.1/32")
	rotating.NextNodeKey = k[4]
	r.setPeers([]Peer{peerOf(k[0]), rotating, peerOf(k[2]), peerOf(k[3])})
	for _, want := range []key.NodePublic{k[0], k[4], k[2]} { // k[3] is in the map only
		r.want(want, now)
	}
	w.traffic[k[4].String()], w.traffic[k[0].String()] = now.Add(2*time.Minute), now.Add(time.Minute)
	if diff := cmp.Diff([]key.NodePublic{k[4], k[0]}, r.active(now.Add(time.Minute)), cmp.Comparer(key.NodePublic.Equal)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestRosterCalls(t *testing.T) {
	w, k := newWorld(), nodes(2)
	r := w.roster(10)
	r.setPeers([]Peer{peerOf(k[0], "10.0.0.1/32"), peerOf(k[1], "10.0.0.2/32")})
	w.calling[k[0].String()] = true
	r.want(k[0], time.Now())
	if len(w.keepalives) != 0 {
		t.Error("we call a peer that has called us")
	}
	r.want(k[1], time.Now())
	if diff := cmp.Diff([]string{"1", "0"}, w.keepalives); diff != "" {
		t.Errorf("calling a peer (-want +got):\n%s", diff)
	}
}

func TestRosterDeviceRefuses(t *testing.T) {
	w, k := newWorld(), nodes(1)
	r := w.roster(10)
	r.setPeers([]Peer{peerOf(k[0], "10.0.0.1/32")})
	w.fail = errors.New("no")
	r.want(k[0], time.Now())
	if len(w.tun)+len(w.released)+len(r.configured)+len(r.takeEvents()) != 0 {
		t.Error("a peer that the device refused counts as configured")
	}
}

// TestRosterModel drives random maps, wants, traffic and time, and checks what must always hold.
func TestRosterModel(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 7))
		w, pool := newWorld(), nodes(12)
		var devices []key.DevicePublic // in half of the runs node keys move between them
		for range pool {
			devices = append(devices, key.NewDevice().Public())
		}
		devices = devices[:len(devices)*int(seed%2)]
		r := w.roster(4)
		now := time.Now()
		active := map[string]bool{}
		var current []Peer
		for step := range 300 {
			now = now.Add(time.Duration(rng.IntN(90)) * time.Second)
			switch rng.IntN(10) {
			case 0, 1:
				current = randomMap(rng, pool, devices)
				r.setPeers(current)
			case 2:
				r.sweep(now)
			case 3:
				w.traffic[pool[rng.IntN(len(pool))].String()] = now
			default:
				r.want(pool[rng.IntN(len(pool))], now)
			}
			for _, e := range r.takeEvents() {
				if active[e.peer.String()] == e.active {
					t.Fatalf("seed %d step %d: told twice that %s is active: %v", seed, step, e.peer.Short(), e.active)
				}
				active[e.peer.String()] = e.active
			}
			if err := w.check(r, current, active); err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
		}
	}
}

func randomMap(rng *rand.Rand, pool []key.NodePublic, devices []key.DevicePublic) (peers []Peer) {
	order := rng.Perm(len(pool))
	for i := 0; i+1 < len(order); i++ {
		p := peerOf(pool[order[i]], fmt.Sprintf("10.0.%d.1/32", i))
		if len(devices) > 0 {
			p.Device = devices[i]
		}
		if rng.IntN(3) == 0 {
			i++
			p.NextNodeKey = pool[order[i]]
		}
		if rng.IntN(4) > 0 {
			peers = append(peers, p)
		}
	}
	return peers
}

func (w *world) check(r *roster, current []Peer, active map[string]bool) error {
	inMap := map[string]Peer{} // by both keys
	for _, p := range current {
		inMap[p.NodeKey.String()] = p
		if !p.NextNodeKey.IsZero() {
			inMap[p.NextNodeKey.String()] = p
		}
	}
	if len(w.device) > r.max || len(w.device) != len(r.configured) {
		return fmt.Errorf("%d peers in the device, %d known, bound %d", len(w.device), len(r.configured), r.max)
	}
	want := map[string]bool{}
	for k, prefixes := range w.device {
		p, ok := inMap[k]
		if !ok {
			return fmt.Errorf("%s is configured and not in the map", k)
		}
		if len(prefixes) != 1 || prefixes[0] != p.Prefixes[0].String() {
			return fmt.Errorf("%s has %v, want %v", k, prefixes, p.Prefixes)
		}
		if want[p.NodeKey.String()] {
			return fmt.Errorf("both keys of %s are configured", k)
		}
		want[p.NodeKey.String()] = true
	}
	if diff := cmp.Diff(want, w.tun); diff != "" {
		return fmt.Errorf("TUN (-want +got):\n%s", diff)
	}
	for k, on := range active {
		if on != want[k] {
			return fmt.Errorf("%s told active %v, is %v", k, on, want[k])
		}
	}
	return nil
}
