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

	"warren/cmd/internal/cmdline"
	"warren/coord/inspect"
	"warren/coord/statedir"
	"warren/internal/bugreport"
	"warren/internal/buildversion"
	pb "warren/proto/warrenv1"
)

// checkPatience is how long the look at the database may take.
const checkPatience = 30 * time.Second

func (a *app) bugReport() *cobra.Command {
	const long = `Writes one file, which only you may read: version, status, devices and relays, what "warren-coordinator check" finds, settings, metrics, the newest lines of
the log, what the coordinator's goroutines do, links, listening ports, and facts about kernel and system. Neither the policy nor the database is in it. It works
without a running coordinator. Private keys, join tokens, passwords and credentials are left out. --redact also replaces public addresses, keys and names of
devices, users and hosts, each by the same word everywhere. Look at it before you pass it on: a name that this program does not know stays.`
	return cmdline.BugReport("warren-coordinator", long, a.out, &a.json, time.Now, func(ctx context.Context, file string, redact bool, now time.Time) error {
		return bugreport.Create(ctx, file, a.redactor(ctx, redact), now, a.reportSources())
	})
}

// redactor knows the keys of the directory, if this user may read them, and the names that the coordinator knows.
func (a *app) redactor(ctx context.Context, pseudonyms bool) *bugreport.Redactor {
	r := bugreport.NewRedactor(pseudonyms)
	if keys, err := statedir.Read(a.state); err == nil {
		for _, k := range [][]byte{keys.Authority.Bytes(), keys.Signing.Bytes(), keys.Relay.Bytes()} {
			r.Secret(k)
		}
	}
	if host, err := os.Hostname(); err == nil {
		r.Name("host", host)
	}
	if !pseudonyms {
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if st, err := a.client().ServerStatus(ctx, connect.NewRequest(&pb.ServerStatusRequest{})); err == nil {
		for _, e := range st.Msg.GetEndpoints() {
			if u, err := url.Parse(e.GetUrl()); err == nil {
				r.Name("host", u.Hostname())
			}
		}
	}
	if list, err := a.client().ListDevices(ctx, connect.NewRequest(&pb.ListDevicesRequest{})); err == nil {
		for _, d := range list.Msg.GetDevices() {
			r.Name("device", d.GetName())
			r.Name("host", d.GetHostname())
			r.Name("user", d.GetOwner())
		}
	}
	return r
}

// view is a source that the coordinator answers, as JSON.
func view(name string, get func(context.Context) (any, error)) bugreport.Source {
	return bugreport.Source{Name: name, Collect: func(ctx context.Context) ([]byte, error) {
		v, err := get(ctx)
		if err != nil {
			return nil, err
		}
		return json.MarshalIndent(v, "", "  ")
	}}
}

func (a *app) reportSources() []bugreport.Source {
	check := view("check.json", func(ctx context.Context) (any, error) {
		r, err := inspect.Directory(ctx, inspect.Options{Dir: a.state, Now: time.Now()})
		if err != nil {
			return nil, err
		}
		return r.Findings, nil
	})
	check.Patience = checkPatience
	sources := []bugreport.Source{
		bugreport.Text("about.txt", fmt.Sprintf("warren-coordinator %s\n%s %s/%s, %d CPUs\ntime %s\nuser %d\nstate %s\n", buildversion.Get(), runtime.Version(),
			runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), time.Now().UTC().Format(time.RFC3339), os.Geteuid(), a.state)),
		view("status.json", func(ctx context.Context) (any, error) {
			r, err := a.client().ServerStatus(ctx, connect.NewRequest(&pb.ServerStatusRequest{}))
			if err != nil {
				return nil, a.plain(err)
			}
			return statusView(r.Msg)
		}),
		view("devices.json", func(ctx context.Context) (any, error) {
			r, err := a.client().ListDevices(ctx, connect.NewRequest(&pb.ListDevicesRequest{}))
			if err != nil {
				return nil, a.plain(err)
			}
			views := []deviceJSON{}
			for _, d := range r.Msg.GetDevices() {
				views = append(views, deviceView(d))
			}
			return views, nil
		}),
		view("relays.json", func(ctx context.Context) (any, error) {
			r, err := a.client().ListRelays(ctx, connect.NewRequest(&pb.ListRelaysRequest{}))
			if err != nil {
				return nil, a.plain(err)
			}
			return r.Msg.GetRelays(), nil
		}),
		check,
	}
	diagnostics := a.fetchDiagnostics()
	for _, name := range []string{"settings.json", "log.txt", "metrics.txt", "goroutines.txt"} {
		sources = append(sources, bugreport.Source{Name: "server-" + name, Newest: name == "log.txt", Collect: func(ctx context.Context) ([]byte, error) {
			return diagnostics(ctx, name)
		}})
	}
	journal := bugreport.Command("journal.txt", "journalctl", "--unit=warren-coordinator", "--lines=5000", "--no-pager", "--output=short-iso")
	journal.Newest = true
	return append(append(sources, journal,
		bugreport.Directory("state-files.txt", a.state),
		bugreport.File("coordinator.toml", defaultConfig, false),
		bugreport.Commands("network.txt", "ip address", "ip route", "ip -6 route", "ss -ntul"),
	), bugreport.LinuxHost("warren-coordinator.service")...)
}

// fetchDiagnostics asks the coordinator once, when the first file is asked for.
func (a *app) fetchDiagnostics() func(ctx context.Context, name string) ([]byte, error) {
	return bugreport.Once(func(ctx context.Context, add func(name string, content []byte)) error {
		stream, err := a.client().ServerDiagnostics(ctx, connect.NewRequest(&pb.ServerDiagnosticsRequest{}))
		if err != nil {
			return a.plain(err)
		}
		defer stream.Close()
		for stream.Receive() {
			add(filepath.Base(stream.Msg().GetName()), stream.Msg().GetContent())
		}
		if err := stream.Err(); err != nil {
			return a.plain(err)
		}
		return nil
	})
}
