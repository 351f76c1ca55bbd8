package flowsink

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"warren/tunnel/flowlog"
)

// otlp posts records to a collector: OTLP/HTTP with the JSON encoding, in which enumerations are numbers.
type otlp struct {
	url      string
	header   http.Header
	resource *resource.Resource
	client   *http.Client
}

func newOTLP(u *url.URL, cfg Config) (*otlp, error) {
	var about attributes
	about.text("service.name", "warren")
	about.text("service.version", cfg.Version)
	about.text("host.name", cfg.Host)
	o := &otlp{
		url: u.String(), header: http.Header{}, client: &http.Client{Timeout: 10 * time.Second}, resource: &resource.Resource{Attributes: about},
	}
	for i, pair := range strings.Split(cfg.Headers, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, v, ok := strings.Cut(pair, "=")
		v, err := url.PathUnescape(strings.TrimSpace(v))
		if name = strings.TrimSpace(name); !ok || name == "" || err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_HEADERS: header %d is not NAME=VALUE", i+1) // what it is is nobody's business
		}
		o.header.Set(name, v)
	}
	o.header.Set("Content-Type", "application/json")
	return o, nil
}

func (o *otlp) Name() string { return "otlp" }

func (o *otlp) Close() error {
	o.client.CloseIdleConnections()
	return nil
}

// busy is an answer that asks for patience.
type busy struct {
	status string
	after  time.Duration
}

func (b busy) Error() string             { return "the collector answers " + b.status }
func (b busy) RetryAfter() time.Duration { return b.after }

// Write posts the records. OTLP names the answers after which they may be sent again.
func (o *otlp) Write(ctx context.Context, list []flowlog.Record) error {
	body, err := protojson.MarshalOptions{UseEnumNumbers: true}.Marshal(o.request(list))
	if err != nil {
		return fmt.Errorf("%w: %w", flowlog.ErrUnwanted, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: %w", flowlog.ErrUnwanted, err)
	}
	req.Header = o.header.Clone()
	r, err := o.client.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16)) // what does not come is not needed
	switch {
	case r.StatusCode/100 == 2:
		return rejected(answer)
	case r.StatusCode == http.StatusTooManyRequests, r.StatusCode == http.StatusBadGateway, r.StatusCode == http.StatusServiceUnavailable,
		r.StatusCode == http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(r.Header.Get("Retry-After")) // a date, or nothing, is 0: the exporter has its own pace
		return busy{r.Status, time.Duration(max(0, seconds)) * time.Second}
	}
	return fmt.Errorf("%w: the collector at %s answers %s", flowlog.ErrUnwanted, o.url, r.Status)
}

// rejected reports whether the collector took only some.
func rejected(answer []byte) error {
	var m struct {
		PartialSuccess struct {
			Rejected json.Number `json:"rejectedLogRecords"` // a number or a string of one
			Message  string      `json:"errorMessage"`
		} `json:"partialSuccess"`
	}
	if err := json.Unmarshal(answer, &m); err != nil {
		return nil // it has answered that all is well
	}
	if n := m.PartialSuccess.Rejected; n != "" && n != "0" {
		return fmt.Errorf("%w: the collector rejects %s of them: %.200q", flowlog.ErrUnwanted, n, m.PartialSuccess.Message)
	}
	return nil
}

// request is ExportLogsServiceRequest, of which LogsData is the twin without a service around it.
func (o *otlp) request(list []flowlog.Record) *logs.LogsData {
	scope := &logs.ScopeLogs{Scope: &common.InstrumentationScope{Name: "warren/flowlog"}}
	for i := range list {
		scope.LogRecords = append(scope.LogRecords, entry(&list[i]))
	}
	return &logs.LogsData{ResourceLogs: []*logs.ResourceLogs{{Resource: o.resource, ScopeLogs: []*logs.ScopeLogs{scope}}}}
}

func entry(r *flowlog.Record) *logs.LogRecord {
	severity := logs.SeverityNumber_SEVERITY_NUMBER_INFO
	if r.Kind == flowlog.Refused {
		severity = logs.SeverityNumber_SEVERITY_NUMBER_WARN
	}
	at := uint64(r.At.UnixNano())
	return &logs.LogRecord{
		TimeUnixNano: at, ObservedTimeUnixNano: at, SeverityNumber: severity, SeverityText: strings.TrimPrefix(severity.String(), "SEVERITY_NUMBER_"),
		EventName: "warren.flow." + r.Kind, Body: stringValue(r.String()), Attributes: describe(r),
	}
}

// describe names what it can as OpenTelemetry's semantic conventions do, and what is only ours with a prefix.
func describe(r *flowlog.Record) (a attributes) {
	a.text("warren.flow.kind", r.Kind)
	a.text("warren.flow.direction", r.Direction)
	a.text("warren.device", r.Device)
	a.text("user.name", r.User)
	a.list("warren.tags", r.Tags)
	a.text("network.transport", r.Protocol)
	if r.Source.IsValid() {
		a.text("source.address", r.Source.String())
		a.text("destination.address", r.Destination.String())
	}
	a.number("source.port", uint64(r.SourcePort))
	a.number("destination.port", uint64(r.DestinationPort))
	a.text("warren.grant", r.Grant)
	a.text("warren.flow.reason", r.Reason)
	a.number("warren.flow.sent.packets", r.SentPackets)
	a.number("warren.flow.sent.bytes", r.SentBytes)
	a.number("warren.flow.received.packets", r.ReceivedPackets)
	a.number("warren.flow.received.bytes", r.ReceivedBytes)
	a.number("warren.flow.count", r.Flows)
	a.number("warren.omitted.new", r.OmittedNew)
	a.number("warren.omitted.ended", r.OmittedEnded)
	a.number("warren.omitted.refused", r.OmittedRefused)
	return a
}

// attributes are those that are not empty.
type attributes []*common.KeyValue

func (a *attributes) set(key string, v *common.AnyValue) {
	*a = append(*a, &common.KeyValue{Key: key, Value: v})
}

func (a *attributes) text(key, v string) {
	if v != "" {
		a.set(key, stringValue(v))
	}
}

func (a *attributes) number(key string, n uint64) {
	if n != 0 {
		a.set(key, &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: int64(n)}})
	}
}

func (a *attributes) list(key string, list []string) {
	if len(list) == 0 {
		return
	}
	values := new(common.ArrayValue)
	for _, s := range list {
		values.Values = append(values.Values, stringValue(s))
	}
	a.set(key, &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: values}})
}

func stringValue(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}}
}
