package publicroots

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// TestMain is of a system that names no authority.
func TestMain(m *testing.M) {
	os.Setenv("SSL_CERT_FILE", filepath.Join(os.TempDir(), "warren-no-such-file"))
	os.Setenv("SSL_CERT_DIR", filepath.Join(os.TempDir(), "warren-no-such-directory"))
	os.Exit(m.Run())
}

// TestUse: where the system has none, a certificate by a public authority is good, and one by nobody is not.
func TestUse(t *testing.T) {
	var first *x509.Certificate
	count := 0
	for root := range bundle.Roots() {
		cert, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			t.Error(err)
			continue
		}
		if count++; first == nil && root.Constraint == nil {
			first = cert
		}
	}
	verify := func() error {
		_, err := first.Verify(x509.VerifyOptions{CurrentTime: first.NotBefore.AddDate(1, 0, 0), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return err
	}
	if count < 50 {
		t.Fatalf("%d authorities", count)
	}
	if verify() == nil {
		t.Fatal("the system has authorities of its own: this test shows nothing")
	}
	Use()
	if err := verify(); err != nil {
		t.Errorf("%s: %v", first.Subject, err)
	}
	defer func() {
		if recover() == nil {
			t.Error("it may be called twice")
		}
	}()
	Use()
}

func BenchmarkPool(b *testing.B) {
	for b.Loop() {
		pool()
	}
}
