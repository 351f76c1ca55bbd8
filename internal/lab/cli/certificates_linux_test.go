package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdCertificates makes an authority in ca.pem, and for a name key.pem, cert.pem and old.pem, which has expired.
func cmdCertificates(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "certificates NAME")
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	sign := func(file string, c *x509.Certificate, k *ecdsa.PrivateKey) {
		der, err := x509.CreateCertificate(rand.Reader, c, ca, k.Public(), caKey)
		ts.Check(err)
		writePEM(ts, file, "CERTIFICATE", der)
	}
	sign("ca.pem", ca, caKey)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: args[0]}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		DNSNames: []string{args[0]}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	sign("cert.pem", leaf, key)
	leaf.NotAfter = now.Add(-time.Minute)
	sign("old.pem", leaf, key)
	for file, k := range map[string]*ecdsa.PrivateKey{"key.pem": key, "ca-key.pem": caKey} {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		ts.Check(err)
		writePEM(ts, file, "PRIVATE KEY", der)
	}
}

func writePEM(ts *testscript.TestScript, file, kind string, der []byte) {
	ts.Check(os.WriteFile(ts.MkAbs(file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}
