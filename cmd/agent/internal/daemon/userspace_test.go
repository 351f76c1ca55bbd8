package daemon

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"warren/cmd/agent/internal/proxy"
)

// TestOpenProxyWarns: a proxy that other hosts reach, and that asks them for nothing, is told of in the log.
func TestOpenProxyWarns(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Userspace)
		warns  bool
	}{
		{"loopback", func(*Userspace) {}, false},
		{"every address", func(u *Userspace) { u.SOCKS5, u.RemoteClients = "0.0.0.0:0", true }, true},
		{"every address, with a password", func(u *Userspace) {
			u.SOCKS5, u.RemoteClients, u.Credentials = "0.0.0.0:0", true, proxy.Credentials{User: "ann", Password: "hush"}
		}, false},
	} {
		cfg := &Userspace{SOCKS5: "127.0.0.1:0"}
		tc.change(cfg)
		var log bytes.Buffer
		u, err := openUserspaceServices(t.Context(), cfg, func() *session { return nil }, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		u.close()
		if got := strings.Contains(log.String(), "level=WARN"); got != tc.warns || strings.Contains(log.String(), "hush") {
			t.Errorf("%s: it logs %q", tc.name, &log)
		}
	}
}
