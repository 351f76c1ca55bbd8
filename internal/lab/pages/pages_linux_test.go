package pages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// bin is where TestMain has put the programs.
var bin string

func TestMain(m *testing.M) { warrennet.Main(m, &bin) }

const (
	// patience is how long a command of a page may be typed again until it does what the page says: what one device is told others hear of a moment later.
	patience = 20 * time.Second
	// attempt bounds one command.
	attempt = 10 * time.Second
	// again is how soon it is typed again.
	again = 200 * time.Millisecond
)

// reader is somebody who does what a page says.
type reader struct {
	t     *testing.T
	lab   *lab.Lab
	tools string // directory with what stands for the programs of a booted host
	hosts map[string]*lab.Host
	// words of the page that stand for something: TOKEN for the last one printed.
	words map[string]string
}

func newReader(t *testing.T) *reader {
	t.Helper()
	l, err := lab.New()
	must(t, err)
	t.Cleanup(l.Close)
	r := &reader{t: t, lab: l, tools: t.TempDir(), hosts: map[string]*lab.Host{}, words: map[string]string{}}
	units, err := filepath.Abs("../../../packaging/systemd")
	must(t, err)
	for name, script := range map[string]string{"sudo": "exec \"$@\"\n", "systemctl": "UNITS=" + units + "\n" + systemctl} {
		must(t, os.WriteFile(filepath.Join(r.tools, name), []byte("#!/bin/sh\n"+script), 0o755))
	}
	return r
}

// systemctl starts, stops, restarts and reloads services in a lab without systemd, by the commands of their units.
const systemctl = `set -e
verb=$1; unit=${2#--now}; unit=${unit:-$3}; unit=${unit%.service}; pid=/run/$unit.pid
case $verb in
start|restart|enable|stop)
	if [ -s $pid ]; then kill $(cat $pid); while kill -0 $(cat $pid) 2>/dev/null; do sleep 0.05; done; rm $pid; fi
	if [ $verb = stop ]; then exit; fi
	command=$(sed -n 's,^ExecStart=/usr/bin/,,p' $UNITS/$unit.service)
	eval "exec setsid $command" >>/run/$unit.log 2>&1 </dev/null & echo $! >$pid
	until [ -S /run/warren/warren.sock ] || [ -S /var/lib/warren-coordinator/admin.sock ] || ! kill -0 $(cat $pid); do sleep 0.02; done;;
stop)
	kill $(cat $pid); while kill -0 $(cat $pid) 2>/dev/null; do sleep 0.05; done; rm $pid;;
reload)
	kill -HUP $(cat $pid);;
*)
	echo "systemctl $verb is not known here" >&2; exit 1;;
esac
`

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host adds a host as it is once the package of a service is installed there, or without one if service is empty.
func (r *reader) host(h *lab.Host, err error) func(service string) *lab.Host {
	r.t.Helper()
	must(r.t, err)
	return func(service string) *lab.Host {
		r.t.Helper()
		r.hosts[h.Name] = h
		config, err := filepath.Abs("../../../packaging/config")
		must(r.t, err)
		out, err := r.sh(h, attempt, strings.ReplaceAll(install, "CONFIG", config))
		if err == nil && service != "" {
			out, err = r.sh(h, attempt, "systemctl start "+service)
		}
		if err != nil {
			r.t.Fatalf("%s: %v: %s", h.Name, err, out)
		}
		if service != "" {
			r.t.Cleanup(func() { r.told(h, service) })
		}
		return h
	}
}

// install gives the host an /etc and a /var/lib of its own, with what the packages put there.
const install = `set -e
mkdir -p /run/etc/warren /run/etc/warren-coordinator
for f in passwd group nsswitch.conf hosts protocols services alternatives ld.so.cache; do if [ -e /etc/$f ]; then cp -a /etc/$f /run/etc/; fi; done
cp /run/resolv.conf /run/etc/resolv.conf
echo "` + webAddress + ` ip.example" >>/run/etc/hosts
cp CONFIG/agent.toml /run/etc/warren/
cp CONFIG/coordinator.toml /run/etc/warren-coordinator/
mount --bind /run/etc /etc
mount -t tmpfs tmpfs /var/lib
`

// told logs what a service said, if the test failed.
func (r *reader) told(h *lab.Host, service string) {
	if r.t.Failed() {
		out, _ := r.sh(h, attempt, "tail -n 60 /run/"+service+".log")
		r.t.Logf("%s on %s:\n%s", service, h.Name, out)
	}
}

