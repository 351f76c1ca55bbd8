package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"warren/cmd/agent/internal/config"
	"warren/cmd/agent/internal/daemon"
	"warren/cmd/agent/internal/forward"
	"warren/cmd/agent/internal/proxy"
	"warren/cmd/internal/cmdline"
	"warren/tunnel/router"
)

// maxCredentials bounds the file with user name and password, in bytes.
const maxCredentials = 1024

// userspaceOptions are the daemon's flags for a tunnel without an interface.
type userspaceOptions struct {
	socks5, httpProxy, authFile string
	forward, expose             []string
	remoteClients               bool
}

func (o *userspaceOptions) register(f *pflag.FlagSet) {
	f.StringVar(&o.socks5, "socks5", "", "with --tun=userspace, serve a SOCKS5 proxy into the network at this `address`: a port, or ADDRESS:PORT")
	f.StringVar(&o.httpProxy, "http-proxy", "", "with --tun=userspace, serve an HTTP proxy into the network at this `address`; it may be that of --socks5")
	f.StringVar(&o.authFile, "proxy-auth-file", "", "have clients of the proxies show the user name and password in this `file`, written USER:PASSWORD")
	f.StringArrayVar(&o.forward, "forward", nil, "with --tun=userspace, have a port of this host lead to a peer: `tcp/[ADDRESS:]PORT=PEER:PORT`, or udp; may be repeated")
	f.StringArrayVar(&o.expose, "expose", nil, "with --tun=userspace, let peers reach a service of this host: `tcp/PORT[=ADDRESS:PORT]`, or udp; may be repeated")
	f.BoolVar(&o.remoteClients, "allow-remote-clients", false, "let --socks5, --http-proxy and --forward listen at addresses that other hosts reach")
}

// apply checks the flags before anything is started. tun is the value of --tun.
func (o *userspaceOptions) apply(tun string, cfg *daemon.Config) error {
	if tun != daemon.UserspaceName {
		return o.unused()
	}
	u := &daemon.Userspace{SOCKS5: atLoopback(o.socks5), HTTPProxy: atLoopback(o.httpProxy), RemoteClients: o.remoteClients}
	for _, text := range o.forward {
		r, err := forward.ParseRule(text)
		if err != nil {
			return flagf("forward", ": %w", err)
		}
		u.Forward = append(u.Forward, r)
	}
	for _, text := range o.expose {
		e, err := forward.ParseExposed(text)
		if err != nil {
			return flagf("expose", ": %w", err)
		}
		u.Expose = append(u.Expose, e)
	}
	if setting, err := u.Check(); err != nil {
		return flagf(setting, ": %w", err)
	}
	if o.authFile != "" {
		if o.socks5 == "" && o.httpProxy == "" {
			return flagf("proxy-auth-file", ": there is no proxy; turn one on with --socks5 or --http-proxy")
		}
		var err error
		if u.Credentials, err = readCredentials(o.authFile); err != nil {
			return flagf("proxy-auth-file", ": %w", err)
		}
	}
	cfg.Userspace = u
	return nil
}

// unused refuses flags that would do nothing.
func (o *userspaceOptions) unused() error {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"socks5", o.socks5 != ""}, {"http-proxy", o.httpProxy != ""}, {"proxy-auth-file", o.authFile != ""}, {"forward", len(o.forward) > 0},
		{"expose", len(o.expose) > 0}, {"allow-remote-clients", o.remoteClients},
	} {
		if f.set {
			return flagf(f.name, " is for a tunnel without an interface; with one, this host's programs reach the network, and peers reach them, by themselves. "+
				"Add --tun=userspace, or leave it out")
		}
	}
	return nil
}

// atLoopback completes a bare port.
func atLoopback(address string) string {
	if n, err := strconv.ParseUint(address, 10, 16); err == nil {
		return fmt.Sprintf("127.0.0.1:%d", n)
	}
	return address
}

// readCredentials reads USER:PASSWORD from a file that nobody else may read.
func readCredentials(path string) (c proxy.Credentials, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return c, err
	}
	if info.Mode().Perm()&0o004 != 0 {
		return c, fmt.Errorf("%s: everybody on this host may read it; chmod 600 it", path)
	}
	if info.Size() > maxCredentials {
		return c, fmt.Errorf("%s: %d bytes, more than %d", path, info.Size(), maxCredentials)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	user, password, ok := strings.Cut(strings.TrimRight(string(b), "\r\n"), ":")
	if !ok || user == "" || password == "" || len(user) > 255 || len(password) > 255 || strings.ContainsAny(user+password, "\r\n") {
		return c, fmt.Errorf("%s: want one line USER:PASSWORD, of at most 255 bytes each", path)
	}
	return proxy.Credentials{User: user, Password: password}, nil
}

// checkTUN checks --tun.
func checkTUN(name string) error {
	if name == daemon.UserspaceName {
		return nil
	}
	if err := router.CheckName(name); err != nil {
		return flagf("tun", ": %w", err)
	}
	return nil
}

// settle chooses state directory and socket where none were named: an ordinary user's daemon has its own (XDG Base Directory Specification), which the
// commands of that user find.
func (a *app) settle(cmd *cobra.Command) error {
	if os.Geteuid() <= 0 { // root; Windows has none
		return nil
	}
	changed := func(name string) bool { return cmd.Flags().Changed(name) }
	state, socket := ownPlaces(os.Getenv)
	own := a.tun == daemon.UserspaceName || !changed("tun") && os.Getenv(config.Variable("tun")) == daemon.UserspaceName
	switch {
	case own && state == "" && !(changed("state") && changed("socket")):
		return cmdline.Usagef("neither XDG_STATE_HOME nor HOME says where this user's state is; name --state and --socket")
	case own && !changed("state"):
		a.state = state
	}
	if changed("socket") {
		return nil
	}
	if info, err := os.Lstat(socket); own || err == nil && info.Mode()&os.ModeSocket != 0 {
		a.socket = socket
		if !changed("state") {
			a.state = state
		}
	}
	return nil
}

// ownPlaces are an ordinary user's state directory and socket; empty where the environment does not tell.
func ownPlaces(getenv func(string) string) (state, socket string) {
	base := getenv("XDG_STATE_HOME")
	if home := getenv("HOME"); !filepath.IsAbs(base) && filepath.IsAbs(home) {
		base = filepath.Join(home, ".local", "state")
	}
	if !filepath.IsAbs(base) {
		return "", ""
	}
	state = filepath.Join(base, "warren")
	if runtime := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(runtime) {
		return state, filepath.Join(runtime, "warren", "warren.sock")
	}
	return state, filepath.Join(state, "warren.sock")
}
