package flowsink

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"

	"warren/tunnel/flowlog"
)

func at() time.Time { return time.Date(2026, 11, 25, 12, 0, 0, 5e6, time.UTC) }

// ended has every field of a flow's record.
func ended() flowlog.Record {
	return flowlog.Record{
		At: at(), Kind: flowlog.Ended, Direction: "in", Device: "desk", User: "ann", Tags: []string{"web", "db"}, Protocol: "tcp",
		Source: netip.MustParseAddr("100.64.0.2"), SourcePort: 1000, Destination: netip.MustParseAddr("100.64.0.1"), DestinationPort: 443,
		Grant: "web", Reason: "closed", Began: at().Add(-time.Minute), Last: at().Add(-time.Second),
		SentPackets: 1, SentBytes: 1 << 60, ReceivedPackets: 3, ReceivedBytes: 4, Flows: 1,
	}
}

func refused() flowlog.Record {
	r := ended()
	r.Kind, r.Grant, r.Reason, r.Tags, r.Protocol, r.SourcePort, r.DestinationPort = flowlog.Refused, "", "", nil, "icmp", 0, 0
	return r
}

func omitted() flowlog.Record {
	return flowlog.Record{At: at(), Kind: flowlog.Omitted, Device: "desk", ReceivedPackets: 9, OmittedNew: 1, OmittedEnded: 2, OmittedRefused: 3}
}

func TestCheck(t *testing.T) {
	for _, good := range []string{
		"/var/log/flows.jsonl", "file:/var/log/flows.jsonl", "syslog", "syslog://10.0.0.1", "syslog+tcp://logs.example.com:6514", "syslog://[fd00::1]:514",
		"http://127.0.0.1:4318", "https://otel.example.com/custom/logs",
	} {
		if err := Check(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"": "whole path", "flows.jsonl": "whole path", "file:flows.jsonl": "whole path, such as", "file:": "whole path", "syslog:": "want syslog", "syslog://": "HOST:PORT",
		"syslog://host/x": "HOST:PORT", "ftp://host": "OTLP", "http://": "want http://HOST", "https://u:secret@host": "OTEL_EXPORTER_OTLP_HEADERS", "http://[::1": "OTLP", "otlp:host": "OTLP",
	} {
		err := Check(bad)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %q", bad, err, want)
		}
		if s, err := Open(bad, Config{}); err == nil || s != nil {
			t.Errorf("%q was opened", bad)
		}
	}
}

