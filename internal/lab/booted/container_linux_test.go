//go:build booted

package booted

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/internal/sim/natmodel"
)

// podman runs the engine.
func (m *machine) podman(args ...string) string {
	m.w.t.Helper()
	return m.must("podman", args...)
}

// load has the engine take a program's image, and gives its name.
func (m *machine) load(program string) string {
	m.w.t.Helper()
	said := m.podman("load", "--quiet", "--input", m.bring(*now, program+"_*_oci.tar"))
	name := regexp.MustCompile(`Loaded image: (\S+)`).FindStringSubmatch(said)
	if name == nil || !strings.HasPrefix(name[1], "localhost/"+program+":") {
		m.w.t.Fatalf("podman load says %s", said)
	}
	return name[1]
}

// image is what an engine knows of one.
type image struct {
	Config struct {
		User                  string
		Entrypoint, Cmd, Env  []string
		ExposedPorts, Volumes map[string]struct{}
		Labels                map[string]string
	}
	Architecture, Os string
}

// inspect asks the engine for an image, without what differs from commit to commit.
func (m *machine) inspect(name string) image {
	m.w.t.Helper()
	var all []image
	must(m.w.t, json.Unmarshal([]byte(m.podman("image", "inspect", name)), &all))
	for _, label := range []string{"version", "revision"} {
		label = "org.opencontainers.image." + label
		if all[0].Config.Labels[label] == "" {
			m.w.t.Errorf("%s has no label %s", name, label)
		}
		delete(all[0].Config.Labels, label)
	}
	return all[0]
}

func set(names ...string) map[string]struct{} {
	m := map[string]struct{}{}
	for _, n := range names {
		m[n] = struct{}{}
	}
	return m
}

// stopped stops a container by SIGTERM, at which its program has to end well.
func (m *machine) stopped(name string) {
	m.w.t.Helper()
	m.podman("stop", "--time", "20", name)
	if said := strings.TrimSpace(m.podman("inspect", "--format", "{{.State.ExitCode}}", name)); said != "0" {
		m.w.t.Errorf("container %s ends with status %s:\n%s", name, said, last(m.podman("logs", name), 2000))
	}
}

// in runs a program in a container; its name is the first of args.
func (m *machine) in(args ...string) string {
	m.w.t.Helper()
	return m.podman(append([]string{"exec"}, args...)...)
}

// contained asks the agent in a container for its status until that is ok.
func (m *machine) contained(name, what string, ok func(*warrennet.Status) bool) *warrennet.Status {
	m.w.t.Helper()
	var s warrennet.Status
	m.until(what+" in "+name, func() (bool, string) {
		out, err := m.Command(m.w.ctx, "podman", "exec", name, "warren", "status", "--json").Output()
		s = warrennet.Status{}
		return err == nil && json.Unmarshal(out, &s) == nil && ok(&s), string(out)
	})
	return &s
}

func connected(s *warrennet.Status) bool { return s.State == "up" && s.Coordinator.Connected }

// docs is a page.
func docs(t *testing.T, page string) string {
	t.Helper()
	return read(t, "../../../docs/"+page)
}

// read gives a file.
func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

// typed is the one command of a page that begins so, with its lines, after the indentation of its block.
func typed(t *testing.T, page, begin string) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^    (`+regexp.QuoteMeta(begin)+`(?:.*\\\n)*.*)$`).FindAllStringSubmatch(docs(t, page), -1)
	if len(found) != 1 {
		t.Fatalf("%s has %d commands that begin with %q", page, len(found), begin)
	}
	return found[0][1]
}

// replace puts in what words of a page stand for, each of which has to be there.
func replace(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("there is no %q in %s", pairs[i], text)
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// serveImage has the coordinator's image serve, by the line of docs/install.md, and waits until a host outside can call it.
func (m *machine) serveImage(name string, outside *lab.Host) {
	m.w.t.Helper()
	line := replace(m.w.t, typed(m.w.t, "install.md", "podman run --detach --name coordinator"), "IMAGE", name, "vpn.example", m.Place.Public.String())
	m.must("sh", "-c", line)
	m.until("serving from a container", func() (bool, string) {
		err := healthy(m.w.ctx, outside, m.Place.Public.String()+":443")
		if err == nil {
			return true, ""
		}
		out, _ := m.Command(m.w.ctx, "podman", "logs", "coordinator").CombinedOutput()
		return false, err.Error() + ": " + last(string(out), 1000)
	})
}

// TestContainers: both images are what docs/install.md says. The coordinator's serves as an ordinary user and keeps its network in its volume; agents join by
// their environment, one without any privilege and one, by the compose file of docs/unattended.md, with an interface, and reach each other. All end well when they are stopped.
func TestContainers(t *testing.T) {
	debian := root(t, Tooled())
	w := newWorld(t)
	hub, box := w.with(debian, "hub", nil), w.with(debian, "box", natmodel.Easy())
	must(t, hub.Boot(w.ctx))
	must(t, box.Boot(w.ctx))
	coordinator, agent := hub.load("warren-coordinator"), box.load("warren")

	want := image{Architecture: "amd64", Os: "linux"}
	want.Config.User, want.Config.Entrypoint, want.Config.Cmd = "65532", []string{"/usr/bin/warren-coordinator"}, []string{"serve"}
	want.Config.Env = []string{"PATH=/usr/bin", "XDG_STATE_HOME=/var/lib"}
	want.Config.ExposedPorts, want.Config.Volumes = set("443/tcp", "3478/udp", "3479/udp"), set("/var/lib/warren-coordinator")
	want.Config.Labels = map[string]string{"org.opencontainers.image.title": "warren-coordinator", "org.opencontainers.image.licenses": "BSD-3-Clause"}
	if diff := cmp.Diff(want, hub.inspect(coordinator)); diff != "" {
		t.Errorf("image of the coordinator (-want +got):\n%s", diff)
	}
	want = image{Architecture: "amd64", Os: "linux"}
	want.Config.Entrypoint, want.Config.Cmd, want.Config.Env = []string{"/usr/bin/warren"}, []string{"daemon"}, []string{"PATH=/usr/bin"}
	want.Config.Volumes = set("/var/lib/warren")
	want.Config.Labels = map[string]string{"org.opencontainers.image.title": "warren", "org.opencontainers.image.licenses": "BSD-3-Clause"}
	if diff := cmp.Diff(want, box.inspect(agent)); diff != "" {
		t.Errorf("image of the agent (-want +got):\n%s", diff)
	}

	outside, err := w.Lab.Host("outside", lab.None)
	must(t, err)
	hub.serveImage(coordinator, outside)
	pid := strings.TrimSpace(hub.podman("inspect", "--format", "{{.State.Pid}}", "coordinator"))
	if uids := hub.must("grep", "^Uid:", "/proc/"+pid+"/status"); strings.Fields(uids)[1] != "65532" {
		t.Errorf("the coordinator runs as %s", uids)
	}
	token := func() string {
		t.Helper()
		out, err := hub.Command(w.ctx, "sh", "-c", typed(t, "install.md", "podman exec coordinator")).Output()
		must(t, err)
		return strings.TrimSpace(string(out))
	}

	// A web server for both, of the one program that there is.
	box.must("sh", "-ec", `mkdir -p /srv/web/bin /srv/web/www && cp /bin/busybox /srv/web/bin/ && echo "the web page" >/srv/web/www/index.html
