package relay

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"warren/proto/key"
	"warren/proto/tlsbind"
	pb "warren/proto/warrenv1"
)

func (w *world) probe(t *testing.T, authority key.AuthorityPublic, mode pb.TLSMode, urls ...string) (tcp, whole time.Duration, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return Probe(ctx, ProbeConfig{
		Relay: &pb.Relay{Name: "r", Urls: urls, TlsMode: mode}, Network: w.network, Authority: authority, Dial: new(net.Dialer).DialContext,
	})
}

func TestProbe(t *testing.T) {
	w := newWorld(t, nil)
	ours, self := w.authority.Public(), pb.TLSMode_TLS_MODE_SELF
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "https://" + l.Addr().String()
	l.Close()
	good := "https://" + w.addr
	for name, urls := range map[string][]string{"the first": {good, dead}, "the second": {dead, good}} {
		if tcp, whole, err := w.probe(t, ours, self, urls...); err != nil || tcp <= 0 || whole <= tcp {
			t.Errorf("%s: TCP %s, with TLS %s, %v", name, tcp, whole, err)
		}
	}
	if tcp, whole, err := w.probe(t, ours, pb.TLSMode_TLS_MODE_OFF, "http://"+w.addr); err != nil || tcp <= 0 || whole != 0 {
		t.Errorf("without TLS: TCP %s, with TLS %s, %v", tcp, whole, err)
	}
	if _, _, err := w.probe(t, key.NewAuthority().Public(), self, good); !errors.Is(err, tlsbind.ErrWrongCoordinator) || !strings.Contains(err.Error(), good) {
		t.Errorf("another network's relay: %v", err)
	}
	for _, urls := range [][]string{nil, {dead}, {"https://[::1"}, {dead, "https://127.0.0.1:0"}} {
		if _, _, err := w.probe(t, ours, self, urls...); err == nil {
			t.Errorf("%q was reached", urls)
		}
	}
}