func open(t *testing.T, dest string, cfg Config) flowlog.Sink {
	t.Helper()
	s, err := Open(dest, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func write(t *testing.T, s flowlog.Sink, list ...flowlog.Record) {
	t.Helper()
	if err := s.Write(t.Context(), list); err != nil {
		t.Fatal(err)
	}
}

// same compares what was written with what was to be.
func same(t *testing.T, want flowlog.Record, got []byte) {
	t.Helper()
	var r flowlog.Record
	if err := json.Unmarshal(got, &r); err != nil {
		t.Fatalf("%s: %v", got, err)
	}
	if diff := cmp.Diff(want, r, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestJSON: the form of a line is an interface.
func TestJSON(t *testing.T) {
	for want, r := range map[string]flowlog.Record{
		`{"at":"2026-11-25T12:00:00.005Z","kind":"ended","direction":"in","device":"desk","user":"ann","tags":["web","db"],"protocol":"tcp",` +
			`"source":"100.64.0.2","source_port":1000,"destination":"100.64.0.1","destination_port":443,"grant":"web","reason":"closed",` +
			`"began":"2026-11-25T11:59:00.005Z","last":"2026-11-25T11:59:59.005Z","sent_packets":1,"sent_bytes":1152921504606846976,` +
			`"received_packets":3,"received_bytes":4,"flows":1}`: ended(),
		`{"at":"2026-11-25T12:00:00.005Z","kind":"omitted","device":"desk","sent_packets":0,"sent_bytes":0,"received_packets":9,"received_bytes":0,` +
			`"omitted_new":1,"omitted_ended":2,"omitted_refused":3}`: omitted(),
	} {
		got, err := json.Marshal(r)
		if err != nil || string(got) != want {
			t.Errorf("%s, %v\nwant %s", got, err, want)
		}
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.jsonl")
	s := open(t, path, Config{FileSize: 1 << 20})
	write(t, s, ended(), refused())
	write(t, s, omitted())
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
	if len(lines) != 3 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, want := range []flowlog.Record{ended(), refused(), omitted()} {
		same(t, want, lines[i])
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	write(t, s, ended())
	if _, err := os.Stat(path); err != nil {
		t.Errorf("after it was moved away: %v", err)
	}
}

// TestFileIsBounded: what was written last stays, in order, and no more than five files of the size.
func TestFileIsBounded(t *testing.T) {
	const size, batch = 4000, 3
	dir := t.TempDir()
	path := filepath.Join(dir, "flows.jsonl")
	s := open(t, "file:"+path, Config{FileSize: size})
	for n := range 100 {
		var list []flowlog.Record
		for i := range batch {
			r := omitted()
			r.OmittedNew = uint64(1 + n*batch + i)
			list = append(list, r)
		}
		write(t, s, list...)
		names, err := filepath.Glob(path + "*")
		if err != nil || len(names) > kept+1 {
			t.Fatalf("%v, %v", names, err)
		}
		for _, name := range names {
			if info, err := os.Stat(name); err != nil || info.Size() > size {
				t.Fatalf("%s: %d bytes, %v", name, info.Size(), err)
			}
		}
	}
	next := uint64(0)
	for n := kept; n >= 0; n-- {
		name := path
		if n > 0 {
			name = fmt.Sprintf("%s.%d", path, n)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var r flowlog.Record
			if err := json.Unmarshal(line, &r); err != nil || next != 0 && r.OmittedNew != next {
				t.Fatalf("%s: record %d, want %d, %v", name, r.OmittedNew, next, err)
			}
			next = r.OmittedNew + 1
		}
	}
	if next != 100*batch+1 {
		t.Errorf("the last record is %d", next-1)
	}
}

// TestFileFails: what cannot be written is to be written again, and is once there is a way.
func TestFileFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	s := open(t, filepath.Join(dir, "flows.jsonl"), Config{FileSize: 1000})
	if err := s.Write(t.Context(), []flowlog.Record{ended()}); !errors.Is(err, os.ErrNotExist) || errors.Is(err, flowlog.ErrUnwanted) {
		t.Errorf("without its directory: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, s, ended())
	full := open(t, "/dev/full", Config{FileSize: 1000})
	if err := full.Write(t.Context(), []flowlog.Record{ended()}); err == nil || errors.Is(err, flowlog.ErrUnwanted) {
		t.Errorf("on a full disk: %v", err)
	}
}

// header is what stands before a record in a message of RFC 5424.
var header = regexp.MustCompile(`^<(\d+)>1 2026-11-25T12:00:00.005Z pc warren \d+ flow - $`)

func checkMessage(t *testing.T, want flowlog.Record, priority string, m []byte) {
	t.Helper()
	i := bytes.IndexByte(m, '{')
	if i < 0 {
		t.Fatalf("no record: %s", m)
	}
	if h := header.FindSubmatch(m[:i]); h == nil || string(h[1]) != priority {
		t.Errorf("header %q, want priority %s", m[:i], priority)
	}
	same(t, want, m[i:])
}

func TestSyslogUDP(t *testing.T) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := open(t, "syslog://"+l.LocalAddr().String(), Config{Host: "pc"})
	write(t, s, ended(), refused())
	b := make([]byte, 4096)
	for _, want := range []struct {
		r        flowlog.Record
		priority string
	}{{ended(), "30"}, {refused(), "28"}} {
		n, _, err := l.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		checkMessage(t, want.r, want.priority, b[:n])
	}
}

// TestSyslogTCP: messages are told apart by their lengths, and a broken connection is made anew.
func TestSyslogTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, "syslog+tcp://"+l.Addr().String(), Config{Host: "pc"})
	for range 2 {
		write(t, s, ended(), omitted())
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		for _, want := range []flowlog.Record{ended(), omitted()} {
			length, err := r.ReadString(' ')
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.Atoi(strings.TrimSuffix(length, " "))
			if err != nil {
				t.Fatal(err)
			}
			m := make([]byte, n)
			if _, err := io.ReadFull(r, m); err != nil {
				t.Fatal(err)
			}
			checkMessage(t, want, "30", m)
		}
		if err := c.(*net.TCPConn).SetLinger(0); err != nil {
			t.Fatal(err)
		}
		c.Close()
		for err == nil { // until the reset has arrived
			err = s.Write(t.Context(), []flowlog.Record{ended()})
		}
		if errors.Is(err, flowlog.ErrUnwanted) {
			t.Error(err)
		}
	}
	l.Close()
	if err := s.Write(t.Context(), []flowlog.Record{ended()}); err == nil {
		t.Error("nobody listens, and nobody minds")
	}
}

func TestSyslogHere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := open(t, "syslog", Config{}).(*syslog)
	if s.network != "unixgram" || s.address != "/dev/log" {
		t.Errorf("%s %s", s.network, s.address)
	}
	s.address = path
	write(t, s, refused())
	b := make([]byte, 4096)
	n, _, err := l.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf("<28>%s warren[%d]: ", at().Local().Format(time.Stamp), os.Getpid())
	if !strings.HasPrefix(string(b[:n]), head) {
		t.Fatalf("%s, want %s", b[:n], head)
	}
	same(t, refused(), b[len(head):n])
}

// TestOTLP: what is posted is OTLP by its own definition, without a field that it does not know.
func TestOTLP(t *testing.T) {
	var got logs.LogsData
	var header http.Header
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err == nil {
			err = protojson.Unmarshal(b, &got)
		}
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/logs" || bytes.Contains(b, []byte("SEVERITY_NUMBER")) {
			t.Errorf("%s %s: %v\n%s", r.Method, r.URL, err, b)
		}
		header = r.Header
		w.Write([]byte(`{"partialSuccess":{}}`))
	}))
	defer server.Close()
	s := open(t, server.URL, Config{Host: "pc", Version: "v1", Headers: "x-key = a%20b , Authorization=Bearer%20z"})
	write(t, s, ended(), refused(), omitted())
	if header.Get("Content-Type") != "application/json" || header.Get("X-Key") != "a b" || header.Get("Authorization") != "Bearer z" {
		t.Errorf("%v", header)
	}
	if diff := cmp.Diff([]string{
		"resource service.name=warren service.version=v1 host.name=pc",
		"1795608000005000000 9 INFO warren.flow.ended ended tcp 100.64.0.2:1000 to 100.64.0.1:443, in desk of ann, grant web, closed: " +
			"warren.flow.kind=ended warren.flow.direction=in warren.device=desk user.name=ann warren.tags=[web db] network.transport=tcp " +
			"source.address=100.64.0.2 destination.address=100.64.0.1 source.port=1000 destination.port=443 warren.grant=web warren.flow.reason=closed " +
			"warren.flow.sent.packets=1 warren.flow.sent.bytes=1152921504606846976 warren.flow.received.packets=3 warren.flow.received.bytes=4 warren.flow.count=1",
		"1795608000005000000 13 WARN warren.flow.refused refused icmp 100.64.0.2 to 100.64.0.1, in desk of ann: " +
			"warren.flow.kind=refused warren.flow.direction=in warren.device=desk user.name=ann network.transport=icmp " +
			"source.address=100.64.0.2 destination.address=100.64.0.1 " +
			"warren.flow.sent.packets=1 warren.flow.sent.bytes=1152921504606846976 warren.flow.received.packets=3 warren.flow.received.bytes=4 warren.flow.count=1",
		"1795608000005000000 9 INFO warren.flow.omitted omitted desk: 1 new, 2 ended and 3 refused flows: warren.flow.kind=omitted warren.device=desk " +
			"warren.flow.received.packets=9 warren.omitted.new=1 warren.omitted.ended=2 warren.omitted.refused=3",
	}, lines(&got)); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, prototext.Format(&got))
	}
}

