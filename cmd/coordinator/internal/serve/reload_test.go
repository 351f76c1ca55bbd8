package serve

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warren/cmd/coordinator/internal/config"
)

// writeCertificate makes certificate files for a name, and gives what --tls is told.
func writeCertificate(t *testing.T, dir, name string) string {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, b := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile + "," + keyFile
}

// TestReload: what is changed step by step, what the log says of it, and whether the certificate that is served is another.
func TestReload(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	c := config.Default(t.TempDir())
	c.URLs, c.TLS = []string{"https://warren.example"}, writeCertificate(t, dir, "warren.example")
	own, err := ownCertificate(c)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	level := new(slog.LevelVar)
	next, unreadable := c, error(nil)
	read := func() (config.Config, error) { return next, unreadable }
	r := newReloader(Options{Config: c, Read: read, LogLevel: level, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level}))}, own)
	for _, step := range []struct {
		name    string
		do      func()
		says    []string
		renewed bool
		level   slog.Level
	}{
		{"nothing", func() {}, []string{`msg="settings read again" certificate_renewed=false need_a_restart=0`}, false, slog.LevelInfo},
		{"a renewed certificate", func() { writeCertificate(t, dir, "warren.example") }, []string{"certificate renewed", "good_until="}, true, slog.LevelInfo},
		{"a certificate for another name", func() { writeCertificate(t, dir, "other.example") }, []string{"level=ERROR", "nothing was changed", "does not fit https://warren.example"}, false, slog.LevelInfo},
		{"which devices do not know yet", func() { next.URLs = []string{"https://other.example"} }, []string{
			"level=WARN", "read again needs a restart", `setting=url from=[https://warren.example] to=[https://other.example]`, "need_a_restart=1"}, false, slog.LevelInfo},
		{"other files", func() { next.URLs, next.TLS = c.URLs, writeCertificate(t, other, "warren.example") }, []string{"certificate renewed", other}, true, slog.LevelInfo},
		{"no files", func() { next.TLS = "self" }, []string{"setting=tls", "to=self", "needs a restart"}, false, slog.LevelInfo},
		{"files that are not there", func() { next.TLS = "/none,/none" }, []string{"level=ERROR", "/none"}, false, slog.LevelInfo},
		{"the level", func() { next.TLS, next.LogLevel = c.TLS, "debug"; writeCertificate(t, dir, "warren.example") }, []string{"log level changed", "to=debug"}, true, slog.LevelDebug},
		{"a wrong file", func() { unreadable, next.LogLevel = errors.New("configuration x:7: listen: want"), "error" }, []string{"level=ERROR", "x:7"}, false, slog.LevelDebug},
		{"the level, and what must wait", func() { unreadable, next.Listen, next.RelayRate = nil, ":1", 9; next.LogLevel = "warn" },
			[]string{"setting=listen from=:443 to=:1", "setting=relay-rate from=0 to=9", "log level changed"}, false, slog.LevelWarn},
	} {
		log.Reset()
		step.do()
		before, _ := own.get(nil)
		r.reload()
		after, _ := own.get(nil)
		if renewed := before != after; renewed != step.renewed || level.Level() != step.level {
			t.Errorf("%s: renewed %t, level %s", step.name, renewed, level.Level())
		}
		for _, want := range step.says {
			if !strings.Contains(log.String(), want) {
				t.Errorf("%s: the log does not say %q:\n%s", step.name, want, log.String())
			}
		}
	}
}
