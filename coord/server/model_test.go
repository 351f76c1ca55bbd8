package server

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"warren/coord/domain"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// world is a naive reference: it holds what every device is and what the policy says, and works out anew each time who sees whom.
type world struct {
	*coordinator
	rng     *rand.Rand
	tokens  []worldToken
	devices []*worldDevice
	grants  []worldGrant
	// approvers are selectors of autoApprovers.
	approvers []string
	former    [][]worldGrant // by number of the policy, from 1; nil for what is not known
	pending   bool
	watches   map[*worldDevice]*follower
	left      map[*device]*follower // Watches that ended and may be resumed
	small     bounds
	missing   string                   // what a Watch waits for
	before    map[[2]*worldDevice]bool // who saw whom before the last step
	seen      map[string]int           // what happened, to see that the test tests something
}

type worldToken struct {
	key   key.TokenPrivate
	owner string
	tags  []string
}

type worldDevice struct {
	*device
	worldGateway
	owner         string
	tags          []string
	gone, removed bool
}

func (d *worldDevice) member() bool { return !d.gone && !d.removed }

func (d *worldDevice) is(selector string) bool {
	tag, isTag := strings.CutPrefix(selector, "tag:")
	switch {
	case selector == "*":
		return true
	case isTag:
		return slices.Contains(d.tags, tag)
	case selector == "autogroup:member":
		return len(d.tags) == 0
	}
	return len(d.tags) == 0 && d.owner == selector
}

// worldGrant allows everything, or one TCP port, in some hours of the day.
type worldGrant struct {
	src, dst string
	port     uint16 // 0: everything
	from, to int    // hours, in UTC; from == to: always
}

func (g worldGrant) open(now time.Time) bool {
	h := now.UTC().Hour()
	return g.from == g.to || h >= g.from && h < g.to
}

func (g worldGrant) allows(src, dst *worldDevice) bool {
	if g.dst == "autogroup:self" {
		return src.is(g.src) && dst.is(src.owner) && len(src.tags) == 0
	}
	return src.is(g.src) && dst.is(g.dst)
}

func (g worldGrant) text() string {
	ip, when := "*", ""
	if g.port != 0 {
		ip = fmt.Sprintf("tcp:%d", g.port)
	}
	if g.from != g.to {
		when = fmt.Sprintf(`, "when": {"hours": "%02d:00-%02d:00", "zone": "UTC"}`, g.from, g.to)
	}
	return fmt.Sprintf(`{"src": [%q], "dst": [%q], "ip": [%q]%s}`, g.src, g.dst, ip, when)
}

