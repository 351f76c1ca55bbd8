package bind

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"warren/proto/key"
)

// captureBind is a conn.Bind that hands out what a stock device sends.
type captureBind struct {
	sent   chan []byte
	mu     sync.Mutex
	closed chan struct{}
}

func (c *captureBind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	closed := make(chan struct{})
	c.closed = closed
	return []conn.ReceiveFunc{func([][]byte, []int, []conn.Endpoint) (int, error) {
		<-closed
		return 0, net.ErrClosed
	}}, 1, nil
}

func (c *captureBind) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		close(c.closed)
		c.closed = nil
	}
	return nil
}

func (c *captureBind) SetMark(uint32) error { return nil }
func (c *captureBind) BatchSize() int       { return 1 }

func (c *captureBind) Send(bufs [][]byte, _ conn.Endpoint) error {
	for _, b := range bufs {
		select {
		case c.sent <- append([]byte(nil), b...):
		default:
		}
	}
	return nil
}

func (c *captureBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	return conn.NewStdNetBind().ParseEndpoint(s)
}

// stockInitiation makes a stock device call public.
func stockInitiation(t testing.TB, private key.NodePrivate, public key.NodePublic) []byte {
	t.Helper()
	c := &captureBind{sent: make(chan []byte, 1)}
	dev := device.NewDevice(tuntest.NewChannelTUN().TUN(), c, device.NewLogger(device.LogLevelSilent, ""))
	defer dev.Close()
	if err := dev.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=192.0.2.1:1\npersistent_keepalive_interval=1\n",
		hex.EncodeToString(private.Bytes()), hex.EncodeToString(public.Bytes()))); err != nil {
		t.Fatal(err)
	}
	if err := dev.Up(); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-c.sent:
		return m
	case <-time.After(10 * time.Second):
		t.Fatal("the stock device sent nothing")
		return nil
	}
}

// caller makes initiations with timestamps of our choice.
type caller struct {
	private key.NodePrivate
	to      key.NodePublic
}

func (c caller) initiation(t testing.TB, stamp uint64) []byte {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	ephemeral := key.NewNode()
	o, err := newOpener(key.NewNode())
	must(err)
	m := make([]byte, initiationSize)
	m[0] = 1
	binary.LittleEndian.PutUint32(m[4:], 0xabcdef01)
	chain := o.chain
	hash := mixHash(mixHash(chain, []byte(noiseIdentifier)), c.to.Bytes())
	copy(m[initEphemeral:], ephemeral.Public().Bytes())
	hash = mixHash(hash, m[initEphemeral:initStatic])
	chain, _, err = mixKey(chain, m[initEphemeral:initStatic])
	must(err)
	seal := func(private key.NodePrivate, at int, plain []byte) {
		secret, err := private.Shared(c.to)
		must(err)
		var k [32]byte
		chain, k, err = mixKey(chain, secret[:])
		must(err)
		aead, err := chacha20poly1305.New(k[:])
		must(err)
		var nonce [12]byte
		box := aead.Seal(nil, nonce[:], plain, hash[:])
		copy(m[at:], box)
		hash = mixHash(hash, box)
	}
	seal(ephemeral, initStatic, c.private.Public().Bytes())
	ts := make([]byte, timestampSize)
	binary.BigEndian.PutUint64(ts, stamp)
	seal(c.private, initTimestamp, ts)
	macKey := blake2s.Sum256(append([]byte(labelMAC1), c.to.Bytes()...))
	mac, err := blake2s.New128(macKey[:])
	must(err)
	mac.Write(m[:initMAC1])
	copy(m[initMAC1:], mac.Sum(nil))
	return m
}

func all(key.NodePublic) bool { return true }

func TestOpenStockInitiation(t *testing.T) {
	us, them := key.NewNode(), key.NewNode()
	before := time.Now()
	m := stockInitiation(t, them, us.Public())
	o, err := newOpener(us)
	if err != nil {
		t.Fatal(err)
	}
	if shapeOf(m) != shapeInitiation || !o.checkMAC1(m) {
		t.Fatal("a stock device's initiation has not the right shape or mac1")
	}
	peer, stamp, err := o.open(m, all)
	if err != nil {
		t.Fatal(err)
	}
	if !peer.Equal(them.Public()) {
		t.Errorf("opened as from %s, want %s", peer, them.Public())
	}
	// TAI64N counts from 2^62 + 10 s; wireguard-go rounds to 16 ms.
	sec := int64(binary.BigEndian.Uint64(stamp[:8])) - (1<<62 + 10)
	at := time.Unix(sec, int64(binary.BigEndian.Uint32(stamp[8:])))
	if at.Before(before.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("timestamp %v is not now", at)
	}
}

