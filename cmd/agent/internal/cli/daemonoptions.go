package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"slices"

	"github.com/spf13/pflag"

	"warren/cmd/agent/internal/config"
	"warren/cmd/agent/internal/daemon"
	"warren/cmd/internal/cmdline"
	"warren/internal/connectproxy"
	"warren/internal/runlog"
	"warren/proto/record"
	"warren/proto/token"
)

const (
	// tokenName is that of the token's file beside the configuration, and tokenCredential that of systemd's credential.
	tokenName       = "token"
	tokenCredential = "warren.token"
)

// daemonOptions are what a daemon can be told by flags, environment and file.
type daemonOptions struct {
	cfg             daemon.Config
	file            string
	levelName       string
	level           slog.Level
	mapping         string
	hardNATRate     int
	flows           flowOptions
	userspace       userspaceOptions
	settings        settingValues
	token, fromFile string
}

func (o *daemonOptions) register(f *pflag.FlagSet) {
	f.StringVar(&o.file, "config", "", "read settings from this TOML `file` (default: "+defaultConfig+", if it is there and --state is not given)")
	f.StringVar(&o.fromFile, "token-file", "", "join the network of the token in this `file`, and remove it then (default: the file token beside the configuration)")
	f.StringVar(&o.token, "token", "", "join the network of this token")
	config.Hide(f, "token") // a command line is for all to see
	f.StringVar(&o.levelName, "log-level", "info", cmdline.LogLevelUsage)
	f.Uint16Var(&o.cfg.Port, "port", 0, "UDP `port`; 0 keeps the one of the last run")
	f.StringVar(&o.cfg.Metrics, "metrics", "", "serve Prometheus metrics on this `address`")
	f.StringVar(&o.cfg.Proxy, "proxy", "", "reach coordinator and relays through this HTTP proxy `URL`, or off (default: HTTPS_PROXY of the environment)")
	f.StringArrayVar(&o.cfg.Endpoints, "endpoint", nil, "tell peers that this device can be reached at `HOST:PORT` too; may be repeated")
	f.StringVar(&o.mapping, "port-mapping", "pcp,nat-pmp,upnp", "have the gateway map the port by these `protocols`, or off")
	f.BoolVar(&o.cfg.DisableGSO, "disable-gso", false, "send UDP without segmentation offload")
	f.BoolVar(&o.cfg.DisableGRO, "disable-gro", false, "receive UDP without receive offload")
	f.IntVar(&o.hardNATRate, "hard-nat-rate", defaultHardNATRate, "`ports` of a peer's hard NAT to try in a second when traffic wants a direct path; 0 tries none")
	o.flows.register(f)
	o.userspace.register(f)
	f.StringVar(&o.cfg.WhoIsGroup, "whois-group", "", "let this `group` ask who is behind an address, and nothing else, on whois.sock beside the daemon's socket")
	o.settings.register(f)
}

// daemonSource is where options come from besides the command line.
func (a *app) daemonSource(file string, environ []string) config.Source {
	s := config.Source{
		File: file, Environ: environ,
		Except: []string{"help", "json", "state", "socket", "config"},
		Ranges: map[string]config.Range{
			"port": {Min: 0, Max: 65535}, "hard-nat-rate": {Min: 0, Max: maxHardNATRate}, "max-flows": {Min: minFlows, Max: maxFlows},
			"flow-file-size": {Min: minFlowFile, Max: maxFlowFile}, "priority": {Min: 1, Max: 255},
		},
		Wants: map[string]string{
			"advertise":   `a list of CIDRs, such as ["192.168.10.0/24"]`,
			"site":        `a list of CIDRs, such as ["10.1.0.0/16"]`,
			"probe":       `a list of addresses, such as ["192.168.10.1"]`,
			"prefer-lan":  `a list of CIDRs, such as ["192.168.1.0/24"]`,
			"endpoint":    `a list, such as ["gate.example:51820"]`,
			"flow-export": `a list, such as ["syslog", "/var/log/warren/flows.json"]`,
			"forward":     `a list, such as ["tcp/5432=db:5432"]`,
			"expose":      `a list, such as ["tcp/8080", "tcp/80=127.0.0.1:3000"]`,
			"exit-node":   `a device's name or "auto", in quotes, or "" for none`,
			"operator":    `a user, or "group:NAME", in quotes`,
			"token":       `a join token in quotes`,
			"token-file":  `a file's whole path in quotes`,
		},
	}
	if file == "" && a.state == defaultState {
		s.File, s.Optional = defaultConfig, true
	}
	return s
}

// loaded is what all sources say together.
type loaded struct {
	*daemonOptions
	flags  *pflag.FlagSet
	from   *config.Filled
	source config.Source
}

