package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"warren/internal/udpbatch"
	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/relayframe"
	"warren/proto/tlsbind"
	pb "warren/proto/warrenv1"
)

// childVariable makes the test program a relay, for BenchmarkIdleDevices.
const childVariable = "WARREN_TEST_RELAY"

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		if err := serveChild(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveChild is a relay that ends with its standard input. text is its authority key, its TLS key's binding and its own key.
func serveChild(text string) error {
	var parts [3][]byte
	for i, s := range strings.Split(text, ",") {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return err
		}
		parts[i] = b
	}
	authority, err1 := key.AuthorityPublicFromBytes(parts[0])
	own, err2 := key.DevicePrivateFromBytes(parts[1])
	var pair pb.Signed
	err3 := proto.Unmarshal(parts[2], &pair)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	cert := tls.Certificate{Certificate: [][]byte{pair.GetPayload()}}
	k, err := parseKey(pair.GetSignature())
	if err != nil {
		return err
	}
	cert.PrivateKey = k
	s := NewServer(ServerConfig{Key: own, Network: record.NetworkID{7}, Authority: authority})
	udp, err := udpbatch.Listen("udp", "127.0.0.1:0", udpbatch.Options{GSO: true, GRO: true})
	if err != nil {
		return err
	}
	s.udp.Store(udp)
	go s.ServeUDP(context.Background(), udp, func([]byte, netip.AddrPort) []byte { return nil })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(relayframe.Path, s)
	go (&http.Server{Handler: mux, TLSConfig: tlsbind.ServerConfig(cert)}).ServeTLS(Listener(l), "", "")
	fmt.Println(l.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// idleDevices is how many BenchmarkIdleDevices connects.
const idleDevices = 5000

// BenchmarkIdleDevices connects many devices that do nothing but stay, each with a session for datagrams, and tells what the relay's process
// takes for them.
func BenchmarkIdleDevices(b *testing.B) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Max < 2*idleDevices {
		b.Fatalf("%d open files are allowed, %v; raise it with ulimit -n", limit.Max, err)
	}
	w := newWorld(b, nil)
	cmd, addr := startChild(b, w)
	w.desc.Urls = []string{"https://" + addr}
	empty := resident(b, cmd.Process.Pid)
	var group errgroup.Group
	group.SetLimit(8)
	var mu sync.Mutex
	for range idleDevices {
		group.Go(func() error {
			d := key.NewDevice()
			ticket := w.ticketFor(d.Public(), farAway())
			c, err := NewClient(ClientConfig{
				Relay: w.desc, Network: w.network, Authority: w.authority.Public(), Device: d, ListenUDP: listenLoopback,
				Ticket: func() (*pb.Signed, *pb.Signed) { return ticket, w.cert },
			})
			if err != nil {
				return err
			}
			way, offer, err := c.connect(context.Background())
			if err != nil || offer == nil {
				return fmt.Errorf("session %v, %w", offer, err)
			}
			mu.Lock()
			defer mu.Unlock()
			b.Cleanup(func() { way.ws.CloseNow() })
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	full := resident(b, cmd.Process.Pid)
	b.ReportMetric(full, "MB")
	b.ReportMetric((full-empty)*1000/idleDevices, "kB/device")
	b.ReportMetric(0, "ns/op")
}

func resident(b *testing.B, pid int) float64 {
	b.Helper()
	f, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(f)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kib); n == 1 {
			return kib * 1024 / 1e6
		}
	}
	b.Fatal("no VmRSS")
	return 0
}

func startChild(b *testing.B, w *world) (*exec.Cmd, string) {
	b.Helper()
	own := key.NewDevice()
	w.desc.RelayKey = own.Public().Bytes()
	cert := w.certificate(pb.TLSRole_TLS_ROLE_RELAY).Certificates[0]
	der, err1 := marshalKey(cert.PrivateKey)
	pair, err2 := proto.Marshal(&pb.Signed{Payload: cert.Certificate[0], Signature: der})
	self, err3 := os.Executable()
	if err := errors.Join(err1, err2, err3); err != nil {
		b.Fatal(err)
	}
	enc := base64.StdEncoding.EncodeToString
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+strings.Join([]string{enc(w.authority.Public().Bytes()), enc(own.Bytes()), enc(pair)}, ","))
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return cmd, strings.TrimSpace(line)
}

func parseKey(der []byte) (any, error) { return x509.ParsePKCS8PrivateKey(der) }

func marshalKey(k any) ([]byte, error) { return x509.MarshalPKCS8PrivateKey(k) }

func farAway() time.Time { return time.Now().Add(time.Hour) }