tar -C /srv/web -c . | podman import --quiet --change 'CMD ["/bin/busybox","httpd","-f","-p","8080","-h","/www"]' - registry.example/web`)

	line := replace(t, typed(t, "userspace.md", "podman run --detach"), "IMAGE", "--name plain --env WARREN_TOKEN="+token()+" --env WARREN_NAME=plain "+agent)
	box.must("sh", "-c", line)
	box.podman("run", "--detach", "--name", "plainweb", "--network", "container:plain", "registry.example/web")
	s := box.contained("plain", "up", connected)
	if s.Self.Name != "plain" {
		t.Errorf("it is called %s", s.Self.Name)
	}
	pid = strings.TrimSpace(box.podman("inspect", "--format", "{{.State.Pid}}", "plain"))
	if caps := box.must("grep", "-E", "^Cap(Prm|Eff|Bnd):", "/proc/"+pid+"/status"); strings.Trim(regexp.MustCompile(`Cap...:`).ReplaceAllString(caps, ""), "0\t\n ") != "" {
		t.Errorf("without any privilege it has %s", caps)
	}

	box.podman("tag", agent, "registry.example/warren")
	must(t, box.Write("/srv/box/compose.yaml", fenced(t, "unattended.md", "# box: compose.yaml")))
	must(t, box.WriteFile("/srv/box/warren.token", []byte(token()+"\n"), 0o600))
	compose := func(args string) {
		t.Helper()
		t.Logf("podman-compose %s says: %s", args, box.must("sh", "-c", "cd /srv/box && podman-compose "+args))
	}
	// The one of Debian 12 does not know "network_mode: service:…", so the web server comes without it.
	up := func() {
		t.Helper()
		compose("up --detach warren")
		box.podman("run", "--detach", "--name", "box_web_1", "--network", "container:box_warren_1", "registry.example/web")
	}
	up()
	s = box.contained("box_warren_1", "up", connected)
	if s.Self.Name != "box" {
		t.Errorf("it is called %s", s.Self.Name)
	}

	box.in("box_warren_1", "warren", "ping", "plain")
	box.in("plain", "warren", "ping", "box")
	fetch := func() string {
		return box.in("box_web_1", "/bin/busybox", "wget", "-q", "-O", "-", "http://"+box.contained("plain", "up", connected).Self.Addresses[0]+":8080/")
	}
	if page := fetch(); page != "the web page\n" {
		t.Errorf("web says %q", page)
	}

	devices := hub.in("coordinator", "warren-coordinator", "device", "list", "--json")
	hub.stopped("coordinator")
	hub.podman("rm", "coordinator")
	box.stopped("plain")
	box.podman("start", "plain")
	box.podman("restart", "--time", "1", "plainweb") // in the network that plain has now
	box.podman("rm", "--force", "box_web_1")
	compose("down")
	hub.serveImage(coordinator, outside)
	up()
	if again := box.contained("box_warren_1", "up again", connected); again.Self.Addresses[0] != s.Self.Addresses[0] {
		t.Errorf("a new container with the same volume is %s, before %s", again.Self.Addresses, s.Self.Addresses)
	}
	if page := fetch(); page != "the web page\n" {
		t.Errorf("after all were made anew web says %q", page)
	}
	if again := hub.in("coordinator", "warren-coordinator", "device", "list", "--json"); strings.Count(again, `"name"`) != strings.Count(devices, `"name"`) {
		t.Errorf("devices before %s and after %s", devices, again)
	}
	box.stopped("box_warren_1")
	hub.stopped("coordinator")
}