// load fills in what the command line has not set of o, whose flags are in f, and checks all of it.
func (a *app) load(o *daemonOptions, f *pflag.FlagSet, environ []string) (*loaded, error) {
	l := &loaded{daemonOptions: o, flags: f, source: a.daemonSource(o.file, environ)}
	var err error
	if l.from, err = config.Fill(f, l.source); err != nil {
		var unreadable *fs.PathError
		if errors.As(err, &unreadable) {
			return nil, err
		}
		return nil, cmdline.UsageError{Err: err}
	}
	var wrong flagError
	if err := l.complete(); errors.As(err, &wrong) {
		return nil, cmdline.UsageError{Err: fmt.Errorf("%s%w", l.from.Place(wrong.flag), wrong.err)}
	} else if err != nil {
		return nil, err
	}
	return l, nil
}

// complete checks what flags, file and environment have set, and puts it into the daemon's configuration.
func (l *loaded) complete() (err error) {
	if l.level, err = runlog.ParseLevel(l.levelName); err != nil {
		return flagf("log-level", ": %w", err)
	}
	if tun := l.flags.Lookup("tun"); tun != nil {
		if err := checkTUN(tun.Value.String()); err != nil {
			return err
		}
		if err := l.userspace.apply(tun.Value.String(), &l.cfg); err != nil {
			return err
		}
	}
	if err := natFlags(&l.cfg, l.mapping, l.hardNATRate); err != nil {
		return err
	}
	if err := l.reach(); err != nil {
		return err
	}
	if err := l.flows.apply(&l.cfg); err != nil {
		return err
	}
	given, err := l.settings.given(l.flags)
	if err != nil {
		return err
	}
	if given.GetName() != "" {
		if err := record.CheckLabel(given.GetName()); err != nil {
			return flagf("name", ": %w", err)
		}
	}
	l.cfg.Managed = daemon.Managed{Settings: given, Origin: l.from.Origin}
	l.cfg.Join, err = l.join()
	return err
}

// reach checks whom the daemon goes through, and who may ask it.
func (l *loaded) reach() error {
	if err := connectproxy.Check(l.cfg.Proxy); err != nil {
		return flagf("proxy", ": %w", err)
	}
	if l.cfg.Metrics != "" {
		if err := cmdline.CheckListen(l.cfg.Metrics); err != nil {
			return flagf("metrics", ": %w", err)
		}
	}
	if g := l.cfg.WhoIsGroup; g != "" {
		if _, err := user.LookupGroup(g); err != nil {
			return flagf("whois-group", ": no such group on this machine: %.60q", g)
		}
	}
	return nil
}

// join says where a token is looked for.
func (l *loaded) join() (daemon.Join, error) {
	first := l.from.First("token", "token-file")
	switch {
	case first == "" && l.token != "" && l.fromFile != "":
		return daemon.Join{}, flagf("token", " and token-file: give one of them")
	case first == "token" && l.token != "":
		if _, err := token.Parse(l.token); err != nil {
			return daemon.Join{}, flagf("token", ": %w", err)
		}
		return daemon.Join{Text: l.token, Origin: l.from.Origin("token")}, nil
	case first == "token-file" && l.fromFile != "":
		if !filepath.IsAbs(l.fromFile) {
			return daemon.Join{}, flagf("token-file", ": %.200q: want the whole path", l.fromFile)
		}
		return daemon.Join{Files: []daemon.TokenFile{{Path: l.fromFile, Remove: true}}}, nil
	}
	var j daemon.Join
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		j.Files = append(j.Files, daemon.TokenFile{Path: filepath.Join(dir, tokenCredential)}) // systemd takes it away itself
	}
	if l.source.File != "" {
		path, err := filepath.Abs(l.source.File)
		if err != nil {
			return j, err
		}
		j.Files = append(j.Files, daemon.TokenFile{Path: filepath.Join(filepath.Dir(path), tokenName), Remove: true})
	}
	return j, nil
}

// liveOptions are those besides a device's settings that a running daemon takes over.
var liveOptions = []string{"log-level", "token", "token-file"}

// options tells what is set, and where, of all but a device's settings and secrets.
func (l *loaded) options() []daemon.Option {
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(settingValues).register(own)
	var out []daemon.Option
	for _, f := range l.source.Settings(l.flags) {
		if own.Lookup(f.Name) == nil && f.Name != "token" {
			out = append(out, daemon.Option{Name: f.Name, Value: f.Value.String(), Origin: l.from.Origin(f.Name)})
		}
	}
	return out
}

// needRestart are the options that differ from those the daemon runs with and that it does not take over while it runs.
func (l *loaded) needRestart(running *loaded) []string {
	var out []string
	for i, o := range l.options() {
		if !slices.Contains(liveOptions, o.Name) && o.Value != running.options()[i].Value {
			out = append(out, o.Name)
		}
	}
	return out
}

// counting are the options that count from now on: the live ones, and the others as they were.
func (l *loaded) counting(running *loaded) []daemon.Option {
	out := running.options()
	for i, o := range l.options() {
		if slices.Contains(liveOptions, o.Name) || o.Value == out[i].Value {
			out[i] = o
		}
	}
	return out
}
