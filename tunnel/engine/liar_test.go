package engine

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tun/tuntest"

	"warren/proto/key"
	"warren/tunnel/bind"
)

// lies is what a relay makes of packets: some are gone, others come twice, altered, cut, lengthened, in another order, with made-up ones between.
func lies(rng *rand.Rand, packets [][]byte) (out [][]byte) {
	for _, p := range packets {
		if rng.IntN(10) > 0 {
			out = append(out, bytes.Clone(p))
		}
		if rng.IntN(4) == 0 {
			out = append(out, bytes.Clone(p))
		}
		flipped := bytes.Clone(p)
		flipped[rng.IntN(len(p))] ^= 1 << rng.IntN(8)
		made := make([]byte, rng.IntN(200))
		for i := range made {
			made[i] = byte(rng.Uint32())
		}
		if len(made) > 16 {
			binary.LittleEndian.PutUint32(made, uint32(1+rng.IntN(4)))
			copy(made[4:8], p[4:8]) // for the right session
		}
		out = append(out, flipped, bytes.Clone(p[:rng.IntN(len(p)+1)]), append(bytes.Clone(p), made...), made)
	}
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// TestLyingRelay: nothing comes out of the tunnel but what went in at the other end, each packet once at most, whatever a relay does; and when it is
// honest again the session still stands.
func TestLyingRelay(t *testing.T) {
	var lying atomic.Bool
	var nodes [2]*node
	stranger := key.NewNode().Public()
	for i := range nodes {
		nodes[i] = newNode(t, addresses[i], func(n *node, bc *bind.Config, _ *Config) {
			rng, mu := rand.New(rand.NewPCG(uint64(i), 1)), new(sync.Mutex)
			bc.SendRelay = func(_ key.NodePublic, bufs [][]byte) error {
				to := n.relayTo.Load().bind
				if !lying.Load() {
					to.InjectRelay(n.key.Public(), bufs)
					return nil
				}
				mu.Lock()
				told := lies(rng, bufs)
				mu.Unlock()
				to.InjectRelay(n.key.Public(), told)
				to.InjectRelay(stranger, told)
				return nil
			}
		})
	}
	a, b := nodes[0], nodes[1]
	a.relayTo.Store(b)
	b.relayTo.Store(a)
	a.knows(t, false, b)
	b.knows(t, false, a)
	a.ping(t, b)
	b.ping(t, a)
	lying.Store(true)
	const count = 2000
	sent := map[string]int{}
	for i := range count {
		p := tuntest.Ping(b.addr, a.addr)
		binary.BigEndian.PutUint32(p[24:], uint32(i)) // ICMP's identifier and sequence number
		sent[string(p)]++
		a.tun.out <- p
	}
	came := 0
	take := func(p []byte) {
		if came++; sent[string(p)] == 0 {
			t.Fatalf("% x came twice, or was never sent", p)
		}
		sent[string(p)]--
	}
	for quiet := false; !quiet; {
		select {
		case p := <-b.tun.received:
			take(p)
		case <-time.After(500 * time.Millisecond):
			quiet = true
		}
	}
	lying.Store(false)
	// On a busy machine some may be on their way still: they come before what is sent now.
	last := tuntest.Ping(b.addr, a.addr)
	binary.BigEndian.PutUint32(last[24:], count)
	a.tun.out <- last
	for end := false; !end; {
		select {
		case p := <-b.tun.received:
			if end = bytes.Equal(p, last); !end {
				take(p)
			}
		case <-time.After(patience):
			t.Fatal("the last packet did not come")
		}
	}
	if came < count/2 {
		t.Errorf("of %d packets %d came", count, came)
	}
	b.ping(t, a)
	a.ping(t, b)
}
