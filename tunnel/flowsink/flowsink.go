// Package flowsink is where flow records go: a file of JSON lines, syslog, or a collector that speaks OTLP over HTTP. Open takes a destination
// as the daemon's flag has it; Check finds out beforehand whether it is one.
//
//	/PATH, file:PATH                      JSON lines; the file is rotated and bounded
//	syslog                                this machine's, by /dev/log
//	syslog://HOST[:PORT]                  another's, over UDP (RFC 5424, RFC 5426)
//	syslog+tcp://HOST[:PORT]              the same over TCP (RFC 6587)
//	http://HOST[/PATH], https://...       OTLP; without a path it is /v1/logs
package flowsink

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"

	"warren/tunnel/flowlog"
)

// Config is what sinks are made with.
type Config struct {
	// FileSize bounds a file, in bytes; with those it was before it takes five times that.
	FileSize int64
	// Host names this machine, Version this program.
	Host, Version string
	// Headers go with OTLP requests, as in OTEL_EXPORTER_OTLP_HEADERS: NAME=VALUE, joined by commas, values percent-encoded.
	Headers string
}

// Check reports what is wrong with a destination.
func Check(dest string) error {
	_, err := parse(dest)
	return err
}

// Open makes the sink. It writes nothing yet, and a collector need not answer.
func Open(dest string, cfg Config) (flowlog.Sink, error) {
	u, err := parse(dest)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "file":
		return &file{path: u.Path, most: cfg.FileSize}, nil
	case "syslog", "syslog+tcp":
		return newSyslog(u, cfg.Host), nil
	}
	return newOTLP(u, cfg)
}

func parse(dest string) (*url.URL, error) {
	if path, ok := strings.CutPrefix(dest, "file:"); ok || filepath.IsAbs(dest) {
		path = cmp.Or(path, dest)
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("destination %q: want the file's whole path, such as file:/var/log/warren/flows.jsonl", dest)
		}
		return &url.URL{Scheme: "file", Path: path}, nil
	}
	if dest == "syslog" {
		return &url.URL{Scheme: "syslog"}, nil
	}
	u, err := url.Parse(dest)
	if err != nil || u.Opaque != "" {
		return nil, fmt.Errorf("destination %q: want a file's whole path, syslog, syslog://HOST, or the URL of an OTLP collector", dest)
	}
	switch u.Scheme {
	case "syslog", "syslog+tcp":
		if u.Hostname() == "" || u.Path != "" || u.RawQuery != "" {
			return nil, fmt.Errorf("destination %q: want %s://HOST or %[2]s://HOST:PORT", dest, u.Scheme)
		}
		u.Host = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "514"))
	case "http", "https":
		if u.Hostname() == "" || u.User != nil {
			return nil, fmt.Errorf("destination %q: want %s://HOST; credentials go into OTEL_EXPORTER_OTLP_HEADERS", u.Redacted(), u.Scheme)
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = "/v1/logs"
		}
	default:
		return nil, fmt.Errorf("destination %q: want a file's whole path, syslog, syslog://HOST, or the URL of an OTLP collector", dest)
	}
	return u, nil
}