// sh runs a line of a shell on a host and gives its standard output.
func (r *reader) sh(h *lab.Host, within time.Duration, line string) (string, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), within)
	if r.t.Context().Err() != nil { // at the end
		ctx, cancel = context.WithTimeout(context.Background(), within)
	}
	defer cancel()
	dir := filepath.Join(r.tools, h.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	cmd := h.Command(ctx, "sh", "-c", line)
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	cmd.Env = append(cmd.Env, "PATH="+r.tools+":"+bin+":"+os.Getenv("PATH"))
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		err = &failure{err, complaints.String()}
	}
	return string(out), err
}

// failure is the end of a command that did not succeed, and what it complained of.
type failure struct {
	err  error
	says string
}

func (f *failure) Error() string { return f.err.Error() + ": " + strings.TrimSpace(f.says) }

// read does what a page says, step by step.
func (r *reader) read(page string) {
	r.t.Helper()
	b, err := os.ReadFile("../../../docs/" + page)
	must(r.t, err)
	steps, err := Parse(string(b))
	must(r.t, err)
	if len(steps) < 5 {
		r.t.Fatalf("%s has %d steps", page, len(steps))
	}
	for _, s := range steps {
		at := fmt.Sprintf("%s:%d", page, s.Line)
		h := r.hosts[s.Host]
		if h == nil {
			r.t.Fatalf("%s: there is no host %s", at, s.Host)
		}
		if s.File != "" {
			r.write(h, s)
			continue
		}
		began := time.Now()
		out, err := r.follow(h, s)
		if err != nil {
			r.t.Fatalf("%s: %s$ %s\n%v, and the page shows:\n%s\nThis was printed:\n%s", at, s.Host, s.Command, err, strings.Join(s.Output, "\n"), out)
		}
		r.t.Logf("%s: %s$ %s (%d ms)", at, s.Host, s.Command, time.Since(began).Milliseconds())
	}
}

func (r *reader) write(h *lab.Host, s Step) {
	r.t.Helper()
	if out, err := r.sh(h, attempt, "cat >"+s.File+" <<'EOF'\n"+s.Content+"EOF\n"); err != nil {
		r.t.Fatalf("line %d: %s on %s: %v: %s", s.Line, s.File, s.Host, err, out)
	}
}

var printedToken = regexp.MustCompile(`(?m)^wrn1\S+$`)

// follow types a command, again while it does not do what the page says.
func (r *reader) follow(h *lab.Host, s Step) (string, error) {
	for word, text := range r.words {
		s.Command = regexp.MustCompile(`\b`+word+`\b`).ReplaceAllString(s.Command, text)
		for i := range s.Output {
			s.Output[i] = regexp.MustCompile(`\b`+word+`\b`).ReplaceAllString(s.Output[i], text)
		}
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		out, err := r.sh(h, attempt, s.Command)
		if s.Fails() {
			var failed *failure
			if !errors.As(err, &failed) {
				err = errors.New("it succeeds")
			} else if out, err = failed.says, nil; !s.Shows(out) {
				err = errors.New("it fails otherwise")
			}
		} else if err == nil && !s.Shows(out) {
			err = errors.New("its output is not that of the page")
		}
		if err == nil {
			if token := printedToken.FindString(out); token != "" {
				r.words["TOKEN"] = token
			}
			return out, nil
		}
		select {
		case <-late.C:
			return out, err
		case <-tick.C:
		}
	}
}

// serve answers each HTTP request to a host with a text; of its %s is the caller's address.
func (r *reader) serve(h *lab.Host, address, text string) {
	r.t.Helper()
	l, err := h.Listen(net.JoinHostPort(address, "80"))
	must(r.t, err)
	s := &http.Server{ReadHeaderTimeout: attempt, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		from, err := netip.ParseAddrPort(q.RemoteAddr)
		if err == nil {
			_, _ = io.WriteString(w, strings.ReplaceAll(text, "%s", from.Addr().Unmap().String())+"\n")
		}
	})}
	go func() { _ = s.Serve(l) }()
	r.t.Cleanup(func() { s.Close() })
}

// site is a place with a kind of access.
func (r *reader) site(name string, nat lab.NAT) *lab.Site {
	r.t.Helper()
	s, err := r.lab.Site(name, nat.Access())
	must(r.t, err)
	return s
}

// lan is a company's network.
func (r *reader) lan(name, prefix string) *lab.LAN {
	r.t.Helper()
	n, err := r.lab.LAN(name, netip.MustParsePrefix(prefix), netip.Prefix{})
	must(r.t, err)
	return n
}

// webAddress is that of a server on the internet: public for a policy, too.
const webAddress = "128.66.255.1"

