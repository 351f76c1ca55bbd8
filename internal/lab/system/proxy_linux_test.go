package system

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

const proxyName = "warren.example"

// certificate makes a self-signed certificate for the proxy's name, and gives the files.
func certificate(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{proxyName}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return certFile, keyFile
}

// nginxConfig terminates TLS, with HTTP/2 toward the devices, and passes on to the coordinator without any.
const nginxConfig = `
daemon off; user root; worker_processes 1; pid %[1]s/nginx.pid; error_log stderr notice;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
	server {
		listen 443 ssl http2;
		ssl_certificate %[2]s;
		ssl_certificate_key %[3]s;
		location / {
			proxy_pass http://127.0.0.1:8080;
			proxy_http_version 1.1;
			proxy_buffering off;
			proxy_read_timeout 1h;
			proxy_set_header Host $host;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection $connection_upgrade;
		}
	}
}
`

// name makes the proxy's name known on a host.
func name(t *testing.T, ctx context.Context, h *lab.Host, address string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hosts")
	must(t, os.WriteFile(file, fmt.Appendf(nil, "127.0.0.1 localhost\n%s %s\n", address, proxyName), 0o644))
	out, err := h.Command(ctx, "mount", "--bind", file, "/etc/hosts").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestBehindNginx puts a proxy that ends TLS before the coordinator. Devices join through it, follow the map through it, and send packets
// through the relay behind it, for requests are authenticated by themselves.
//
//	left --- hard NAT --- internet --- hard NAT --- right
//	                         |
//	              nginx :443 on the coordinator's host
//	                         | HTTP to 127.0.0.1:8080
//	                    coordinator --tls off
func TestBehindNginx(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := certificate(t, dir)
	t.Setenv("SSL_CERT_FILE", certFile)
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin")
	ctx, n := start(t, "--tls", "off", "--listen", "127.0.0.1:8080", "--url", "https://"+proxyName)
	config := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, certFile, keyFile), 0o600))
	nginx, err := warrennet.Start(n.Coordinator, "nginx", "-c", config, "-e", "stderr")
	must(t, err)
	defer nginx.Signal(syscall.SIGTERM)
	must(t, nginx.AwaitLog(ctx, "start worker process "))
	var devices []*warrennet.Device
	for _, who := range []string{"left", "right"} {
		h, err := n.Lab.Host(who, lab.Hard)
		must(t, err)
		name(t, ctx, h, n.Coordinator.Addr.String())
		d := n.DeviceOn(h)
		must(t, d.StartDaemon(ctx))
		token, err := n.Token(ctx)
		must(t, err)
		if err := d.Up(ctx, token); err != nil {
			t.Fatalf("%v\nnginx:\n%s\n%s:\n%s", err, nginx.Log(), who, d.Daemon().Log())
		}
		devices = append(devices, d)
	}
	x, y := devices[0], devices[1]
	p := ping(t, ctx, x, y)
	st, err := x.AwaitPath(ctx, "right", "relay")
	must(t, err)
	if st.Coordinator.URL != "https://"+proxyName || !st.Coordinator.Connected || !st.Peer("right").Online {
		t.Errorf("status through the proxy: %+v", st)
	}
	if lost := losses(t, p, time.Second); lost > 0 {
		t.Errorf("%d pings were lost over the relay behind the proxy", lost)
	}
	must(t, n.Admin(ctx, nil, "device", "remove", "right")) // which Watch must carry at once
	second, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := x.Await(second, "rid of right", func(s *warrennet.Status) bool { return len(s.Peers) == 0 }); err != nil {
		t.Error(err)
	}
}
