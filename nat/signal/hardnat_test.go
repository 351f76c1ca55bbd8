package signal

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	pb "warren/proto/warrenv1"
)

// TestHardNAT: what two devices tell each other of their NATs arrives as it was sent, but for addresses that nothing may be sent to.
func TestHardNAT(t *testing.T) {
	const wish = pb.HardNAT_STEP_WISH
	at := netip.MustParseAddrPort
	for name, tc := range map[string]struct{ sent, want Signal }{
		"nothing":     {},
		"no part":     {Signal{Sequential: true, Step: wish, External: at("203.0.113.9:4000")}, Signal{}},
		"all of it":   {Signal{TriesPorts: true, Sequential: true, External: at("203.0.113.9:4000"), Step: wish}, Signal{TriesPorts: true, Sequential: true, External: at("203.0.113.9:4000"), Step: wish}},
		"an address":  {Signal{TriesPorts: true, External: at("[2001:db8::1]:4000")}, Signal{TriesPorts: true, External: at("[2001:db8::1]:4000")}},
		"a step":      {Signal{TriesPorts: true, Step: pb.HardNAT_STEP_TRYING}, Signal{TriesPorts: true, Step: pb.HardNAT_STEP_TRYING}},
		"no port":     {Signal{TriesPorts: true, Step: wish, External: at("203.0.113.9:0")}, Signal{TriesPorts: true, Step: wish}},
		"loopback":    {Signal{TriesPorts: true, Step: wish, External: at("127.0.0.1:53")}, Signal{TriesPorts: true, Step: wish}},
		"the overlay": {Signal{TriesPorts: true, Step: wish, External: at("100.70.1.1:4000")}, Signal{TriesPorts: true, Step: wish}},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := node(t, 1), node(t, 2)
			from, to := met(t, a, b)
			got, err := to.Open(seal(t, from, tc.sent), overlay)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, addresses, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What is no address at all is refused whole, and a step that this version does not know is passed on for others to judge.
func TestLyingHardNAT(t *testing.T) {
	a, b := node(t, 1), node(t, 2)
	for name, m := range map[string]*pb.Signal{
		"short address": {Sequence: 1, HardNat: &pb.HardNAT{External: &pb.Candidate{Address: []byte{1, 2, 3}, Port: 4}}},
		"large port":    {Sequence: 1, HardNat: &pb.HardNAT{External: &pb.Candidate{Address: []byte{203, 0, 113, 9}, Port: 65536}}},
	} {
		if _, err := box(t, b, a).Open(forge(t, keys(t, a, b), m), overlay); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	us := box(t, b, a)
	got, err := us.Open(forge(t, keys(t, a, b), &pb.Signal{Start: 1, Sequence: 1, Challenge: 1, Echo: us.fresh.challenge, HardNat: &pb.HardNAT{Step: 257}}), overlay)
	if err != nil || got.Step != 257 {
		t.Errorf("an unknown step: %+v, %v", got, err)
	}
}
