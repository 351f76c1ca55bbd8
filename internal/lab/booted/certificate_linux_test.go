//go:build booted

package booted

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"warren/internal/lab"
)

// certificate makes one for a name, and its key, as PEM.
func certificate(t *testing.T, name string) (cert, private []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	must(t, err)
	b, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})
}

// TestCoordinatorCertificate: systemd hands the coordinator a certificate that only root may read, by the settings that docs/install.md shows.
func TestCoordinatorCertificate(t *testing.T) {
	const name = "warren.example"
	doc, err := os.ReadFile("../../../docs/install.md")
	must(t, err)
	loads := regexp.MustCompile(`(?m)^    (LoadCredential=\S+:/etc/letsencrypt/\S+)$`).FindAllStringSubmatch(string(doc), -1)
	setting := regexp.MustCompile("`(tls = \"/run/credentials/[^`]+)`").FindStringSubmatch(string(doc))
	if len(loads) != 2 || setting == nil {
		t.Fatalf("docs/install.md shows %q and %q", loads, setting)
	}

	w := newWorld(t)
	m := w.hub()
	cert, private := certificate(t, name)
	for file, b := range map[string][]byte{"fullchain.pem": cert, "privkey.pem": private} {
		must(t, m.WriteFile("/etc/letsencrypt/live/"+name+"/"+file, b, 0o600))
	}
	must(t, m.Write("/etc/warren-coordinator/coordinator.toml", fmt.Sprintf("%s\nurl = [\"https://%s\"]\n", setting[1], name)))
	m.dropIn("warren-coordinator.service", "[Service]\n"+loads[0][1]+"\n"+loads[1][1]+"\n")
	m.must("systemctl", "restart", "warren-coordinator.service")
	outside, err := w.Lab.Host("outside", lab.None)
	must(t, err)
	c, err := outside.Dial(w.ctx, "tcp", m.Place.Public.String()+":443")
	must(t, err)
	defer c.Close()
	s := tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: name})
	must(t, s.HandshakeContext(w.ctx))
	if shown := s.ConnectionState().PeerCertificates[0]; shown.Subject.CommonName != name {
		t.Errorf("the coordinator shows a certificate of %s", shown.Subject)
	}
	if token := m.must("warren-coordinator", "token", "create"); !strings.Contains(token, "wrn1") {
		t.Errorf("token create says %q", token)
	}
}
