package relay

import (
	"net"
	"net/netip"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "warren/proto/warrenv1"
)

// A URL that takes the connection and never says anything, as one behind a box that swallows packets, does not hold the next one up. (It would
// for 10 s, which the test does not wait for.) The URL that answered comes first the next time.
func TestSilentURL(t *testing.T) {
	w := newWorld(t, nil)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	desc := proto.Clone(w.desc).(*pb.Relay)
	desc.Urls = []string{"https://" + silent.Addr().String(), desc.Urls[0]}
	ups, downs := 0, 0
	var d *dev
	ready := make(chan struct{})
	d = w.connect(func(c *ClientConfig) {
		c.Relay = desc
		c.OnState = func(up bool, _ netip.AddrPort, _ error) {
			<-ready
			d.update(func() {
				if d.up = up; up {
					ups++
				} else {
					downs++
				}
			})
		}
	})
	close(ready)
	d.awaitUp()
	if downs != 0 {
		t.Error("connecting failed before it worked")
	}
	other := w.connect(nil)
	other.awaitUp()
	if err := other.client.SendData(d.raw(), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	d.await("served by the URL that answers", func() bool { return len(d.got) == 1 })
	d.client.Reset()
	d.await("connecting anew", func() bool { return ups == 2 })
	if d.client.best != 1 {
		t.Errorf("URL %d came first", d.client.best)
	}
}