// allowed gives the ports that src may reach on dst, 0 for all.
func (w *world) allowed(src, dst *worldDevice) (ports []uint16) {
	if src == dst || !src.member() || !dst.member() {
		return nil
	}
	for _, g := range w.grants {
		if g.open(w.now()) && g.allows(src, dst) {
			ports = append(ports, g.port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

func (w *world) sees(a, b *worldDevice) bool {
	return len(w.allowed(a, b))+len(w.allowed(b, a)) > 0 || w.siblings(a, b)
}

// portsIn gives the ports that the statement of d lets src reach on dst.
func portsIn(st *record.Statement, src, dst *record.Device) (ports []uint16) {
	has := func(list []*pb.Prefix, d *record.Device) bool {
		prefixes, err := record.PrefixesFromProto(list, record.MaxPrefixes)
		return err == nil && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(d.Addresses[0]) })
	}
	for _, g := range st.GetGrants() {
		if has(g.GetSources(), src) && has(g.GetDestinations(), dst) {
			for _, f := range g.GetFlows() {
				ports = append(ports, uint16(f.GetFirstPort()))
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// lacks tells in what the map of d differs from what the world says: names, and for each peer what is allowed both ways and whether it is here.
func (w *world) lacks(d *worldDevice, f *follower) string {
	if f.within || f.statement == nil || f.statement.GetRevision() != f.revision {
		return "a statement"
	}
	peers := 0
	for _, o := range w.devices {
		k := o.key.Public().Raw()
		if o == d || !w.sees(d, o) {
			continue
		}
		peers++
		got := f.peers[k]
		switch {
		case got == nil || got.Version != w.srv.hub.device(got.Key).Version || got.Owner != o.owner:
			return fmt.Sprintf("the record of %s: has %v", o.hostname, got)
		case !slices.Equal(portsIn(f.statement, f.d.record, got), w.allowed(d, o)):
			return fmt.Sprintf("the grants to %s: has %v, want %v", got.Name, portsIn(f.statement, f.d.record, got), w.allowed(d, o))
		case !slices.Equal(portsIn(f.statement, got, f.d.record), w.allowed(o, d)):
			return fmt.Sprintf("the grants from %s: has %v, want %v", got.Name, portsIn(f.statement, got, f.d.record), w.allowed(o, d))
		case f.online[k] != (w.watches[o] != nil):
			return fmt.Sprintf("the presence of %s: %v", got.Name, f.online[k])
		}
	}
	if len(f.peers) != peers+1 || f.peers[d.key.Public().Raw()] == nil {
		return fmt.Sprintf("the right peers: has %v, want %d", f.names(), peers+1)
	}
	return w.lacksRoutes(d, f)
}

// pairs are those that see each other.
func (w *world) pairs() map[[2]*worldDevice]bool {
	out := map[[2]*worldDevice]bool{}
	for _, a := range w.devices {
		for _, b := range w.devices {
			if w.sees(a, b) {
				out[[2]*worldDevice{a, b}] = true
			}
		}
	}
	return out
}

// settle waits until all who watch have what the world says, and that is what those who ask for a snapshot have.
func (w *world) settle(what string) {
	w.Helper()
	synctest.Wait()
	for _, d := range w.devices {
		f := w.watches[d]
		if f == nil {
			continue
		}
		w.missing = ""
		f.until(what, func() bool { w.missing = w.lacks(d, f); return w.missing == "" })
	}
}

// guard makes the follower of d refuse records of devices that d saw neither before the last step nor since.
func (w *world) guard(d *worldDevice, f *follower) *follower {
	f.mayKnow = func(k rawKey) bool {
		for _, o := range w.devices {
			if o.key.Public().Raw() == k {
				return o == d || w.sees(d, o) || w.before[[2]*worldDevice{d, o}]
			}
		}
		return false
	}
	return f
}

func (w *world) pick(ok func(*worldDevice) bool) *worldDevice {
	var fit []*worldDevice
	for _, d := range w.devices {
		if ok(d) {
			fit = append(fit, d)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	return fit[w.rng.IntN(len(fit))]
}

// lose waits for the end of the Watch of a device, which may be resumed.
func (w *world) lose(d *worldDevice) {
	f := w.watches[d]
	if f == nil {
		return
	}
	f.end()
	w.seen["snapshot"] += f.snapshots
	w.seen["watch"]++
	w.left[d.device] = f
	delete(w.watches, d)
}

func (w *world) enrol(d *worldDevice) {
	w.Helper()
	t := w.tokens[w.rng.IntN(len(w.tokens))]
	d.hostname = fmt.Sprintf("host-%d", w.rng.Uint32()) // no request is made twice
	_, err := d.device.enrol(t.key)
	w.must(err)
	d.owner, d.tags, d.gone = t.owner, t.tags, false
}

// random makes up a policy.
func (w *world) random() []worldGrant {
	selectors := []string{"ann", "bob", "cat", "tag:web", "tag:db", "autogroup:member", "*"}
	grants := []worldGrant{}
	for range w.rng.IntN(5) {
		g := worldGrant{src: selectors[w.rng.IntN(len(selectors))], dst: selectors[w.rng.IntN(len(selectors))], port: uint16(w.rng.IntN(3)) * 80}
		if w.rng.IntN(2) == 0 {
			g.from = w.rng.IntN(20)
			g.to = g.from + 1 + w.rng.IntN(23-g.from)
		}
		if w.rng.IntN(4) == 0 {
			g.src, g.dst = []string{"ann", "bob", "autogroup:member"}[w.rng.IntN(3)], "autogroup:self"
		}
		grants = append(grants, g)
	}
	return grants
}

func (w *world) set(grants []worldGrant, within time.Duration) {
	w.Helper()
	var texts []string
	for _, g := range grants {
		texts = append(texts, g.text())
	}
	approvers := []string{}
	for _, s := range []string{"ann", "tag:web"} {
		if w.rng.IntN(3) == 0 {
			approvers = append(approvers, s)
		}
	}
	text := fmt.Sprintf("{\"grants\": [%s], \"autoApprovers\": {\"routes\": {\"10.0.0.0/15\": [\"%s\"]}}} // %d\n", strings.Join(texts, ",\n"),
		strings.Join(approvers, "\", \""), w.rng.Uint64()) // never the same twice
	text = strings.Replace(text, `[""]`, "[]", 1)
	p, r, err := w.srv.SetPolicy(w.Context(), PolicyWish{Text: []byte(text), ConfirmWithin: within})
	if err != nil {
		w.Fatalf("%v: %+v\n%s", err, r, text)
	}
	for uint64(len(w.former)) <= p.Number {
		w.former = append(w.former, nil)
	}
	w.former[p.Number] = grants
	w.grants, w.approvers, w.pending = grants, approvers, within > 0
}

// step does something at random and says what.
func (w *world) step() string {
	w.Helper()
	w.before = w.pairs()
	steps := []struct {
		name string
		do   func() bool
	}{
		{"enrolment", func() bool {
			if len(w.devices) > 14 {
				return false
			}
			d := &worldDevice{device: w.device("host")}
			w.devices = append(w.devices, d)
			w.enrol(d)
			return true
		}},
		{"renewal", func() bool {
			d := w.pick(func(d *worldDevice) bool { return !d.removed })
			if d == nil {
				return false
			}
			w.enrol(d)
			return true
		}},
		{"rename", func() bool {
			d := w.pick((*worldDevice).member)
			if d == nil {
				return false
			}
			w.rename(w.srv.hub.device(d.key.Public()).Name, fmt.Sprintf("n%d", w.rng.Uint32()))
			return true
		}},
		{"removal", func() bool {
			d := w.pick(func(d *worldDevice) bool { return !d.removed && w.rng.IntN(3) == 0 })
			if d == nil {
				return false
			}
			w.remove(w.srv.hub.device(d.key.Public()).Name)
			d.removed = true
			w.lose(d)
			return true
		}},
		{"expiry", func() bool {
			d := w.pick((*worldDevice).member)
			if d == nil {
				return false
			}
			w.expire(w.srv.hub.device(d.key.Public()).Name, nil)
			d.gone = true
			w.lose(d)
			return true
		}},
		{"policy", func() bool {
			if w.pending {
				return false
			}
			w.set(w.random(), 0)
			return true
		}},
		{"trial", func() bool {
			if w.pending {
				return false
			}
			active, approvers := w.grants, w.approvers
			w.set(w.random(), time.Minute)
			if w.rng.IntN(2) == 0 {
				_, err := w.srv.ConfirmPolicy(w.Context(), "ann")
				w.must(err)
				w.pending = false
				return true
			}
			w.settle("on trial")
			for k := range w.pairs() {
				w.before[k] = true
			}
			w.grants, w.approvers, w.pending = active, approvers, false
			w.advance(time.Minute)
			return true
		}},
		{"time", func() bool {
			w.advance(time.Duration(1+w.rng.IntN(5)) * time.Hour)
			return true
		}},
		{"connection", func() bool {
			d := w.pick(func(d *worldDevice) bool { return d.member() && w.watches[d] == nil })
			if d == nil {
				return false
			}
			old := w.left[d.device]
			if old == nil || w.rng.IntN(4) == 0 {
				w.watches[d] = w.guard(d, d.watch(0, 0))
				return true
			}
			w.seen["resumption"]++
			w.watches[d] = w.guard(d, old.resume())
			return true
		}},
		{"disconnection", func() bool {
			d := w.pick(func(d *worldDevice) bool { return w.watches[d] != nil })
			if d == nil {
				return false
			}
			w.watches[d].cancel()
			w.lose(d)
			return true
		}},
		{"advertisement", w.advertiseSomething},
		{"ruling", w.ruleSomething},
		{"restart", func() bool {
			if w.rng.IntN(6) > 0 {
				return false
			}
			w.stop()
			for d := range w.watches {
				w.lose(d)
			}
			w.ahead.Add(int64(w.rng.IntN(5)) * int64(time.Hour)) // windows open and close meanwhile
			w.start()
			w.srv.bounds = w.small
			return true
		}},
	}
	for {
		i := w.rng.IntN(len(steps) + 3) // more connections than other things
		if i >= len(steps) {
			i = 8
		}
		if s := steps[i]; s.do() {
			w.seen[s.name]++
			return s.name
		}
	}
}

// checkLog looks whether the rows for single devices stay within bounds.
func (w *world) checkLog() {
	w.Helper()
	w.must(w.srv.store.View(w.Context(), func(tx store.Tx) error {
		for _, d := range w.devices {
			n, err := tx.OwnChanges(d.key.Public())
			if err != nil {
				return err
			}
			if n > w.small.own || d.removed && n > 0 {
				w.Errorf("%d rows for one device (removed: %v), want at most %d", n, d.removed, w.small.own)
			}
			w.seen["rows"] = max(w.seen["rows"], n)
		}
		return nil
	}))
}

// TestModel: whatever happens to devices, policy and time, and however a Watch comes and goes, every device knows exactly those that the policy
// lets it talk to or hear from, with exactly the ports that are allowed, and is told of no other.
func TestModel(t *testing.T) {
	total := map[string]int{}
	for seed := range uint64(6) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{
				coordinator: startPiped(t, nil), rng: rand.New(rand.NewPCG(seed, 1)), watches: map[*worldDevice]*follower{}, seen: map[string]int{},
				former: make([][]worldGrant, 1),
			}
			w.left = map[*device]*follower{}
			w.small = bounds{own: 3, ownChanges: 1 + int(seed)%4, changes: 12}
			w.srv.bounds = w.small
			for _, owner := range []string{"ann", "bob", "cat"} {
				w.tokens = append(w.tokens, worldToken{w.token(domain.TokenWish{Owner: owner, Reusable: true, Life: 8000 * time.Hour}), owner, nil})
			}
			for _, tag := range []string{"web", "db"} {
				w.tokens = append(w.tokens, worldToken{w.token(domain.TokenWish{Tags: []string{tag}, Reusable: true, Life: 8000 * time.Hour}), "", []string{tag}})
			}
			w.grants = []worldGrant{{src: "autogroup:member", dst: "autogroup:self"}}
			var trace []string
			defer func() {
				if t.Failed() {
					t.Logf("seed %d: missing %s, after %s", seed, w.missing, strings.Join(trace, ", "))
				}
			}()
			for range 150 {
				trace = append(trace, w.step())
				w.settle(trace[len(trace)-1])
			}
			for d, f := range w.watches {
				f.cancel()
				w.lose(d)
			}
			w.checkLog()
			for what, n := range w.seen {
				total[what] += n
			}
		})
	}
	t.Log(total)
	for _, what := range []string{"policy", "trial", "time", "resumption", "restart", "expiry", "renewal", "removal", "advertisement", "ruling"} {
		if total[what] == 0 {
			t.Errorf("no %s in %v", what, total)
		}
	}
	if again := total["snapshot"] - (total["watch"] - total["resumption"]); again < 5 {
		t.Errorf("%d snapshots within a Watch or at its resumption", again)
	}
}