// lines prints the resource and each record.
func lines(m *logs.LogsData) (out []string) {
	for _, r := range m.GetResourceLogs() {
		out = append(out, "resource"+describeAttributes(r.GetResource().GetAttributes()))
		for _, scope := range r.GetScopeLogs() {
			for _, l := range scope.GetLogRecords() {
				out = append(out, fmt.Sprintf("%d %d %s %s %s:%s", l.GetTimeUnixNano(), l.GetSeverityNumber(), l.GetSeverityText(), l.GetEventName(),
					l.GetBody().GetStringValue(), describeAttributes(l.GetAttributes())))
			}
		}
	}
	return out
}

func describeAttributes(list attributes) (out string) {
	for _, a := range list {
		switch v := a.GetValue(); {
		case v.GetArrayValue() != nil:
			var all []string
			for _, one := range v.GetArrayValue().GetValues() {
				all = append(all, one.GetStringValue())
			}
			out += fmt.Sprintf(" %s=%v", a.GetKey(), all)
		case v.GetStringValue() != "":
			out += " " + a.GetKey() + "=" + v.GetStringValue()
		default:
			out += fmt.Sprintf(" %s=%d", a.GetKey(), v.GetIntValue())
		}
	}
	return out
}

// TestOTLPAnswers: which answers mean that the records are gone, lost, or to be sent again.
func TestOTLPAnswers(t *testing.T) {
	var status int
	var body, after string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	s := open(t, server.URL+"/own/path", Config{})
	for _, c := range []struct {
		status      int
		body, after string
		lost, again bool
		patience    time.Duration
	}{
		{status: 200},
		{status: 202, body: "no JSON"},
		{status: 200, body: `{"partialSuccess":{"rejectedLogRecords":"0"}}`},
		{status: 200, body: `{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too old"}}`, lost: true},
		{status: 200, body: `{"partialSuccess":{"rejectedLogRecords":2}}`, lost: true},
		{status: 400, lost: true},
		{status: 401, lost: true},
		{status: 500, lost: true},
		{status: 429, after: "30", again: true, patience: 30 * time.Second},
		{status: 502, again: true},
		{status: 503, after: "Fri, 31 Dec 1999 23:59:59 GMT", again: true},
		{status: 504, after: "-5", again: true},
	} {
		status, body, after = c.status, c.body, c.after
		err := s.Write(t.Context(), []flowlog.Record{ended(), ended()})
		var wish busy
		again := errors.As(err, &wish)
		if errors.Is(err, flowlog.ErrUnwanted) != c.lost || again != c.again || wish.RetryAfter() != c.patience || (err != nil) != (c.lost || c.again) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	server.Close()
	if err := s.Write(t.Context(), []flowlog.Record{ended()}); err == nil || errors.Is(err, flowlog.ErrUnwanted) {
		t.Errorf("nobody answers: %v", err)
	}
	for _, headers := range []string{"secret", "=secret", "a=%zz", "a=b,secret"} {
		if _, err := Open("http://localhost", Config{Headers: headers}); err == nil || !strings.Contains(err.Error(), "NAME=VALUE") || strings.Contains(err.Error(), headers) {
			t.Errorf("headers %q: %v", headers, err)
		}
	}
}
