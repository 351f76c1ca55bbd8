package tundev

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/proto/key"
	"warren/tunnel/filter"
)

// pair is a laptop and a gateway that carries 10.1.0.0/16, without any grant.
func pair(t testing.TB) (laptop, gateway *end) {
	m := newMesh(t)
	laptop, gateway = m.add("laptop", "100.64.0.1", "fd00::1"), m.add("gateway", "100.64.0.2", "fd00::2")
	laptop.knows(plan{peers: map[string][]string{"gateway": {"10.1.0.0/16"}}})
	gateway.knows(plan{peers: map[string][]string{"laptop": nil}, carries: []string{"10.1.0.0/16"}})
	return laptop, gateway
}

func TestWords(t *testing.T) {
	laptop, gateway := pair(t)
	longest := strings.Repeat("x", MaxWord)
	for _, w := range []string{"ping", longest, "\x00"} {
		if err := laptop.dev.SendWord(gateway.id, []byte(w)); err != nil {
			t.Fatal(err)
		}
	}
	if err := gateway.dev.SendWord(laptop.id, []byte("pong")); err != nil {
		t.Fatal(err)
	}
	laptop.mesh.settle()
	if diff := cmp.Diff([]string{"laptop: ping", "laptop: " + longest, "laptop: \x00"}, gateway.words); diff != "" {
		t.Errorf("the gateway (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"gateway: pong"}, laptop.words); diff != "" {
		t.Errorf("the laptop (-want +got):\n%s", diff)
	}
	for _, e := range []*end{laptop, gateway} {
		if got := e.hears(); len(got) > 0 {
			t.Errorf("the host of the %s received % x", e.name, got)
		}
		if c := e.dev.Counters(); c.Filter != (filter.Counters{}) || c.WordsDropped != 0 {
			t.Errorf("the %s counts %+v", e.name, c)
		}
	}
	for _, tr := range laptop.dev.Traffic(gateway.id) {
		if !tr.Sent.IsZero() || !tr.Received.IsZero() {
			t.Errorf("words count as traffic: %+v", tr)
		}
	}
}

// TestWordsOverIPv6: two devices that have nothing else.
func TestWordsOverIPv6(t *testing.T) {
	m := newMesh(t)
	a, b := m.add("a", "100.64.0.1", "fd00::1"), m.add("b", "fd00::2")
	a.knows(plan{peers: map[string][]string{"b": nil}})
	b.knows(plan{peers: map[string][]string{"a": nil}})
	if err := a.dev.SendWord(b.id, []byte("six")); err != nil {
		t.Fatal(err)
	}
	if m.settle(); len(b.words) != 1 || b.words[0] != "a: six" {
		t.Errorf("heard %q", b.words)
	}
}

func TestSendWordRefuses(t *testing.T) {
	m := newMesh(t)
	a, four, six := m.add("a", "100.64.0.1"), m.add("four", "100.64.0.4"), m.add("six", "fd00::6")
	a.knows(plan{peers: map[string][]string{"four": nil, "six": nil}})
	for _, c := range []struct {
		what    string
		to      key.DevicePublic
		size    int
		unknown bool
	}{
		{"nothing", four.id, 0, false},
		{"too long", four.id, MaxWord + 1, false},
		{"to a stranger", key.NewDevice().Public(), 1, true},
		{"to nobody", key.DevicePublic{}, 1, true},
		{"to one of another family", six.id, 1, true},
		{"to ourselves", a.id, 1, true},
	} {
		if err := a.dev.SendWord(c.to, make([]byte, c.size)); err == nil || errors.Is(err, ErrNoPeer) != c.unknown {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	for i := range maxInjected + 1 {
		if err := a.dev.SendWord(four.id, []byte("x")); (err != nil) != (i == maxInjected) {
			t.Fatalf("word %d: %v", i, err)
		}
	}
	if c := a.dev.Counters(); c.InjectedDropped != 1 {
		t.Errorf("counted %+v", c)
	}
}

// TestForgedWords: nobody but the agent of a peer can say anything, and hosts never see what looks like it.
func TestForgedWords(t *testing.T) {
	word := []byte("word")
	fragment := raw(protoWord, "100.64.0.1", "100.64.0.2", word)
	fragment[6] = 0x20
	options := raw(protoWord, "100.64.0.1", "100.64.0.2", append([]byte{1, 1, 1, 1}, word...))
	options[0] = 0x46
	cut := raw(protoWord, "100.64.0.1", "100.64.0.2", word)
	for _, c := range []struct {
		what   string
		packet []byte
		heard  bool
	}{
		{"an honest one", raw(protoWord, "100.64.0.1", "100.64.0.2", word), true},
		{"an honest one over IPv6", raw(protoWord, "fd00::1", "fd00::2", word), true},
		{"of a host behind the peer", raw(protoWord, "10.3.0.1", "100.64.0.2", word), false},
		{"of nobody", raw(protoWord, "9.9.9.9", "100.64.0.2", word), false},
		{"of another device of the network", raw(protoWord, "100.64.0.9", "100.64.0.2", word), false},
		{"from our own address", raw(protoWord, "100.64.0.2", "100.64.0.2", word), false},
		{"from the address of probes", raw(protoWord, "100.64.255.254", "100.64.0.2", word), false},
		{"without payload", raw(protoWord, "100.64.0.1", "100.64.0.2", nil), false},
		{"too long", raw(protoWord, "100.64.0.1", "100.64.0.2", make([]byte, MaxWord+1)), false},
		{"a fragment", fragment, false},
		{"with options", options, false},
		{"cut", cut[:len(cut)-1], false},
		{"to nobody", raw(protoWord, "100.64.0.1", "100.64.0.9", word), false},
	} {
		_, gateway := pair(t)
		gateway.knows(plan{
			peers: map[string][]string{"laptop": {"0.0.0.0/0", "10.3.0.0/16"}}, carries: []string{"10.1.0.0/16"}, grants: []string{"0.0.0.0/0 0.0.0.0/0 253 0"},
		})
		gateway.takes(c.packet)
		if got := len(gateway.words) == 1; got != c.heard {
			t.Errorf("%s: heard %v", c.what, got)
		}
		if got := gateway.hears(); len(got) > 0 {
			t.Errorf("%s: the host received % x", c.what, got)
		}
		if n := gateway.dev.Counters(); n.Words+n.WordsDropped+n.Forged+n.NotOurs != 1 {
			t.Errorf("%s: counted %+v", c.what, n)
		}
	}
}

// TestHostSendsWords: programs of the host's, and hosts behind it, cannot; between hosts protocol 253 is like any other.
func TestHostSendsWords(t *testing.T) {
	laptop, gateway := pair(t)
	grant := []string{"0.0.0.0/0 0.0.0.0/0 253 0"}
	laptop.knows(plan{peers: map[string][]string{"gateway": {"10.1.0.0/16"}}, grants: grant})
	gateway.knows(plan{peers: map[string][]string{"laptop": nil}, carries: []string{"10.1.0.0/16"}, grants: grant})
	laptop.sends(raw(protoWord, "100.64.0.1", "100.64.0.2", []byte("forged")))
	laptop.sends(raw(protoWord, "fd00::1", "fd00::2", []byte("forged")))
	laptop.sends(raw(protoWord, "10.9.0.1", "100.64.0.2", []byte("forged")))
	if n := laptop.dev.Counters(); n.WordsDropped != 3 || len(gateway.words) > 0 || len(gateway.hears()) > 0 {
		t.Errorf("%d dropped, heard %q", n.WordsDropped, gateway.words)
	}
	plain := raw(protoWord, "100.64.0.1", "10.1.0.7", []byte("between hosts"))
	laptop.sends(plain)
	if got := gateway.hears(); len(got) != 1 || !bytes.Equal(got[0], plain) || len(gateway.words) > 0 {
		t.Errorf("the host received % x", got)
	}
}

// TestWordsAreLimited: a peer that says too much is not heard any more.
func TestWordsAreLimited(t *testing.T) {
	_, gateway := pair(t)
	for range 10 * wordsBurst {
		gateway.takes(raw(protoWord, "100.64.0.1", "100.64.0.2", []byte("x")))
	}
	n := gateway.dev.Counters()
	if len(gateway.words) < wordsBurst || len(gateway.words) > 9*wordsBurst || n.Words != uint64(len(gateway.words)) || n.Words+n.WordsDropped != 10*wordsBurst {
		t.Errorf("heard %d; %+v", len(gateway.words), n)
	}
}

// TestWordsWait: a word has its peer configured, and outlives changes of the map that leave that in place.
func TestWordsWait(t *testing.T) {
	laptop, gateway := pair(t)
	laptop.dev.Configured(gateway.node, false)
	for i := range 3 {
		if err := laptop.dev.SendWord(gateway.id, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(laptop.wanted) != 1 || !laptop.wanted[0].Equal(gateway.node) {
		t.Errorf("wanted %v", laptop.wanted)
	}
	if laptop.mesh.settle(); len(gateway.words) > 0 {
		t.Errorf("heard %q", gateway.words)
	}
	laptop.knows(plan{peers: map[string][]string{"gateway": nil}})
	if diff := cmp.Diff([]string{"laptop: 0", "laptop: 1", "laptop: 2"}, gateway.words); diff != "" {
		t.Errorf("heard (-want +got):\n%s", diff)
	}
	laptop.dev.Configured(gateway.node, false)
	if err := laptop.dev.SendWord(gateway.id, []byte("late")); err != nil {
		t.Fatal(err)
	}
	laptop.knows(plan{})
	laptop.knows(plan{peers: map[string][]string{"gateway": nil}})
	if len(gateway.words) != 3 || laptop.dev.Counters().HeldDropped != 1 {
		t.Errorf("heard %q", gateway.words)
	}
}

// FuzzArrives: whatever comes out of WireGuard, nothing breaks, and the host receives only what was there.
func FuzzArrives(f *testing.F) {
	f.Add(raw(protoWord, "100.64.0.1", "100.64.0.2", []byte("word")))
	f.Add(raw(protoWord, "fd00::1", "fd00::2", []byte("word")))
	f.Add(raw(protoIPv4, "100.64.0.3", "100.64.0.2", packet("10.1.0.1", "100.64.0.1", 1, 100)))
	f.Add(raw(protoIPv6, "100.64.0.3", "100.64.0.2", raw(17, "fd01::1", "fd00::1", make([]byte, 20))))
	f.Add(raw(protoIPv4, "fd00::3", "fd00::2", packet("10.1.0.1", "100.64.0.1", 1, 100)))
	f.Add(packet("100.64.0.1", "10.1.0.1", 1, 100))
	m := newMesh(f)
	m.add("laptop", "100.64.0.1", "fd00::1")
	gateway := m.add("gateway", "100.64.0.2", "fd00::2")
	m.add("sibling", "100.64.0.3", "fd00::3")
	gateway.knows(plan{
		peers:    map[string][]string{"laptop": {"10.3.0.0/16"}, "sibling": nil},
		carries:  []string{"10.1.0.0/16", "fd01::/64"},
		siblings: map[string][]string{"10.1.0.0/16": {"sibling"}, "fd01::/64": {"sibling"}},
		grants:   []string{"0.0.0.0/0 0.0.0.0/0 17 2"},
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		heard := len(gateway.words)
		gateway.takes(b)
		for _, got := range gateway.hears() {
			src, dst, err := filter.Addresses(got)
			if err != nil || !bytes.Equal(got, b) || protocol(b) == protoWord && dst.String() == "100.64.0.2" {
				t.Errorf("the host received % x", got)
			}
			if protocol(got) == protoIPv4 && src.String() == "100.64.0.3" && dst.String() == "100.64.0.2" {
				t.Errorf("the host received what a sibling handed over: % x", got)
			}
		}
		if len(gateway.words) > heard {
			if src, _, _ := filter.Addresses(b); protocol(b) != protoWord || !strings.HasPrefix(gateway.words[heard], "laptop: ") && !strings.HasPrefix(gateway.words[heard], "sibling: ") {
				t.Errorf("%q was heard from %s", gateway.words[heard], src)
			}
		}
	})
}
