package system

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"warren/internal/lab/warrennet"
)

// manager plays systemd for one daemon: it keeps files over a restart, and is asked what it is about to do.
type manager struct {
	d    *warrennet.Device
	dir  string
	conn *net.UnixConn

	mu     sync.Mutex
	kept   map[string]*os.File
	ready  chan struct{} // gets a token for each READY=1
	closed sync.WaitGroup
}

func newManager(t *testing.T, d *warrennet.Device) *manager {
	t.Helper()
	m := &manager{d: d, dir: t.TempDir(), kept: map[string]*os.File{}, ready: make(chan struct{}, 8)}
	var err error
	m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(m.dir, "notify"), Net: "unixgram"})
	must(t, err)
	m.closed.Go(m.listen)
	t.Cleanup(func() {
		m.conn.Close()
		m.closed.Wait()
		m.forget("")
	})
	return m
}

// listen takes what the daemon says (sd_notify(3)).
func (m *manager) listen() {
	b, oob := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4*4))
	for {
		n, oobn, _, _, err := m.conn.ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		var files []*os.File
		if messages, err := syscall.ParseSocketControlMessage(oob[:oobn]); err == nil {
			for _, message := range messages {
				fds, _ := syscall.ParseUnixRights(&message)
				for _, fd := range fds {
					files = append(files, os.NewFile(uintptr(fd), "kept"))
				}
			}
		}
		m.hear(string(b[:n]), files)
	}
}

func (m *manager) hear(said string, files []*os.File) {
	words := map[string]string{}
	for line := range strings.Lines(said) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		words[name] = value
	}
	switch {
	case words["FDSTORE"] == "1" && len(files) == 1:
		m.forget(words["FDNAME"])
		m.mu.Lock()
		m.kept[words["FDNAME"]] = files[0]
		m.mu.Unlock()
		return
	case words["FDSTOREREMOVE"] == "1":
		m.forget(words["FDNAME"])
	case words["READY"] == "1":
		m.ready <- struct{}{}
	}
	for _, f := range files { // BARRIER=1 waits for that
		f.Close()
	}
}

// forget closes a file, or all of them.
func (m *manager) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n, f := range m.kept {
		if name == "" || n == name {
			f.Close()
			delete(m.kept, n)
		}
	}
}

func (m *manager) names() (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := range m.kept {
		out = append(out, n)
	}
	return out
}

// start starts the daemon with what is kept, and waits until it serves.
func (m *manager) start(t *testing.T, ctx context.Context) {
	t.Helper()
	args := append([]string{"-c", `LISTEN_PID=$$ exec "$0" daemon "$@"`, filepath.Join(bin, "warren")}, m.d.Common()...)
	cmd := m.d.Command(context.Background(), "/bin/sh", args...)
	var names []string
	m.mu.Lock()
	for n, f := range m.kept {
		names, cmd.ExtraFiles = append(names, n), append(cmd.ExtraFiles, f)
	}
	m.mu.Unlock()
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+filepath.Join(m.dir, "notify"), "WARREN_UNIT=warren.service", "PATH="+m.dir+":"+os.Getenv("PATH"),
		"LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	p, err := warrennet.StartCommand(cmd)
	must(t, err)
	m.d.Use(p)
	select {
	case <-m.ready:
	case <-ctx.Done():
		t.Fatalf("not ready:\n%s", p.Log())
	}
}

// end tells the daemon to end, for a job of this type.
func (m *manager) end(t *testing.T, job string) {
	t.Helper()
	script := "#!/bin/sh\necho 7 warren.service " + job + " running\n"
	must(t, os.WriteFile(filepath.Join(m.dir, "systemctl"), []byte(script), 0o755))
	must(t, m.d.Daemon().Signal(syscall.SIGTERM))
}
