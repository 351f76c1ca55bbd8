//go:build booted

package booted

import (
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/sim/natmodel"
)

// user is an ordinary one of a machine.
func (m *machine) user(name string) (sh func(line string) (string, error)) {
	m.w.t.Helper()
	m.must("useradd", "--create-home", "--shell", "/bin/sh", name)
	uid := strings.TrimSpace(m.must("id", "-u", name))
	m.must("loginctl", "enable-linger", name) // as if the user were logged in
	m.until("running the user's manager", func() (bool, string) {
		out, err := m.Output(m.w.ctx, "systemctl", "is-active", "user@"+uid+".service")
		return err == nil, out
	})
	return func(line string) (string, error) {
		return m.Output(m.w.ctx, "setpriv", "--reuid="+name, "--regid="+name, "--init-groups", "--inh-caps=-all", "--no-new-privs", "env", "HOME=/home/"+name, "USER="+name,
			"XDG_RUNTIME_DIR=/run/user/"+uid, "sh", "-c", "cd; "+line)
	}
}

// wiki is a device with a web page.
func (w *world) wiki() {
	w.t.Helper()
	d, err := w.Device(w.ctx, "wiki", lab.Easy)
	must(w.t, err)
	token, err := w.Token(w.ctx)
	must(w.t, err)
	must(w.t, d.Up(w.ctx, token))
	s, err := d.Await(w.ctx, "up", connected)
	must(w.t, err)
	l, err := d.Listen(net.JoinHostPort(s.Self.Addresses[0], "80"))
	must(w.t, err)
	serve := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the wiki\n") })}
	go func() { _ = serve.Serve(l) }()
	w.t.Cleanup(func() { serve.Close() })
}

// database is a machine called db with PostgreSQL, which serves the network's users without a password.
func (w *world) database(debian Root) {
	w.t.Helper()
	m := w.with(debian, "db", natmodel.Easy())
	must(w.t, m.Boot(w.ctx))
	m.install(*now, "warren")
	m.up()
	m.must("sh", "-ec", `cd /etc/postgresql/*/main
echo "host all all 100.64.0.0/10 trust" >>pg_hba.conf
echo "listen_addresses = '*'" >>postgresql.conf
pg_ctlcluster "$(basename "$(dirname "$PWD")")" main start
runuser -u postgres -- createuser ann
runuser -u postgres -- createdb --owner ann ann`)
	m.address()
}

// TestUserspacePage types the commands of docs/userspace.md as an ordinary user without any privilege: curl reads a page of the network through both proxies, psql
// asks a database of the network by a forwarded port, and a peer calls a service by an exposed one. The user's unit of the page then runs the same.
func TestUserspacePage(t *testing.T) {
	debian := root(t, Tooled())
	w := newWorld(t)
	w.wiki()
	w.database(debian)
	m := w.with(debian, "laptop", natmodel.Easy())
	must(t, m.Boot(w.ctx))
	m.must("systemctl", "mask", "--now", "warren.service")
	m.install(*now, "warren")
	sh := m.user("ann")
	do := func(line string) (out string) {
		t.Helper()
		m.until("able to "+line, func() (bool, string) {
			said, err := sh(line)
			out = said
			return err == nil, said
		})
		return out
	}
	token, err := w.Token(w.ctx)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			out, err := m.Command(context.Background(), "tail", "-n", "60", "/home/ann/daemon.log").CombinedOutput()
			t.Logf("the daemon, %v: %s", err, out)
		}
	})

	daemon := typed(t, "userspace.md", "warren daemon --tun=userspace --socks5")
	do("setsid " + replace(t, daemon, " &", " >daemon.log 2>&1 </dev/null & echo $! >daemon.pid"))
	up := replace(t, typed(t, "userspace.md", "warren up wrn1"), "wrn1…", token)
	do(up)
	curl := typed(t, "userspace.md", "curl --proxy socks5h")
	read := func(line string) {
		t.Helper()
		if page := do(line + " --silent --show-error --fail"); page != "the wiki\n" {
			t.Errorf("%s says %q", line, page)
		}
	}
	read(curl)
	read(replace(t, curl, "socks5h://", "http://"))
	psql := "echo 'SELECT 6 * 7' | " + typed(t, "userspace.md", "psql ") + " --tuples-only --no-align"
	if answer := do(psql); answer != "42\n" {
		t.Errorf("psql says %q", answer)
	}
	m.must("sh", "-c", "mkdir /srv/www; echo 'the laptop' >/srv/www/index.html; busybox httpd -p 127.0.0.1:8080 -h /srv/www")
	p, err := w.Device(w.ctx, "peer", lab.None)
	must(t, err)
	token, err = w.Token(w.ctx)
	must(t, err)
	must(t, p.Up(w.ctx, token))
	said := do("warren status --json")
	address := regexp.MustCompile(`"(100\.\d+\.\d+\.\d+)"`).FindStringSubmatch(said)
	if address == nil {
		t.Fatalf("warren status says %s", said)
	}
	m.until("exposed", func() (bool, string) {
		out, err := p.Command(w.ctx, "curl", "--silent", "--show-error", "--max-time", "5", "http://"+address[1]+":8080/").CombinedOutput()
		return err == nil && string(out) == "the laptop\n", string(out)
	})
	if pid := strings.TrimSpace(do("cat daemon.pid")); m.must("sh", "-c", "grep -c -E 'Cap(Prm|Eff):.*[1-9a-f]' /proc/"+pid+"/status || true") != "0\n" {
		t.Error("the daemon has capabilities")
	}
	do("kill $(cat daemon.pid); while kill -0 $(cat daemon.pid) 2>/dev/null; do sleep 0.05; done")

	unit := regexp.MustCompile(`(?s)\.config/systemd/user/warren\.service.:\n\n(.*?)\n\n[^ \n]`).FindStringSubmatch(docs(t, "userspace.md"))
	if unit == nil {
		t.Fatal("docs/userspace.md has no unit for a user")
	}
	for _, command := range []string{"systemctl --user enable --now warren", "loginctl enable-linger"} {
		if !strings.Contains(docs(t, "userspace.md"), "`"+command+"`") {
			t.Errorf("docs/userspace.md does not say %s", command)
		}
	}
	must(t, m.Write("/home/ann/.config/systemd/user/warren.service", regexp.MustCompile(`(?m)^    `).ReplaceAllString(unit[1], "")+"\n"))
	m.must("chown", "-R", "ann:", "/home/ann/.config")
	do("systemctl --user enable --now warren")
	read(curl)
	must(t, m.Reboot(w.ctx))
	read(curl)
	if s := do("warren status --json"); !strings.Contains(s, address[1]) {
		t.Errorf("after all this the device is another: %s", s)
	}
}
