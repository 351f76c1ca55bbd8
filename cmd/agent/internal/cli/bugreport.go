package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"warren/cmd/agent/internal/state"
	"warren/cmd/internal/cmdline"
	"warren/internal/bugreport"
	"warren/internal/buildversion"
	pb "warren/proto/warrenv1"
	"warren/tunnel/dnsforward"
)

// doctorPatience is how long doctor, and netcheck within it, may take.
const doctorPatience = 40 * time.Second

func (a *app) bugReport() *cobra.Command {
	const long = `Writes one file, which only you may read: version, status with the history of paths, settings, what doctor and netcheck find, metrics, links, addresses,
routes, rules, firewall, the newest lines of the log, what the daemon's goroutines do, and facts about kernel and system. It takes up to a minute, and works
without a daemon. Private keys, join tokens, passwords and credentials are left out. --redact also replaces public addresses, keys and names of devices, users
and hosts, each by the same word everywhere. Look at it before you pass it on: a name that this program does not know stays, and in the log there may be one.`
	return cmdline.BugReport("warren", long, a.out, &a.json, a.now, func(ctx context.Context, file string, redact bool, now time.Time) error {
		live := a.liveLine()
		live.show("looking at this host; it takes up to a minute")
		defer live.clear()
		return bugreport.Create(ctx, file, a.redactor(ctx, redact), now, a.reportSources())
	})
}

// redactor knows the keys of this device, if this user may read them, and the names that its daemon knows.
func (a *app) redactor(ctx context.Context, pseudonyms bool) *bugreport.Redactor {
	r := bugreport.NewRedactor(pseudonyms)
	if s, err := state.Read(a.state); err == nil {
		if !s.Device.IsZero() {
			r.Secret(s.Device.Bytes())
			r.Secret(s.Node.Bytes())
		}
		r.Name("device", s.Name)
		r.Name("user", s.Operator)
		if s.Membership != nil {
			for _, e := range s.Membership.Endpoints {
				nameHost(r, e.URL)
			}
		}
	}
	if host, err := os.Hostname(); err == nil {
		r.Name("host", host)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if st, err := a.client().Status(ctx, connect.NewRequest(&pb.StatusRequest{})); err == nil {
		nameAll(r, st.Msg)
	}
	return r
}

func nameHost(r *bugreport.Redactor, text string) {
	if u, err := url.Parse(text); err == nil {
		r.Name("host", u.Hostname())
	}
}

// nameAll tells of everybody whom a status names.
func nameAll(r *bugreport.Redactor, st *pb.StatusResponse) {
	r.Name("device", st.GetSelf().GetName())
	r.Name("user", st.GetSelf().GetOwner())
	r.Name("user", st.GetOperator())
	nameHost(r, st.GetCoordinator().GetUrl())
	for _, p := range st.GetPeers() {
		r.Name("device", p.GetName())
		r.Name("relay", p.GetPath().GetRelay())
		for _, h := range p.GetHistory() {
			r.Name("relay", h.GetRelay())
		}
	}
}

// reportSources are the files of a report. Of the daemon's own there are as many as it gives.
func (a *app) reportSources() []bugreport.Source {
	sources := []bugreport.Source{
		bugreport.Text("about.txt", a.about()),
		messageSource("status.json", 0, func(ctx context.Context) (proto.Message, error) {
			r, err := a.client().Status(ctx, connect.NewRequest(&pb.StatusRequest{}))
			if err != nil {
				return nil, plain(a.socket, err)
			}
			return r.Msg, nil
		}),
		{Name: "doctor.json", Patience: doctorPatience, Collect: func(ctx context.Context) ([]byte, error) {
			return json.MarshalIndent(a.diagnose(ctx), "", "  ")
		}},
		messageSource("netcheck.json", doctorPatience, func(ctx context.Context) (proto.Message, error) {
			r, err := a.client().Netcheck(ctx, connect.NewRequest(&pb.NetcheckRequest{}))
			if err != nil {
				return nil, plain(a.socket, err)
			}
			return r.Msg, nil
		}),
	}
	diagnostics := a.fetchDiagnostics()
	for _, name := range []string{"settings.json", "log.txt", "metrics.txt", "goroutines.txt"} {
		sources = append(sources, bugreport.Source{Name: "daemon-" + name, Newest: name == "log.txt", Collect: func(ctx context.Context) ([]byte, error) {
			return diagnostics(ctx, name)
		}})
	}
	return append(append(sources,
		bugreport.Directory("state-files.txt", a.state),
		bugreport.File("daemon.log", state.LogFile(a.state), true),
		bugreport.File("agent.toml", defaultConfig, false),
		bugreport.File("default.txt", "/etc/default/warren", false),
		bugreport.File("resolv.conf", dnsforward.ResolvConf, false),
	), hostSources()...)
}

func (a *app) about() string {
	return fmt.Sprintf("warren %s\n%s %s/%s, %d CPUs\ntime %s\nuser %d\nstate %s\nsocket %s\ntun %s\n", buildversion.Get(), runtime.Version(), runtime.GOOS, runtime.GOARCH,
		runtime.NumCPU(), a.now().UTC().Format(time.RFC3339), os.Geteuid(), a.state, a.socket, a.tun)
}

func messageSource(name string, patience time.Duration, get func(context.Context) (proto.Message, error)) bugreport.Source {
	return bugreport.Source{Name: name, Patience: patience, Collect: func(ctx context.Context) ([]byte, error) {
		m, err := get(ctx)
		if err != nil {
			return nil, err
		}
		return protojson.MarshalOptions{Multiline: true}.Marshal(m)
	}}
}

// fetchDiagnostics asks the daemon once, when the first file is asked for.
func (a *app) fetchDiagnostics() func(ctx context.Context, name string) ([]byte, error) {
	return bugreport.Once(func(ctx context.Context, add func(name string, content []byte)) error {
		stream, err := a.client().Diagnostics(ctx, connect.NewRequest(&pb.DiagnosticsRequest{}))
		if err != nil {
			return plain(a.socket, err)
		}
		defer stream.Close()
		for stream.Receive() {
			add(filepath.Base(stream.Msg().GetName()), stream.Msg().GetContent())
		}
		if err := stream.Err(); err != nil {
			return plain(a.socket, err)
		}
		return nil
	})
}
