package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"warren/coord/domain"
	"warren/coord/policy"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// populate makes a server with many devices, all of which watch. owner and tags are by the device's number.
func populate(b *testing.B, n int, text string, who func(i int) (owner string, tags []string)) (*Server, []*store.Device) {
	b.Helper()
	cfg := Config{StateDir: b.TempDir(), Prefix4: netip.MustParsePrefix("10.0.0.0/8"), Prefix6: netip.MustParsePrefix("fd00:1::/48")}
	open := func() *Server {
		s, err := Open(context.WithoutCancel(b.Context()), cfg)
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	s := open()
	var devices []*store.Device
	err := s.store.Update(b.Context(), func(tx store.Tx) error {
		for i := range n {
			d := domain.Device{Device: record.Device{
				Network: s.network.ID, Key: key.NewDevice().Public(), NodeKey: key.NewNode().Public(), Name: fmt.Sprintf("d%d", i),
				Version: record.Version{Generation: 1, Counter: 1}, CreatedAt: time.Unix(1_800_000_000, 0).UTC(),
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), netip.AddrFrom16([16]byte{0xfd, 0, 0, 1, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})},
			}}
			d.Owner, d.Tags = who(i)
			signed, err := record.SignDevice(s.id.Authority, &d.Device)
			if err != nil {
				return err
			}
			devices = append(devices, &store.Device{Device: d, Signed: signed})
			if err := tx.PutDevice(devices[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, s.Close()); err != nil {
		b.Fatal(err)
	}
	s = open()
	b.Cleanup(func() { s.Close() })
	if _, r, err := s.SetPolicy(b.Context(), PolicyWish{Text: []byte(text)}); err != nil {
		b.Fatalf("%v: %v", err, r)
	}
	for _, d := range devices {
		w := newWatch(session{device: d.Key, role: pb.Role_ROLE_DEVICE}) // without its presence, which nobody would send
		w.grantPeers = true
		s.hub.watches[d.Key.Raw()] = w
	}
	return s, devices
}

const serversAndClients = `{"grants": [{"src": ["autogroup:member"], "dst": ["tag:server"], "ip": ["tcp:443"]}]}`

var networks = []struct {
	name, policy string
	who          func(i int) (string, []string)
}{
	{"all-to-all", string(policy.BuiltIn()) + "\n", func(int) (string, []string) { return "ann", nil }},
	{"users-of-5", string(policy.Starter(nil)) + "\n", func(i int) (string, []string) { return fmt.Sprint("user", i/5), nil }},
	{"100-servers", serversAndClients, func(i int) (string, []string) {
		if i < 100 {
			return "", []string{"server"}
		}
		return "ann", nil
	}},
}

// BenchmarkChange is one device's new record in a network of 10,000 that watch: the commit, and then what each Watch that it concerns does: take
// the change, and make and sign a statement.
func BenchmarkChange(b *testing.B) {
	for _, n := range networks {
		b.Run(n.name, func(b *testing.B) {
			s, devices := populate(b, 10_000, n.policy, n.who)
			d := devices[len(devices)-1].Device
			var commit, statement time.Duration
			concerned, bytes := 0, 0
			for b.Loop() {
				began := time.Now()
				d.Version.Counter++
				if err := s.commit(b.Context(), func(batch *batch) error { return batch.put(&d) }); err != nil {
					b.Fatal(err)
				}
				commit += time.Since(began)
				began = time.Now()
				for _, w := range s.hub.watches {
					if len(w.queue) == 0 {
						continue
					}
					v := s.hub.take(w)
					signed, err := s.statement(w.device, v)
					if err != nil {
						b.Fatal(err)
					}
					concerned++
					bytes += len(signed.GetPayload())
				}
				statement += time.Since(began)
			}
			b.ReportMetric(float64(commit.Microseconds())/float64(b.N), "µs/commit")
			b.ReportMetric(float64(concerned)/float64(b.N), "watchers")
			b.ReportMetric(float64(statement.Microseconds())/float64(concerned), "µs/watcher")
			b.ReportMetric(float64(bytes)/float64(concerned), "B/statement")
		})
	}
}

// BenchmarkPolicy is another policy for 10,000 devices that watch, until the rows of the change log are committed and queued.
func BenchmarkPolicy(b *testing.B) {
	for _, n := range networks {
		b.Run(n.name, func(b *testing.B) {
			s, _ := populate(b, 10_000, nothing, n.who)
			texts := []string{n.policy, nothing}
			i := 0
			for b.Loop() {
				if _, _, err := s.SetPolicy(b.Context(), PolicyWish{Text: []byte(texts[i%2])}); err != nil {
					b.Fatal(err)
				}
				i++
			}
			concerned := 0
			for _, w := range s.hub.watches {
				if len(w.queue) > 0 {
					concerned++
				}
			}
			b.ReportMetric(float64(concerned), "watchers")
		})
	}
}

// BenchmarkSnapshot is what a Watch gets that begins from nothing, without signing its statement.
func BenchmarkSnapshot(b *testing.B) {
	s, devices := populate(b, 10_000, networks[0].policy, networks[0].who)
	w := s.hub.watches[devices[0].Key.Raw()]
	for b.Loop() {
		if v := s.hub.snapshot(w, false); len(v.devices) != 10_000 || slices.Contains(v.devices, nil) {
			b.Fatal(len(v.devices))
		}
	}
}
