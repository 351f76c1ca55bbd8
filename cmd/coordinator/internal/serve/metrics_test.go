package serve

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/coord/server"
	"warren/internal/metricdoc"
	"warren/nat/relay"
	"warren/nat/stunserver"
	pb "warren/proto/warrenv1"
)

// TestMetricsAreTold: docs/operations.md tells of every metric of a coordinator with relay and STUN server, and of no other.
func TestMetricsAreTold(t *testing.T) {
	r := new(metricdoc.Recorder)
	s, err := server.Open(t.Context(), server.Config{
		StateDir: t.TempDir(), Registerer: r, Endpoints: []*pb.Endpoint{{Url: "https://192.0.2.1", TlsMode: pb.TLSMode_TLS_MODE_SELF}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	own := new(certificate)
	own.current.Store(&tls.Certificate{Leaf: &x509.Certificate{NotAfter: time.Unix(5000, 0)}})
	registerProcess(r, t.TempDir(), own)
	relay.NewServer(relay.ServerConfig{Key: s.RelayKey(), Network: s.Network(), Authority: s.Authority(), Registerer: r})
	stunserver.New(r, nil)
	registered, err := r.Metrics("warren_")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.Open("../../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	told, err := metricdoc.Read(page, "Metrics of warren-coordinator")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(registered, told); diff != "" {
		t.Errorf("docs/operations.md (+) against what is exported (-): %s", diff)
	}
}
