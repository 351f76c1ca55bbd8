package flowsink

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"warren/tunnel/flowlog"
)

// RFC 5424 section 6.2.1: facility daemon, severities informational and warning.
const (
	facilityDaemon = 3 << 3
	severityInfo   = 6
	severityWarn   = 4
)

// deadline is how long a portion of records may take to leave.
const deadline = 5 * time.Second

// syslog sends each record as a message that is the record's JSON.
type syslog struct {
	network, address string
	host             string
	conn             net.Conn // nil: none now
}

func newSyslog(u *url.URL, host string) *syslog {
	s := &syslog{network: "unixgram", address: "/dev/log", host: cmp.Or(host, "-")}
	if u.Host != "" {
		s.network, s.address = map[string]string{"syslog": "udp", "syslog+tcp": "tcp"}[u.Scheme], u.Host
	}
	return s
}

func (s *syslog) Name() string { return "syslog" }

func (s *syslog) Close() error {
	if s.conn == nil {
		return nil
	}
	return s.conn.Close()
}

// Write connects when it has to. What a broken connection had taken may come twice.
func (s *syslog) Write(ctx context.Context, list []flowlog.Record) error {
	if s.conn == nil {
		d := net.Dialer{Timeout: deadline}
		c, err := d.DialContext(ctx, s.network, s.address)
		if err != nil {
			return err
		}
		s.conn = c
	}
	err := s.send(list)
	if err != nil {
		s.conn.Close()
		s.conn = nil
	}
	return err
}

func (s *syslog) send(list []flowlog.Record) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(deadline)); err != nil {
		return err
	}
	var stream bytes.Buffer
	for i := range list {
		m, err := s.message(&list[i])
		if err != nil {
			return fmt.Errorf("%w: %w", flowlog.ErrUnwanted, err)
		}
		if s.network == "tcp" { // octet counting (RFC 6587 section 3.4.1)
			stream.WriteString(strconv.Itoa(len(m)) + " ")
			stream.Write(m)
			continue
		}
		if _, err := s.conn.Write(m); err != nil {
			return err
		}
	}
	_, err := stream.WriteTo(s.conn)
	return err
}

// message is RFC 5424's form, or for this machine's daemon the older one that all understand (RFC 3164 section 4.1, without the host).
func (s *syslog) message(r *flowlog.Record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	priority := facilityDaemon | severityInfo
	if r.Kind == flowlog.Refused {
		priority = facilityDaemon | severityWarn
	}
	if s.network == "unixgram" {
		return fmt.Appendf(nil, "<%d>%s warren[%d]: %s", priority, r.At.Local().Format(time.Stamp), os.Getpid(), body), nil
	}
	return fmt.Appendf(nil, "<%d>1 %s %s warren %d flow - %s", priority, r.At.UTC().Format("2006-01-02T15:04:05.000Z"), s.host, os.Getpid(), body), nil
}
