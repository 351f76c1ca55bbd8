package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"warren/cmd/agent/internal/daemon"
	pb "warren/proto/warrenv1"
)

func TestPrintAnswers(t *testing.T) {
	var out strings.Builder
	printAnswers(&out, &pb.WhyResponse{Peer: "desk"})
	if out.Len() > 0 {
		t.Errorf("without a flow: %s", out.String())
	}
	m := &pb.WhyResponse{Peer: "desk", Flows: []*pb.FlowAnswer{
		{Direction: "out", Source: "100.64.0.1", Destination: "100.64.0.2", Flow: "tcp/443", Grants: []string{"web"}},
		{Direction: "in", Source: "100.64.0.2", Destination: "100.64.0.1", Flow: "tcp/443", Nearest: []*pb.GrantMiss{
			{Grant: "ssh", Lacks: []string{"flow"}, Text: "it allows tcp/22 only"}, {Grant: "all", Lacks: []string{"source"}, Text: "not among"},
		}},
		{Direction: "out", Source: "fd00::1", Destination: "fd00::2", Flow: "tcp/443", Grants: []string{"web", "all"}},
		{Direction: "in", Source: "fd00::2", Destination: "fd00::1", Flow: "tcp/443"},
	}}
	printAnswers(&out, m)
	want := `tcp/443 from this device to desk (100.64.0.1 to 100.64.0.2): allowed by grant web
tcp/443 from desk to this device (100.64.0.2 to 100.64.0.1): no grant in this device's map allows it
  - grant ssh: it allows tcp/22 only
  - grant all: not among
tcp/443 from this device to desk (fd00::1 to fd00::2): allowed by grants web, all
tcp/443 from desk to this device (fd00::2 to fd00::1): no grant in this device's map allows it, nor anything like it

`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	v := whyView(m)
	if len(v.Flows) != 4 || !v.Flows[0].Allowed || v.Flows[1].Allowed || v.Flows[1].Nearest[1].Lacks[0] != "source" || v.Flows[3].Grants == nil {
		t.Errorf("as JSON: %+v", v.Flows)
	}
}

func TestPrintWhoIs(t *testing.T) {
	flow := &pb.FlowRecord{Kind: "live", Direction: "in", Device: "desk", Protocol: "tcp", Source: "100.64.0.2", SourcePort: 5, Destination: "100.64.0.1", DestinationPort: 80, Grant: "web"}
	for name, c := range map[string]struct {
		m        *pb.WhoIsResponse
		withPort bool
		want     string
	}{
		"a device": {&pb.WhoIsResponse{Device: "desk", User: "ann", Groups: []string{"group:a", "group:b"}, Addresses: []string{"100.64.0.2", "fd00::2"}}, false,
			"device     desk\nuser       ann\ngroups     group:a group:b\naddresses  100.64.0.2 fd00::2\n"},
		"with a flow": {&pb.WhoIsResponse{Device: "desk", Tags: []string{"a", "b"}, Flows: []*pb.FlowRecord{flow}}, true,
			"device  desk\ntags    a b\nflow    live tcp 100.64.0.2:5 to 100.64.0.1:80, in desk, grant web\n"},
		"without":   {&pb.WhoIsResponse{Device: "me", Self: true}, true, "device  me (this device)\nflow    none through the tunnel\n"},
		"a gateway": {&pb.WhoIsResponse{Gateway: "gate", Route: "10.2.0.0/16"}, false, "device  somebody behind gate, which carries 10.2.0.0/16\n"},
	} {
		v, err := whoIsView(c.m)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := printWhoIs(&out, v, c.withPort); err != nil || out.String() != c.want {
			t.Errorf("%s: %v\n%swant\n%s", name, err, out.String(), c.want)
		}
	}
	if _, err := whoIsView(&pb.WhoIsResponse{Flows: []*pb.FlowRecord{{Source: "x"}}}); err == nil {
		t.Error("a record that makes no sense was taken")
	}
}

func TestFlowOptions(t *testing.T) {
	parse := func(args ...string) (cfg daemon.Config, err error) {
		var o flowOptions
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		o.register(f)
		if err := f.Parse(args); err != nil {
			return cfg, err
		}
		return cfg, o.apply(&cfg)
	}
	cfg, err := parse()
	if err != nil || cfg.MaxFlows != 65536 || cfg.NoFlowRecords || cfg.FlowFileSize != 16<<20 || len(cfg.FlowExports) != 0 {
		t.Errorf("%+v, %v", cfg, err)
	}
	cfg, err = parse("--flow-export", "syslog", "--flow-export", "/var/log/flows", "--flow-file-size", "2", "--max-flows", "2000")
	if err != nil || cfg.MaxFlows != 2000 || cfg.FlowFileSize != 2<<20 || len(cfg.FlowExports) != 2 {
		t.Errorf("%+v, %v", cfg, err)
	}
	if cfg, err = parse("--flow-records=false"); err != nil || !cfg.NoFlowRecords {
		t.Errorf("%+v, %v", cfg, err)
	}
	for want, args := range map[string][]string{
		"1024 to 4194304": {"--max-flows", "1023"}, "1 to 10240": {"--flow-file-size", "0"}, "nothing to export": {"--flow-records=false", "--flow-export", "syslog"},
		"whole path": {"--flow-export", "flows"}, "at most 8": strings.Fields(strings.Repeat("--flow-export syslog ", 9)),
	} {
		if _, err := parse(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