func TestOpenRefuses(t *testing.T) {
	us, them := key.NewNode(), key.NewNode()
	o, err := newOpener(us)
	if err != nil {
		t.Fatal(err)
	}
	good := caller{them, us.Public()}.initiation(t, 1)
	if peer, _, err := o.open(good, all); err != nil || !peer.Equal(them.Public()) {
		t.Fatalf("our own test initiation does not open: %v", err)
	}
	if _, _, err := o.open(good, func(key.NodePublic) bool { return false }); !errors.Is(err, errUnknownPeer) {
		t.Errorf("a key that is not allowed: %v", err)
	}
	for _, at := range []int{initEphemeral, initStatic, initStatic + 40, initTimestamp, initTimestamp + 20} {
		bad := append([]byte(nil), good...)
		bad[at] ^= 1
		if _, _, err := o.open(bad, all); err == nil {
			t.Errorf("byte %d changed, yet it opens", at)
		}
		if o.checkMAC1(bad) {
			t.Errorf("byte %d changed, yet mac1 is right", at)
		}
	}
	zero := append([]byte(nil), good...)
	clear(zero[initEphemeral:initStatic]) // a point of low order
	if _, _, err := o.open(zero, all); err == nil {
		t.Error("an ephemeral key of low order opens")
	}
	other := caller{them, key.NewNode().Public()}.initiation(t, 1)
	if o.checkMAC1(other) {
		t.Error("mac1 for another device's key is taken")
	}
	// Anyone may claim a static key; only its owner can seal the timestamp.
	claimed := caller{key.NewNode(), us.Public()}.initiation(t, 1)
	splice := append(append([]byte(nil), good[:initTimestamp]...), claimed[initTimestamp:]...)
	if _, _, err := o.open(splice, all); err == nil {
		t.Error("a timestamp sealed by another opens")
	}
}

// FuzzOpen: no input makes the opener panic, nothing opens but what a stock device with the right keys made, and not once a bit of it has
// changed.
func FuzzOpen(f *testing.F) {
	var keys [2]key.NodePrivate
	for i := range keys { // the same in every process of a fuzzing run
		k, err := key.NodePrivateFromBytes(bytes.Repeat([]byte{byte(i) + 1}, key.Size))
		if err != nil {
			f.Fatal(err)
		}
		keys[i] = k
	}
	us, them := keys[0], keys[1]
	o, err := newOpener(us)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(stockInitiation(f, them, us.Public()), uint16(0))
	f.Add(make([]byte, initiationSize), uint16(1))
	f.Fuzz(func(t *testing.T, m []byte, bit uint16) {
		m = append(m, make([]byte, initiationSize)...)[:initiationSize]
		mac := o.checkMAC1(m)
		peer, _, err := o.open(m, all)
		if err == nil && !peer.Equal(them.Public()) {
			t.Fatal("an initiation of a key that made none opens")
		}
		at := initEphemeral + int(bit/8)%(initMAC1-initEphemeral)
		m[at] ^= 1 << (bit % 8)
		if _, _, again := o.open(m, all); err == nil && again == nil {
			t.Fatalf("byte %d changed, and it still opens", at)
		}
		if mac && o.checkMAC1(m) {
			t.Fatalf("byte %d changed, and mac1 is still right", at)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	us, them := key.NewNode(), key.NewNode()
	o, err := newOpener(us)
	if err != nil {
		b.Fatal(err)
	}
	m := caller{them, us.Public()}.initiation(b, 1)
	b.Run("mac1", func(b *testing.B) {
		for b.Loop() {
			o.checkMAC1(m)
		}
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := o.open(m, all); err != nil {
				b.Fatal(err)
			}
		}
	})
}
