package publicroots

import (
	"crypto/x509"
	"os"
	"os/exec"
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

// onceVariable has TestUse do its work in this process.
const onceVariable = "WARREN_TEST_USE"

// TestUse: where the system has none, a certificate by a public authority is good, and one by nobody is not. It runs in a process of its own, for what
// Use does to one stays.
func TestUse(t *testing.T) {
	if os.Getenv(onceVariable) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestUse$", "-test.count=1")
		cmd.Env = append(os.Environ(), onceVariable+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
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