// TestQuickStart does all that docs/quickstart.md says.
func TestQuickStart(t *testing.T) {
	t.Parallel()
	r := newReader(t)
	r.host(r.site("coordinator", lab.None).Host("coord"))("warren-coordinator")
	r.host(r.site("anywhere", lab.EasyCGNAT).Host("laptop"))("warren")

	office, officeLAN := r.host(r.site("office", lab.Easy).Host("office"))("warren"), r.lan("office's LAN", "192.168.10.0/24")
	must(t, officeLAN.Plug(office, "eth1", 2))
	printer := r.host(officeLAN.Host("printer", 20, 1))("")
	r.serve(printer, "192.168.10.20", "the printer's page")

	for i, names := range [][2]string{{"dc1", "web"}, {"dc2", "db"}} {
		gateway, lan := r.host(r.site(names[0], lab.Easy).Host(names[0]))("warren"), r.lan(names[0]+"'s LAN", fmt.Sprintf("10.%d.0.0/16", i+1))
		must(t, lan.Plug(gateway, "eth1", 1))
		inside := r.host(lan.Host(names[1], 10, 1))("")
		r.serve(inside, inside.Addr.String(), "you are %s")
	}

	server := r.host(r.site("server", lab.Easy).Host("server"))("warren")
	r.serve(server, "0.0.0.0", "the server's page")

	exit := r.host(r.site("exit", lab.Easy).Host("exit"))("warren")
	r.words["EXIT"] = exit.Public.String()
	internet, err := r.site("ip.example", lab.None).Host("ip")
	must(t, err)
	must(t, internet.Announce(netip.MustParseAddr(webAddress)))
	r.serve(internet, webAddress, "you are %s")

	r.read("quickstart.md")
}

// TestUnattended does all that docs/unattended.md says, and has the container of its example join.
func TestUnattended(t *testing.T) {
	t.Parallel()
	r := newReader(t)
	r.host(r.site("coordinator", lab.None).Host("coord"))("warren-coordinator")
	r.host(r.site("server", lab.Easy).Host("server"))("warren")
	box := r.host(r.site("box", lab.Easy).Host("box"))("")
	r.read("unattended.md")

	file, err := os.ReadFile(filepath.Join(r.tools, "box", "compose.yaml"))
	must(t, err)
	env := regexp.MustCompile(`(?m)^      (WARREN_[A-Z_]+): "?([^"\n]*)"?$`).FindAllStringSubmatch(string(file), -1)
	if len(env) != 3 {
		t.Fatalf("the container's environment: %q", env)
	}
	line := "exec setsid env"
	for _, v := range env {
		line += " " + v[1] + "=" + v[2]
	}
	// As a container engine hands a secret over: in a file that nobody can write or remove.
	out, err := r.sh(box, attempt, "mkdir -p /run/secrets && mount -t tmpfs tmpfs /run/secrets && echo "+r.words["TOKEN"]+
		" >/run/secrets/warren && mount -o remount,ro /run/secrets && rm -r /run/etc/warren && ("+line+" warren daemon >/run/warren.log 2>&1 </dev/null &)")
	if err != nil {
		t.Fatalf("container: %v: %s", err, out)
	}
	t.Cleanup(func() { r.told(box, "warren") })
	for _, s := range []Step{
		{Command: "warren status", Output: []string{"box  …  up", "…"}},
		{Command: "grep 'its file cannot be removed' /run/warren.log"},
		{Command: "warren config", Output: []string{"SETTING …", "accept-routes  false  WARREN_ACCEPT_ROUTES", "name  box  WARREN_NAME", "token-file  /run/secrets/warren  WARREN_TOKEN_FILE"}},
	} {
		if out, err := r.follow(box, s); err != nil {
			t.Fatalf("container: %s: %v:\n%s", s.Command, err, out)
		}
	}
}

// TestBackup does all that docs/backup.md says. The device that has joined is there afterwards.
func TestBackup(t *testing.T) {
	t.Parallel()
	r := newReader(t)
	coord := r.host(r.site("coordinator", lab.None).Host("coord"))("warren-coordinator")
	laptop := r.host(r.site("anywhere", lab.Easy).Host("laptop"))("warren")
	token, err := r.sh(coord, attempt, "warren-coordinator token create --user ann")
	must(t, err)
	_, err = r.sh(laptop, patience, "warren up "+strings.TrimSpace(token))
	must(t, err)
	r.read("backup.md")
	_, err = r.follow(laptop, Step{Command: "warren status", Output: []string{"…", "coordinator … connected, revision …", "…"}})
	must(t, err)
}
